"""The start of one training process: on the node itself, or in a container of Apptainer's kind."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.node.container_image import refuse_other_image
from hpcjobs.node.fuse_shim import fuse_protection
from hpcjobs.node.network import network_environment
from hpcjobs.run.container_plan import ContainerPlan, Mount, container_plan
from hpcjobs.run.container_program import SINGULARITY_CE, Program, detect
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import make_private_dir, write_text
from hpcjobs.run.launch import Launch

# --no-eval came with these: without it every value is run through a shell inside the container,
# which changes a password with a dollar sign and executes what stands in backquotes.
_OLDEST = {"apptainer": (1, 1), SINGULARITY_CE: (3, 10)}
_FAILED = 255
"""What Apptainer and SingularityCE exit with when they themselves fail."""
_FAILED_LINE = re.compile(r"(?:\x1b\[[0-9;]*m)*FATAL:?\s*(?:\x1b\[[0-9;]*m)*\s*(.*)")
_TAIL_BYTES = 16384
# What a training needs to know of its node and job. The rest of the node's environment stays out:
# its PYTHONPATH, LD_LIBRARY_PATH and CUDA_HOME belong to the node's own software.
_PASSED = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|PYTHONUNBUFFERED"
    r"|TOKENIZERS_PARALLELISM|USER|LOGNAME|TZ|LANG|LC_\w+|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_\w+"
    r"|CUDA_LAUNCH_BLOCKING|CUDA_MODULE_LOADING|CUDA_MPS_\w+|NVIDIA_VISIBLE_DEVICES"
    r"|(ROCR|HIP)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK"
    r"|(SLURM|HPCJOBS|NCCL|RCCL|GLOO|UCX|FI|IBV|RDMAV|MLX5|OMP|MKL|KMP|TORCH|PYTORCH|TRITON|DS)"
    r"_\w+)"
)
_CACHES = {
    "XDG_CACHE_HOME": "",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
}
"""Directories of compiled kernels, below the node-local cache: never in a home on the network."""


@dataclass(frozen=True)
class Command:
    """What to start: arguments without secrets, and the environment that holds them."""

    argv: list[str]
    env: dict[str, str]


def check_container(launch: Launch) -> None:
    """Looks whether this node can start the container as it was planned.

    Raises:
        InputError: the program, the image or a path is missing, or it is another image.
    """
    plan = plan_of(launch)
    if plan is None or plan.kind == "pyxis":  # Slurm has started that container already
        return
    _usable(detect())
    refuse_other_image(plan, Path(launch.code))
    check_mounts(plan.mounts)
    _gpu_flags(plan.gpu)


def process_command(
    launch: Launch,
    words: Sequence[str],
    environment: Mapping[str, str],
    secrets: Mapping[str, str],
    scratch: Path,
) -> Command:
    """What to start for one rank, with or without a container.

    Args:
        launch: the run's launch file.
        words: arguments of the training program.
        environment: everything that the process is to know, without the secrets.
        secrets: variables that are written into no file and no argument.
        scratch: a private directory on a disk of this node.

    Raises:
        InputError: the container program is missing or too old.
    """
    environment = {**network_environment(environment), **environment}
    plan, training = plan_of(launch), [launch.code, *words]
    if plan is None:
        return Command([launch.python, *training], {**environment, **secrets})
    if plan.kind == "pyxis":
        inside = _inside(plan, launch, environment, scratch)
        return Command([plan.python, *training], {**inside, **_own(environment), **secrets})
    program = _usable(detect())
    return _contained(program, plan, launch, training, environment, secrets, scratch)


def start_failure(launch: Launch, code: int | None, log: Path) -> str | None:
    """Why a process that left no word never began; None where the container is not to blame.

    Apptainer ends with 255 when it fails itself, and says why in a line that begins with FATAL.
    """
    if plan_of(launch) is None or code != _FAILED:
        return None
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    said = [found.group(1) for line in lines if (found := _FAILED_LINE.match(line))]
    return f"the container did not start: {said[-1]}" if said else None


def plan_of(launch: Launch) -> ContainerPlan | None:
    """The container of a run; None where it has none.

    Raises:
        ConfigError: another version wrote the launch file.
    """
    if launch.container is None:
        return None
    try:
        return container_plan(launch.container)
    except (TypeError, KeyError) as error:
        raise ConfigError("launch.json is of another version; submit the run again") from error


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Looks whether this node sees everything that is to be bound.

    Raises:
        InputError: names the first path that it does not see.
    """
    for mount in mounts:
        if not os.path.exists(mount.source):  # noqa: PTH110 - False without the right to look
            raise InputError(
                f"{os.uname().nodename} does not see {mount.source}, which the run needs inside "
                f"its container: look at the mounts of the node, or at container.binds"
            )


