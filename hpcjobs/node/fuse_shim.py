"""Keeps the file system of a container alive when Slurm signals every process of a step.

Without administrator's rights a SIF file is mounted by a ``squashfuse_ll`` process of the same
user. Slurm's signals stop at the tasks themselves under proctrack/cgroup and pgid, but under
proctrack/linuxproc they go to every descendant: the announcement of a preemption would end the
file system, and the training's next import would fail. The mask of blocked signals does not help,
Apptainer's starter clears it; signals that a shell ignores stay ignored.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hpcjobs.node.slurm import run_command
from hpcjobs.run.beat import BEATS_VARIABLE
from hpcjobs.run.container_program import Program
from hpcjobs.run.files import make_private_dir

_MOUNTERS = ("squashfuse_ll", "squashfuse")
_SHIM = """\
#!/bin/sh
trap '' USR1 USR2 TERM INT HUP
export {mark}
exec {program} "$@"
"""
_TIMEOUT_S = 60


def fuse_protection(
    program: Program, image: Path, scratch: Path, environment: Mapping[str, str]
) -> tuple[list[str], str]:
    """Flags for the container program, and the PATH that it is to have.

    A shim in front of PATH ignores the signals, and carries the mark by which an agent ends what
    its processes leave: a mounter whose container was killed lives on for ever. Builds that bundle
    a mounter of their own, as the packages of Apptainer's makers do, never look there: under
    linuxproc their image is unpacked into scratch at each start, which takes the seconds and the
    room that a mount would save.
    """
    path = environment.get("PATH", os.defpath)
    if os.geteuid() == 0 or image.is_dir():
        return [], path  # the kernel mounts it, or nothing is mounted
    if bundles_mounter(program):
        return (_unpacking(program) if signals_everybody(environment) else []), path
    shims = scratch / "bin"
    make_private_dir(shims)
    for name in _MOUNTERS:
        found = shutil.which(name, path=path)
        if found is not None:
            mark = f"{BEATS_VARIABLE}={shlex.quote(environment.get(BEATS_VARIABLE, ''))}"
            text = _SHIM.format(program=shlex.quote(found), mark=mark)
            (shims / name).write_text(text, encoding="utf-8")
            (shims / name).chmod(0o700)
    return [], f"{shims}{os.pathsep}{path}"


def _unpacking(program: Program) -> list[str]:
    return ["--unsquash"] if program.is_apptainer else ["--tmp-sandbox"]


def bundles_mounter(program: Program) -> bool:
    """Whether the build carries its own mounter, which it takes before any on PATH."""
    folder = "apptainer" if program.is_apptainer else "singularity"
    try:
        answer = subprocess.run(
            [program.path, "buildcfg", "LIBEXECDIR"], capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    libexec = Path(answer.stdout.strip().partition("=")[2] or answer.stdout.strip())
    return any((libexec / folder / "bin" / name).exists() for name in _MOUNTERS)


def signals_everybody(environment: Mapping[str, str]) -> bool:
    """Whether this node's Slurm signals all descendants of a task; unknown counts as no."""
    if "SLURM_JOB_ID" not in environment:
        return False
    answer = run_command(["scontrol", "show", "config"])
    lines = [line for line in answer.stdout.splitlines() if line.startswith("ProctrackType")]
    return any("linuxproc" in line for line in lines)
