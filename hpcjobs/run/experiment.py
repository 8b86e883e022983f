"""One validated experiment: what Hydra composed, as frozen values."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from hpcjobs.run.budget_config import Budget
from hpcjobs.run.checks import above, at_least, below, one_line, run_name
from hpcjobs.run.cluster_config import Cluster
from hpcjobs.run.container_config import Container
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.health_config import HealthSettings
from hpcjobs.run.model_config import Model
from hpcjobs.run.plan_config import Offload, PlanSettings
from hpcjobs.run.watch_config import WatchSettings

# Cards before Ampere have no bfloat16 units (CUDA C programming guide, arithmetic throughput).
_NO_BF16 = re.compile(r"k80|p4|p40|p100|v100|t4|rtx_?20\d0|titan|gtx.*|quadro.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Samples in the LLaVA/MGM JSON format, and the pictures that they name."""

    root: str
    """Directory that holds everything below."""
    builtin: Literal["demo"] | None = None
    """``demo`` makes the data in ``root`` before the first attempt."""
    train: str = "train.json"
    heldout: str | None = "heldout.json"
    pictures: str = "."
    """Directory that the samples' picture paths are relative to; they cannot leave it."""
    check: Literal["decode", "exists"] = "decode"
    """How closely every picture is looked at before the first step."""
    bad_samples_max: int = 0
    """More broken samples than this stop the run before the first step."""
    workers: int = 2
    """Loader processes a card."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        at_least("bad_samples_max", self.bad_samples_max, 0)
        at_least("workers", self.workers, 0)
        for name in ("root", "train", "heldout", "pictures"):
            one_line(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What is trained: LoRA adapters, everything but the towers, or the projector alone."""

    kind: Literal["lora", "full", "projector"]
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.1
    targets: str = r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
    """Full-match pattern of the wrapped modules, so that no vision tower is wrapped by accident."""
    train_projector: bool = True
    start_from: str | None = None
    """A result, or an adapter as PEFT writes it, whose values the first step starts from."""

    def __post_init__(self) -> None:
        """Checks ranges and that the pattern compiles."""
        at_least("rank", self.rank, 1)
        above("alpha", self.alpha, 0)
        at_least("dropout", self.dropout, 0)
        below("dropout", self.dropout, 1)
        one_line("start_from", self.start_from)
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigError(f"targets is no regular expression: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How the cards share the work: DeepSpeed ZeRO data parallelism."""

    zero_stage: Literal[0, 1, 2, 3]
    offload_optimizer: Literal["none", "cpu"] = "none"
    """``cpu`` keeps the optimizer's states in host memory and steps there; ZeRO 1 to 3."""
    offload_params: Literal["none", "cpu"] = "none"
    """``cpu`` keeps the weights in host memory and fetches them layer by layer; ZeRO 3."""
    nodes: int = 1
    """Nodes, or the most of them: ``nodes=2-4`` sets ``min_nodes=2 nodes=4``."""
    min_nodes: int | None = None
    """The fewest nodes that Slurm may start the run with; null wants all of ``nodes``. Each start
    uses as many as divide the global batch, and goes on with the same batches and samples."""
    gpus_per_node: int = 1
    """Cards a node, one process each; on the CPU the number of processes."""
    micro_batch: int = 1
    """Samples a card takes through one forward pass."""
    grad_accum: int | None = None
    """Micro batches an optimizer step; null derives it from the global batch."""
    device: Literal["cuda", "cpu", "auto"] = "cuda"
    """``auto`` takes the cards that torch sees, else the CPU; ``cuda`` refuses to go without."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("nodes", "min_nodes", "gpus_per_node", "micro_batch", "grad_accum"):
            at_least(name, getattr(self, name), 1)
        self._check_nodes()
        self._check_offload()

    def _check_nodes(self) -> None:
        if self.min_nodes is None:
            return
        if self.min_nodes > self.nodes:
            raise ConfigError(f"min_nodes ({self.min_nodes}) is above nodes ({self.nodes})")
        if self.grad_accum is not None:
            raise ConfigError("grad_accum follows from the nodes that are there: write null")

    def _check_offload(self) -> None:
        """What DeepSpeed can move, and what the planner can plan: weights go after the states."""
        if self.offload_optimizer == "cpu" and self.zero_stage == 0:
            raise ConfigError("offload_optimizer=cpu needs ZeRO: write parallel=zero1, 2 or 3")
        if self.offload_params == "cpu" and self.zero_stage != 3:
            raise ConfigError("offload_params=cpu needs ZeRO-3: write parallel=zero3")
        if self.offload_params == "cpu" and self.offload_optimizer == "none":
            raise ConfigError(
                "offload_params=cpu goes with offload_optimizer=cpu, which saves more a byte "
                "moved: write parallel.offload_optimizer=cpu too"
            )

    @property
    def offload(self) -> Offload:
        """What lies in host memory, in the planner's words."""
        if self.offload_params == "cpu":
            return "optimizer_params"
        return "none" if self.offload_optimizer == "none" else "optimizer"

    @property
    def node_words(self) -> str:
        """The nodes as sbatch takes them: ``4``, or ``2-4``."""
        return str(self.nodes) if self.min_nodes is None else f"{self.min_nodes}-{self.nodes}"

    @property
    def words(self) -> str:
        """The stage, and what lies in host memory."""
        places = {"none": "", "optimizer": "states", "optimizer_params": "states and weights"}
        where = places[self.offload]
        return f"ZeRO-{self.zero_stage}" + (f" with {where} in host memory" if where else "")

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """When the run saves, and what it keeps; docs/checkpoints.md."""

    every_steps: int | None = None
    """Steps between saves; null goes by the time alone."""
    every_s: float | Literal["auto"] | None = "auto"
    """Seconds between saves. ``auto`` takes the interval that loses least, half an hour at most."""
    keep: int = 5
    """The newest checkpoints that stay; older ones are deleted."""
    keep_best: int = 0
    """Also stays: the nearest checkpoint to each of so many of the lowest held-out losses."""
    asynchronous: bool = True
    """Writes in the background, while the training goes on with the next steps."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        at_least("every_steps", self.every_steps, 1)
        if self.every_s != "auto":
            above("every_s", self.every_s, 0)
        at_least("keep", self.keep, 1)
        at_least("keep_best", self.keep_best, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """The optimisation: AdamW, linear warm-up, then cosine."""

    global_batch: int
    """Samples an optimizer step, over all cards and micro batches."""
    lr: float
    epochs: float | None = None
    steps: int | None = None
    seed: int = 42
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    grad_checkpointing: bool = True
    log_every_steps: int = 1
    heldout_every_steps: int | None = None
    """Steps between measurements on the held-out samples; null measures before and after."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    export: Literal["last", "best"] = "last"
    """``best`` exports the checkpoint nearest to the lowest held-out loss."""

    def __post_init__(self) -> None:
        """Checks ranges, and that exactly one of epochs and steps says when to stop."""
        for name in ("global_batch", "steps", "log_every_steps", "heldout_every_steps"):
            at_least(name, getattr(self, name), 1)
        for name in ("lr", "epochs", "max_grad_norm"):
            above(name, getattr(self, name), 0)
        at_least("seed", self.seed, 0)
        below("seed", self.seed, 2**63)  # what torch takes
        at_least("weight_decay", self.weight_decay, 0)
        for name in ("beta1", "beta2", "warmup_ratio"):
            at_least(name, getattr(self, name), 0)
            below(name, getattr(self, name), 1)
        if self.export == "best" and self.checkpoint.keep_best == 0:
            raise ConfigError(
                "export=best needs the checkpoint: write train.checkpoint.keep_best=1"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("set exactly one of epochs and steps, and the other to null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes and where."""

    name: str
    model: Model
    data: Data
    method: Method
    parallel: Parallel
    train: Train
    cluster: Cluster = field(default_factory=Cluster)
    container: Container = field(default_factory=Container)
    health: HealthSettings = field(default_factory=HealthSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    planner: PlanSettings = field(default_factory=PlanSettings)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        """Checks what no single group can see."""
        run_name(self.name)
        self._check_batch()
        self._check_precision()

    @property
    def grad_accum(self) -> int:
        """Micro batches of one card in an optimizer step."""
        return self.parallel.grad_accum or self.train.global_batch // self._micro_global

    @property
    def _micro_global(self) -> int:
        return self.parallel.micro_batch * self.parallel.world_size

    @property
    def batch_units(self) -> int:
        """Micro batches in a global batch, over all cards."""
        return self.train.global_batch // self.parallel.micro_batch

    def on(self, world_size: int) -> "Experiment":
        """The experiment with as many processes as were started, and the same global batch.

        Raises:
            ConfigError: they do not divide the batch.
        """
        if world_size == self.parallel.world_size:
            return self
        nodes = max(1, world_size // self.parallel.gpus_per_node)
        return replace(self, parallel=replace(self.parallel, nodes=nodes, min_nodes=None))

    def _check_elastic(self) -> None:
        """Refuses where none of the node counts that Slurm may give shares the batch evenly."""
        parallel, batch = self.parallel, self.train.global_batch
        counts = range(parallel.min_nodes or 1, parallel.nodes + 1)
        steps = [parallel.micro_batch * parallel.gpus_per_node * nodes for nodes in counts]
        if not any(batch % step == 0 for step in steps):
            nearest = max(1, round(batch / steps[-1])) * steps[-1]
            raise ConfigError(
                f"none of {counts[0]} to {counts[-1]} nodes of {parallel.gpus_per_node} processes "
                f"divides train.global_batch={batch} into micro batches of "
                f"{parallel.micro_batch}: write train.global_batch={nearest}"
            )

    def _check_batch(self) -> None:
        if self.parallel.min_nodes is not None:
            self._check_elastic()
            return
        product = self._micro_global * max(1, self.grad_accum)
        if product != self.train.global_batch:
            raise ConfigError(
                f"micro batch {self.parallel.micro_batch} x accumulation "
                f"{max(1, self.grad_accum)} x world size {self.parallel.world_size} = {product}, "
                f"but train.global_batch is "
                f"{self.train.global_batch}: {self._batch_remedy()}"
            )

    def _batch_remedy(self) -> str:
        nearest = max(1, round(self.train.global_batch / self._micro_global)) * self._micro_global
        if self.train.global_batch % self._micro_global == 0:
            return f"write parallel.grad_accum={self.train.global_batch // self._micro_global}"
        return f"write train.global_batch={nearest}, or change parallel.micro_batch or the cards"

    def _check_precision(self) -> None:
        card = self.cluster.gpu_type
        if self.train.precision == "bf16" and card and _NO_BF16.fullmatch(card):
            raise ConfigError(f"{card} has no bf16: write train.precision=fp16")
        if self.train.precision == "fp16" and self.parallel.device == "cpu":
            raise ConfigError("fp16 does not train on a CPU: write train.precision=bf16 or fp32")
