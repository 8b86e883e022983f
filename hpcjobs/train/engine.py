"""The DeepSpeed engine around model and optimizer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hpcjobs.run.experiment import Experiment, Train
from hpcjobs.train.deepspeed_config import deepspeed_config
from hpcjobs.train.schedule import lr_factor


def build_engine(model: nn.Module, experiment: Experiment, steps: int) -> Any:  # noqa: ANN401
    """Wraps a model whose trainable parameters are marked into a DeepSpeed engine.

    The optimizer is torch's AdamW: DeepSpeed's fused one would be compiled at the start.

    Args:
        model: weights of the precision that the run computes in.
        experiment: the run.
        steps: optimizer steps of the whole run, for the schedule.
    """
    import deepspeed

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(trainable, experiment.train)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda _: _scheduler(optimizer, experiment.train, steps),
        config=deepspeed_config(experiment),
        dist_init_required=False,
    )
    # At stage 0 in two-byte precision DeepSpeed makes the optimizer's states by a step without
    # gradients. Adam counts it, and its first real steps would come out a quarter too small.
    for state in optimizer.state.values():
        state["step"].zero_()
    return engine


def plain_gradient_norm(engine: Any) -> float | None:  # noqa: ANN401
    """The norm of all gradients before clipping at stage 0; None at the other stages.

    DeepSpeed keeps none there in fp32, and that of the scaled gradients in fp16. Call it between
    the last ``backward`` and the ``step`` that updates; before other steps it is None too.
    """
    if engine.zero_optimization() or not engine.is_gradient_accumulation_boundary():
        return None
    gradients = (p.grad for p in engine.module.parameters() if p.grad is not None)
    norms = [gradient.float().norm() for gradient in gradients]
    scale = float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 1.0
    return float(torch.stack(norms).norm()) / scale


def compute_dtype(train: Train) -> torch.dtype:
    """The precision of weights and activations."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[train.precision]


def _optimizer(trainable: Iterable[nn.Parameter], train: Train) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        trainable,
        lr=0.0,  # until the scheduler comes: the step without gradients must not decay weights
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
    )


def _scheduler(
    optimizer: torch.optim.Optimizer, train: Train, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    def factor(step: int) -> float:
        return lr_factor(step, steps, train.warmup_ratio, train.schedule)

    for group in optimizer.param_groups:
        group["lr"] = train.lr

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
