"""Who runs a directory now: never two live jobs on one run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from hpcjobs.run.errors import InputError, RunHeldError
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import RunDir


@dataclass(frozen=True)
class Holder:
    """A job on a run directory: a Slurm job by its id, or a process of one machine."""

    host: str
    pid: int
    started: str
    """Start time of the process in clock ticks since boot, so that a reused pid is noticed."""
    job_id: str | None = None
    boot: str = ""
    """Which boot of which kernel the process belongs to; empty is not known."""
    pid_namespace: str = ""
    """Process ids mean something only within it; a container may have its own."""
    restarts: int = 0
    """How often Slurm had started the job again."""

    def describe(self) -> str:
        """Names the holder for a message."""
        if self.job_id is not None:
            return f"Slurm job {self.job_id}"
        return f"process {self.pid} on {self.host}"


Alive = Callable[[Holder], Optional[bool]]
"""Says whether a holder lives; None is not known."""


def this_process(job_id: str | None) -> Holder:
    """Describes the calling process as a holder."""
    return Holder(
        host=os.uname().nodename,
        pid=os.getpid(),
        started=process_start(os.getpid()) or "",
        job_id=job_id,
        boot=_boot(),
        pid_namespace=_pid_namespace(),
    )


def process_start(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (proc(5), stat field 22); None if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def local_alive(holder: Holder) -> bool | None:
    """Says whether a process of this machine still runs.

    None for one of another machine, and for one whose process ids cannot be seen from here: a
    container may bear this machine's name. After a boot of this machine nobody is left.
    """
    if holder.host != os.uname().nodename:
        return None
    if holder.boot and _boot() and holder.boot != _boot():
        return False
    if holder.pid_namespace and holder.pid_namespace != _pid_namespace():
        return None
    return process_start(holder.pid) == holder.started


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def current_holder(run: RunDir) -> Holder | None:
    """Reads who holds the run; None when nobody does."""
    if not run.holder.exists():
        return None
    try:
        return Holder(**read_json(run.holder))
    except (InputError, TypeError) as error:
        raise RunHeldError(f"{run.holder} cannot be read; remove it if no job runs") from error


def refuse_if_held(run: RunDir, alive: Alive) -> None:
    """Refuses a run that another job holds, or may hold.

    Raises:
        RunHeldError: the holder lives, or that cannot be known.
    """
    holder = current_holder(run)
    if holder is None:
        return
    answer = alive(holder)
    if answer is None:
        raise RunHeldError(
            f"{run.path} was taken by {holder.describe()}, and whether that still runs is unknown; "
            f"if it surely does not, remove {run.holder}"
        )
    if answer:
        raise RunHeldError(
            f"{run.path} is held by {holder.describe()}; cancel that first, or use another run_dir"
        )


def take(run: RunDir, me: Holder, alive: Alive) -> None:
    """Makes ``me`` the holder: created exclusively, or taken over from one that is gone.

    A requeued job finds itself as the holder and goes on; a broker of an earlier run of the same
    job, on a node that Slurm has lost, does not get it back. In one and the same run of a job,
    such as an ``salloc`` with two shells, it is the process that counts.

    Raises:
        RunHeldError: somebody else holds the run, or won it at this moment.
    """
    holder = current_holder(run)
    if holder is not None:
        if not _is_own_past(holder, me):
            refuse_if_held(run, local_alive if _is_same_job(holder, me) else alive)
        _put_aside(run, holder)
    _create(run, me)


def _is_same_job(holder: Holder, me: Holder) -> bool:
    return me.job_id is not None and holder.job_id == me.job_id


def _is_own_past(holder: Holder, me: Holder) -> bool:
    """Whether Slurm ended that run of this very job before it started this one."""
    if not _is_same_job(holder, me):
        return False
    if holder.restarts > me.restarts:
        raise RunHeldError(
            f"{holder.describe()} has been started again since: this run of it goes no further"
        )
    return holder.restarts < me.restarts


def _put_aside(run: RunDir, gone: Holder) -> None:
    """Moves a dead holder's file away; of two that try, one finds it gone or replaced."""
    aside = _private_name(run)
    try:
        run.holder.rename(aside)
    except FileNotFoundError:
        raise _lost_race(run) from None
    moved = Holder(**read_json(aside))
    if moved != gone:  # a faster one has taken the run since: give it back
        with contextlib.suppress(FileExistsError):
            os.link(aside, run.holder)
        aside.unlink()
        raise _lost_race(run)
    aside.unlink()


def _create(run: RunDir, me: Holder) -> None:
    """Publishes the holder's file whole, by a link that fails where there is one already."""
    partial = _private_name(run)
    try:
        write_json(partial, asdict(me))
        os.link(partial, run.holder)
    except FileExistsError:
        raise _lost_race(run) from None
    finally:
        partial.unlink(missing_ok=True)


def _private_name(run: RunDir) -> Path:
    return run.path / f".holder.{os.uname().nodename}.{os.getpid()}.partial"


def _lost_race(run: RunDir) -> RunHeldError:
    return RunHeldError(f"{run.path} was taken by another job at this moment")


def release(run: RunDir, me: Holder) -> None:
    """Gives the run back, if it is still mine."""
    if run.holder.exists() and current_holder(run) == me:
        run.holder.unlink()
