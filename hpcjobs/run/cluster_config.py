"""Where a run executes, and the words that Slurm is given for it."""

import re
from dataclasses import dataclass, field
from typing import Literal

from hpcjobs.run.checks import above, at_least, one_line
from hpcjobs.run.errors import ConfigError

_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)

# Options that the renderer writes itself, or that would change what the broker relies on.
OWN_OPTIONS = frozenset(
    "job-name nodes ntasks ntasks-per-node ntasks-per-gpu gpus gpus-per-node cpus-per-task mem "
    "time partition account qos constraint array output error open-mode requeue no-requeue "
    "signal export wrap parsable".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A Slurm partition with its limits, or this machine."""

    kind: Literal["auto", "slurm", "local", "allocation"] = "auto"
    """``auto`` is Slurm where this machine belongs to a cluster, else this machine;
    ``allocation`` is the Slurm allocation that the command is typed in."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | int = "1:00:00"
    """Wall-clock limit in any of Slurm's forms, as text: H:M:S or D-H. Where the partition allows
    less, the run goes on in several jobs that last no longer than this together."""
    mem: str | None = None
    """Memory a node, such as 64G; null leaves it to the partition."""
    cpus_per_node: int = 8
    gpu_type: str | None = None
    """Slurm's name of the card (``--gpus-per-node=TYPE:N``); also used to check the precision."""
    signal_lead_s: int = 120
    """Seconds before the time limit at which the run saves and asks to be requeued."""
    failures_per_1000_node_days: float = 6.5
    """How often a node fails, for ``train.checkpoint.every_s=auto`` and the planner; the default is
    that of Meta's RSC-1 (HPCA 2025), other clusters report 2 to 21."""
    requeue: bool = True
    """Whether a stopped job may be started again under its id."""
    follow_up: bool = True
    """Whether a stopped job that cannot be requeued submits one that goes on after it."""
    failures_max: int = 3
    """Crashes and hangs in a row without a new checkpoint, after which the run stops."""
    interruptions_max: int = 5
    """Preemptions, time limits and lost nodes in a row without a new checkpoint, after which the
    run stops; they never count as failures."""
    setup: tuple[str, ...] = ()
    """Shell lines before the start, such as ``module load cuda/12.4``; run as they are."""
    sbatch: dict[str, str | int | bool | None] = field(default_factory=dict)
    """Any further sbatch option by its long name; true writes a bare flag."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables for the training; never secrets: these are written into the run directory."""
    env_file: str | None = None
    """A file of NAME=VALUE lines, mode 0600, read on the node at use: the place for secrets."""
    python: str | None = None
    """The interpreter on the nodes; null is the one that submits."""
    trusted: tuple[str, ...] = ()
    """Users and @groups that may be able to write above the run directory."""

    def __post_init__(self) -> None:
        """Checks times, names and that nothing written here is a secret."""
        for name in ("partition", "account", "qos", "constraint", "mem", "gpu_type", "env_file"):
            one_line(name, getattr(self, name))
        at_least("cpus_per_node", self.cpus_per_node, 1)
        at_least("failures_max", self.failures_max, 1)
        at_least("interruptions_max", self.interruptions_max, 1)
        above("signal_lead_s", self.signal_lead_s, 0)
        at_least("failures_per_1000_node_days", self.failures_per_1000_node_days, 0)
        if isinstance(self.time, int):
            raise ConfigError(
                f"time must be text such as '2:00:00', not the number {self.time}: "
                f"YAML reads an unquoted 2:00:00 as 7200"
            )
        if self.signal_lead_s >= self.time_s:
            raise ConfigError(
                f"signal_lead_s ({self.signal_lead_s} s) must be shorter than the time limit "
                f"({self.time}): raise cluster.time or lower cluster.signal_lead_s"
            )
        for option, value in self.sbatch.items():
            _check_option(option, value)
        for name, text in self.env.items():
            _check_variable(name, text)

    @property
    def time_s(self) -> int:
        """The wall-clock limit in seconds."""
        return slurm_time_s(str(self.time))

    @property
    def process_env(self) -> dict[str, str]:
        """Variables of every training process: ``env``, and an allocator that can grow a segment.

        Samples differ in length, and fixed segments would fragment: the planner counts on this.
        """
        if any(name in self.env for name in ALLOCATOR_VARIABLES):
            return dict(self.env)
        return {**self.env, ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}


def slurm_time_s(text: str) -> int:
    """Reads a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S (sbatch(1), ``--time``).

    Raises:
        ConfigError: anything else, or zero.

    >>> slurm_time_s("90"), slurm_time_s("1:30:00"), slurm_time_s("1-12")
    (5400, 5400, 129600)
    """
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"time {text!r} is none of M, M:S, H:M:S, D-H, D-H:M, D-H:M:S")
    days, d_hours, d_minutes, d_seconds, first, second, third = (
        None if group is None else int(group) for group in match.groups()
    )
    if days is not None:
        total = ((days * 24 + (d_hours or 0)) * 60 + (d_minutes or 0)) * 60 + (d_seconds or 0)
    elif third is not None:
        total = ((first or 0) * 60 + (second or 0)) * 60 + third
    else:
        total = (first or 0) * 60 + (second or 0)
    if total <= 0:
        raise ConfigError(f"time {text!r} is zero; a run needs a limit")
    return total


def _check_option(option: str, value: str | int | bool | None) -> None:
    if not _OPTION.fullmatch(option):
        raise ConfigError(f"sbatch.{option!r} is no long option of sbatch; write it without dashes")
    if option in OWN_OPTIONS:
        raise ConfigError(f"sbatch.{option} is written by hpcjobs: use its own key instead")
    if isinstance(value, str):
        one_line(f"sbatch.{option}", value)


def _check_variable(name: str, text: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ConfigError(f"env.{name!r} is no variable name")
    if _SECRET.search(name):
        raise ConfigError(
            f"env.{name} looks like a secret, and the configuration is written to disk: "
            f"put it into a file of mode 0600 and set cluster.env_file"
        )
    if "\x00" in text:
        raise ConfigError(f"env.{name} holds a NUL character")
