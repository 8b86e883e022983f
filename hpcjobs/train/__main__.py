"""One training process: ``python -m hpcjobs.train --run DIR --attempt N``, ranks from the env."""

import argparse
import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from hpcjobs.run.errors import HpcjobsError
from hpcjobs.run.layout import RunDir
from hpcjobs.run.notices import Notices
from hpcjobs.run.verdict import Verdict, write_verdict
from hpcjobs.train.heartbeat import open_heartbeat

_DISK_REFUSES = {
    errno.ENOSPC: ("the disk of {run} is full", "free space"),
    errno.EDQUOT: ("your quota on the disk of {run} is used up", "free space or ask for more"),
    errno.EROFS: ("the disk of {run} is read-only", "ask its administrators"),
}


def main() -> None:
    """Trains, writes this process's verdict, and leaves without static destructors."""
    stop = Notices()  # before the seconds that the imports take: nothing listens until then
    parser = argparse.ArgumentParser(prog="python -m hpcjobs.train")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    words = parser.parse_args()
    run, rank = RunDir(words.run), int(os.environ["RANK"])
    mine = run.attempt(words.attempt).rank_verdict(rank)
    sys.excepthook = _Witness(mine, rank)
    beats = open_heartbeat(os.environ, rank)

    from hpcjobs.train.process import leave
    from hpcjobs.train.session import train
    from hpcjobs.train.startup import Startup

    os.umask(0o077)  # after the imports: their compiled files may be shared with others
    startup = Startup()
    startup.mark("imports")
    write_verdict(mine, train(run, words.attempt, stop, beats, startup))
    beats.enter("done")
    leave(0)


class _Witness:
    """Writes down why the process fails, before anything else can go wrong."""

    def __init__(self, path: Path, rank: int) -> None:
        self._path, self._rank = path, rank

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        verdict = describe_failure(error, self._rank, self._path.parent)
        if verdict.status == "never":
            sys.stderr.write(f"error: {verdict.reason}\n")
        else:
            traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        with contextlib.suppress(OSError):  # the disk may have no room for it
            write_verdict(self._path, verdict)
        os._exit(3 if verdict.status == "never" else 1)  # a peer may hang in a collective


def describe_failure(error: BaseException, rank: int, attempt: Path) -> Verdict:
    """Says whether an error would happen again, and why it happened, in one line."""
    if isinstance(error, HpcjobsError):
        return Verdict("never", str(error), rank=rank)
    text = " ".join(str(error).split())
    refusal = _DISK_REFUSES.get(error.errno or 0) if isinstance(error, OSError) else None
    if refusal is not None:
        what, remedy = refusal[0].format(run=attempt.parent.parent), refusal[1]
        reason = (
            f"{what} ({text}): {remedy} and submit the run again, it goes on from its last "
            f"checkpoint"
        )
        return Verdict("never", reason, rank=rank, cause="storage_full")
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a card
        reason = (
            f"a card's memory is used up ({text}): lower parallel.micro_batch, or let "
            f"parallel=auto choose, and submit the run again"
        )
        return Verdict("never", reason, rank=rank, cause="card_memory")
    return Verdict("failed", f"{type(error).__name__}: {text}", rank=rank)


if __name__ == "__main__":
    main()
