"""The numbers of the time model that no data sheet gives, each with the rows that decide it.

What is called fitted was found together by planner.time.fit on the time rows that the accuracy
figures map from benchmarks/accuracy/measured_runs.csv: ids ``foundry-*`` (every fourth),
``qwen-*``, ``swift2-*``, ``litgpt-*``, ``fsdpqlora-*``, ``lfwiki-*`` and ``llava-*``. What is
called set was chosen by hand, with those rows in sight where it says so. A family is scored with
constants that were fitted without them (benchmarks/accuracy).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constants:
    """Efficiencies and fixed costs of the time model."""

    matmul_share: float = 0.89
    """Of the best measured matrix product (gpus.csv), what those of a layer reach on average.
    Fitted; foundry on A100 and qwen from 2,048 tokens decide."""
    hopper_share: float = 0.70
    """The same on H100, H200 and GH200, whose clocks fall under load. Fitted; foundry on H100."""
    traffic: float = 0.70
    """Of the counted element-wise bytes, those that reach memory: caches keep the rest. Fitted;
    qwen and lfwiki (RMS norms, adapters) against foundry (layer norms)."""
    launch_us: float = 22.5
    """Host time of one kernel or module call, with Python and autograd. Fitted; swift2 at 512
    tokens, litgpt, qwen at 256 and 512 tokens. Machines differ by a factor of two."""
    micro_ms: float = 21.0
    """Host time of a micro step beside its kernels: trainer, loss, transfers. Fitted; litgpt,
    swift2, qwen."""
    launch_norm: float = 3.0
    """How well the card hides the host: the exponent of a p-norm. Set after qwen-001 to 030."""
    fsdp_launch_norm: float = 1.0
    """The same under FSDP: not at all, for the host waits where a gather is not done
    (limit_all_gathers). Set after litgpt-036 to 046, where times of card and host add up."""
    module_us: float = 250.0
    """Host time to fetch one module under ZeRO-3, a pass; five times for a layer under FSDP.
    Fitted; qwen-019 to 024 (full, 1.8B), litgpt-036 to 046."""
    zero3_norm: float = 1.0
    """How well DeepSpeed hides gathers: not at all. Set after qwen-070 to 075 and 043 to 045."""
    fsdp_norm: float = 1.5
    """How well FSDP and DDP hide them. Set after foundry without checkpointing."""
    dequant_nf4_bytes: float = 10.7
    """Memory traffic to unpack one NF4 weight, in bytes at the element-wise rate. Fitted; litgpt,
    fsdpqlora, lfwiki; a single perfect kernel would need 2.5."""
    dequant_gptq_bytes: float = 19.0
    """The same for GPTQ's kernels in torch. Fitted; qwen on Int4 bases."""
    bandwidth_share: float = 0.80
    """Of the memory bandwidth, what element-wise kernels reach. Set: ``traffic`` scales it."""
    ramp_us: float = 2.0
    """Start of a matrix product until all multiprocessors are busy. Set so that one of 1 GFLOP
    reaches 0.6 of an A100, as Calculon's table has it (calculon/systems/a100_80e.json)."""
    spread: float = 1.50
    """p95 over p50: the 95th percentile of measured over predicted, over all rows above, each
    predicted without its family."""


DEFAULT = Constants()
