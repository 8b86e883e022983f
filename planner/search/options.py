"""Choices that are words: sharding, offload, checkpointing and loss."""

from dataclasses import dataclass, replace
from itertools import product

from msgspec import structs

from planner.plan import Ask
from planner.workload import GradCkpt, Workload

STAGES = ("none", "ddp", "zero0", "zero1", "zero2", "fsdp_grad_op", "zero3", "fsdp")
"""From nothing sharded to everything sharded: ties go to what comes first."""
OFFLOADS = ("none", "optimizer", "optimizer_params")
_CAN_OFFLOAD = {
    "none": STAGES,
    "optimizer": ("zero1", "zero2", "zero3", "fsdp"),
    "optimizer_params": ("zero3", "fsdp"),
}
_NAMES = {"none": "one process", "ddp": "DDP", "fsdp": "FSDP", "fsdp_grad_op": "FSDP grad-op"}


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of each."""

    sharding: str
    offload: str
    grad_ckpt: bool
    loss: str

    @property
    def is_possible(self) -> bool:
        """Whether DeepSpeed and FSDP offload that much at this sharding."""
        return self.sharding in _CAN_OFFLOAD[self.offload]

    @property
    def is_one_process(self) -> bool:
        """Whether it cannot have a second card."""
        return self.sharding == "none"

    def applied(self, workload: Workload) -> Workload:
        """The workload with these choices."""
        both = GradCkpt(language_model=self.grad_ckpt, towers=self.grad_ckpt)
        return structs.replace(
            workload,
            sharding=self.sharding,
            offload=self.offload,
            grad_ckpt=both,
            loss=self.loss,
        )

    def next_stage(self, step: int) -> "Option | None":
        """The ZeRO stage above or below; None at the ends and outside ZeRO."""
        stages = ("zero0", "zero1", "zero2", "zero3")
        if self.sharding not in stages:
            return None
        place = stages.index(self.sharding) + step
        if not 0 <= place < len(stages):
            return None
        option = replace(self, sharding=stages[place])
        return option if option.is_possible else None


def options_of(ask: Ask) -> list[Option]:
    """Every possible combination of what the ask leaves open."""
    combinations = product(ask.shardings, ask.offloads, ask.grad_ckpt, ask.losses)
    options = [Option(*combination) for combination in dict.fromkeys(combinations)]
    return [option for option in options if option.is_possible]


def stage_name(sharding: str) -> str:
    """What people call it.

    >>> stage_name("zero2"), stage_name("fsdp")
    ('ZeRO-2', 'FSDP')
    """
    return _NAMES.get(sharding) or sharding.replace("zero", "ZeRO-")