def mount_word(mount: Mount) -> str:
    r"""One ``--mount`` argument: comma-separated and quoted, so that any path can be said.

    >>> mount_word(Mount("/a:b,c", "/d", True))
    'type=bind,"source=/a:b,c","destination=/d",ro'
    """
    fields = (f"source={mount.source}", f"destination={mount.target}")
    quoted = ['"' + field.replace('"', '""') + '"' for field in fields]
    return ",".join(["type=bind", *quoted, *(["ro"] if mount.read_only else [])])


def _contained(
    program: Program,
    plan: ContainerPlan,
    launch: Launch,
    training: list[str],
    environment: Mapping[str, str],
    secrets: Mapping[str, str],
    scratch: Path,
) -> Command:
    home, cache = scratch / "home", _cache(plan, scratch)
    for directory in (home, scratch / "tmp", cache):
        make_private_dir(directory)
    if set(str(scratch)) & set(':,"'):
        raise InputError(
            f"{scratch} holds a colon, a comma or a quote: set TMPDIR to another place"
        )
    variables = scratch / f"environment-{environment['RANK']}"
    inside = _inside(plan, launch, environment, scratch)
    shown = {name: value for name, value in inside.items() if name not in secrets}
    write_text(variables, "".join(f"{k}={shlex.quote(v)}\n" for k, v in shown.items()))
    own = {str(path): Mount(str(path), str(path), False) for path in (scratch, cache)}
    flags, path = fuse_protection(program, Path(plan.image), scratch, environment)
    argv = [program.path, "--quiet", "exec", "--cleanenv", "--no-eval", *flags]
    argv += [*_gpu_flags(plan.gpu), "--home", str(home), "--pwd", str(Path(launch.code).parent)]
    argv += ["--env-file", str(variables)]
    for mount in (*plan.mounts, *own.values()):
        argv += ["--mount", mount_word(mount)]
    outside = {**_without_settings(environment), f"{program.prefix}_TMPDIR": str(scratch / "tmp")}
    hidden = {f"{program.prefix}ENV_{name}": value for name, value in secrets.items()}
    return Command([*argv, plan.image, plan.python, *training], {**outside, "PATH": path, **hidden})


def _inside(
    plan: ContainerPlan, launch: Launch, environment: Mapping[str, str], scratch: Path
) -> dict[str, str]:
    """The variables inside: the run's own, and places on this node for everything temporary."""
    cache = _cache(plan, scratch)
    passed = {k: v for k, v in environment.items() if _PASSED.fullmatch(k) or k in launch.env}
    hub = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if plan.hf_home is not None:
        hub.update(HF_HOME=plan.hf_home, HF_MODULES_CACHE=str(cache / "modules"))
    return {
        "TMPDIR": str(scratch / "tmp"),
        "PYTHONNOUSERSITE": "1",
        **{name: str(cache / folder) for name, folder in _CACHES.items()},
        **hub,
        **passed,
    }


def _cache(plan: ContainerPlan, scratch: Path) -> Path:
    return Path(plan.cache_dir) if plan.cache_dir else scratch / "cache"


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    """What an image under pyxis sets by itself, and its interpreter needs."""
    return {name: environment[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in environment}


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The program's environment without settings of its own: a run must not depend on them."""
    own = re.compile(r"(APPTAINER|SINGULARITY)(ENV)?_.*")
    return {name: value for name, value in environment.items() if not own.fullmatch(name)}


def _gpu_flags(gpu: str) -> list[str]:
    """``--nv`` or ``--rocm``; Apptainer itself says nothing where it finds no driver.

    Raises:
        InputError: the configuration names a kind of card that this node does not have.
    """
    devices = {"nv": Path("/dev/nvidiactl"), "rocm": Path("/dev/kfd")}
    if gpu == "auto":
        return [f"--{kind}" for kind, device in devices.items() if device.exists()][:1]
    if gpu not in devices:
        return []
    if not devices[gpu].exists():
        raise InputError(
            f"container.gpu={gpu}, but {os.uname().nodename} has no {devices[gpu]}: look whether "
            f"the job was given a card, or write container.gpu=auto"
        )
    return [f"--{gpu}"]


def _usable(program: Program) -> Program:
    oldest = _OLDEST.get(program.kind)
    if oldest is None or program.version < oldest:
        raise InputError(
            f"{program} at {program.path} is too old: it runs the values of variables through a "
            f"shell; load Apptainer 1.1 or SingularityCE 3.10 or later"
        )
    return program
