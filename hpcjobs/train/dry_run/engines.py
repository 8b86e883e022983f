"""The ways to train that a dry run knows, behind one shape: DeepSpeed, DDP and plain torch."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from hpcjobs.train.dry_run.batch import Batch
from hpcjobs.train.dry_run.request import Request

_CLIP_NORM = 1.0


class Engine(Protocol):
    """One training step in three calls."""

    def forward(self, batch: Batch) -> Tensor:
        """Returns the loss of a micro batch."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a micro batch."""

    def step(self, is_last: bool) -> None:
        """Ends a micro batch; after the last one the weights are updated."""


def build_engine(model: nn.Module, request: Request) -> Engine:
    """Wraps a model whose trainable parameters are marked."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, foreach=request.foreach)
    if request.stage is not None:
        return _DeepSpeed(model, optimizer, deepspeed_config(request), request.loss)
    return _Plain(model, optimizer, request)


def deepspeed_config(request: Request) -> dict[str, Any]:
    """DeepSpeed's own defaults, but for what the request names."""
    zero: dict[str, Any] = {"stage": request.stage}
    if request.reduce_bucket is not None:
        zero["reduce_bucket_size"] = request.reduce_bucket
    if request.overlap_comm is not None:
        zero["overlap_comm"] = request.overlap_comm
    precision = (
        {}
        if request.precision == "fp32"
        else {
            # The overflow check reads values, which a fake tensor does not have.
            "bf16": {"enabled": True, "check_grad_overflow": False}
        }
    )
    return {
        "train_micro_batch_size_per_gpu": request.micro_batch,
        "gradient_accumulation_steps": micro_batches(request),
        "gradient_clipping": _CLIP_NORM,
        "steps_per_print": 2**31 - 1,
        "zero_optimization": zero,
        **precision,
    }


def micro_batches(request: Request) -> int:
    """Micro batches that are traced: the second shows what accumulation costs, more repeat it."""
    return min(2, request.grad_accum)


def _loss(outputs: Any, labels: Tensor | None, kind: str) -> Tensor:  # noqa: ANN401
    """The loss of a model's outputs: MGM's is the output itself, transformers' an attribute."""
    if isinstance(outputs, Tensor):
        return outputs
    if kind == "fp32" or labels is None:
        loss: Tensor = outputs.loss
        return loss
    logits_BLV: Tensor = outputs.logits
    return nn.functional.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _inputs(batch: Batch, kind: str) -> tuple[Batch, Tensor | None]:
    """Without labels transformers computes no loss, and nothing is upcast."""
    if kind == "fp32" or "labels" not in batch:
        return batch, None
    rest = dict(batch)
    return rest, rest.pop("labels")


class _DeepSpeed:
    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], loss: str
    ) -> None:
        import deepspeed

        self._loss = loss
        self._engine: Any = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )[0]

    def forward(self, batch: Batch) -> Tensor:
        inputs, labels = _inputs(batch, self._loss)
        return _loss(self._engine(**inputs), labels, self._loss)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def step(self, is_last: bool) -> None:
        del is_last  # the engine counts itself
        self._engine.step()


class _Plain:
    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, request: Request
    ) -> None:
        self._loss = request.loss
        self._optimizer = optimizer
        self._share = micro_batches(request)
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._model = _ddp(model) if request.sharding == "ddp" else model

    def forward(self, batch: Batch) -> Tensor:
        inputs, labels = _inputs(batch, self._loss)
        return _loss(self._model(**inputs), labels, self._loss)

    def backward(self, loss: Tensor) -> None:
        (loss / self._share).backward()

    def step(self, is_last: bool) -> None:
        if not is_last:
            return
        nn.utils.clip_grad_norm_(self._trainable, _CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()


def _ddp(model: nn.Module) -> nn.Module:
    """DDP with its buckets; the ranks neither compare parameters nor exchange values."""
    wrapped = nn.parallel.DistributedDataParallel(
        model, init_sync=False, find_unused_parameters=True
    )
    wrapped.register_comm_hook(None, _keep_bucket)
    return wrapped


def _keep_bucket(
    _state: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Takes the place of the all-reduce, which works in place."""
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done
