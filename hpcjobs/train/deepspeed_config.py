"""The DeepSpeed configuration of an experiment, with nothing left to a default that hurts."""

from typing import Any

from hpcjobs.run.experiment import Experiment


def deepspeed_config(experiment: Experiment) -> dict[str, Any]:
    """Builds the dictionary for ``deepspeed.initialize``.

    ``gradient_clipping`` is always written: without it DeepSpeed falls back to a default that
    changed between versions (0.0 in 0.11, 1.0 in 0.19), and max_grad_norm is silently ignored.
    """
    train, parallel = experiment.train, experiment.parallel
    return {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": parallel.micro_batch,
        "gradient_accumulation_steps": experiment.grad_accum,
        "gradient_clipping": train.max_grad_norm,
        "steps_per_print": 2**31 - 1,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": _zero(experiment),
        **_precision(train.precision),
    }


def _zero(experiment: Experiment) -> dict[str, Any]:
    stage = experiment.parallel.zero_stage
    if stage == 0:
        return {"stage": 0}
    hidden = experiment.model.text.hidden
    return {
        "stage": stage,
        "overlap_comm": experiment.parallel.device != "cpu",
        "contiguous_gradients": True,
        "reduce_bucket_size": max(hidden * hidden, 1 << 16),
    }


def _precision(precision: str) -> dict[str, Any]:
    if precision == "bf16":
        return {"bf16": {"enabled": True}}
    if precision == "fp16":
        return {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}}
    return {}
