"""The DeepSpeed configuration of an experiment, with nothing left to a default that hurts."""

from typing import Any

from hpcjobs.run.experiment import Experiment, Parallel

_PERSISTENT = 100_000


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
        # torch's AdamW steps on the host too; DeepSpeed's own would be compiled at the start.
        "zero_force_ds_cpu_optimizer": False,
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
        **(_stage_3(hidden) if stage == 3 else {}),
        **_offload(experiment.parallel),
    }


def _stage_3(hidden: int) -> dict[str, Any]:
    """DeepSpeed's own figures, which planner/memory/zero.py counts with, written down.

    Small parameters stay whole below 100,000 elements. A model that is small all over
    would not be divided at all, so there the limit is a sixteenth of a square matrix.
    """
    return {
        "stage3_param_persistence_threshold": min(_PERSISTENT, hidden * hidden // 16),
        "stage3_prefetch_bucket_size": 50_000_000,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "sub_group_size": 1_000_000_000,
    }


def _offload(parallel: Parallel) -> dict[str, Any]:
    place = {"device": "cpu", "pin_memory": parallel.device != "cpu"}
    wanted = {
        "offload_optimizer": parallel.offload_optimizer,
        "offload_param": parallel.offload_params,
    }
    return {key: place for key, where in wanted.items() if where == "cpu"}


def _precision(precision: str) -> dict[str, Any]:
    if precision == "bf16":
        return {"bf16": {"enabled": True}}
    if precision == "fp16":
        return {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}}
    return {}
