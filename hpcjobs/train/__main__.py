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

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch.save hides a full disk behind its own words (caffe2/serialize/inline_container.cc).
_TORCH_DISK_FULL = ("unexpected pos", "PytorchStreamWriter failed", "No space left")


def main() -> None:
    """Trains, writes this process's verdict, and leaves without static destructors."""
    parser = argparse.ArgumentParser(prog="python -m hpcjobs.train")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    words = parser.parse_args()
    run, rank = RunDir(words.run), int(os.environ["RANK"])
    mine = run.attempt(words.attempt).rank_verdict(rank)
    sys.excepthook = _Witness(mine, rank)

    from hpcjobs.train.process import leave
    from hpcjobs.train.session import train

    os.umask(0o077)  # after the imports: their compiled files may be shared with others
    write_verdict(mine, train(run, words.attempt, Notices()))
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
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    if full or any(words in text for words in _TORCH_DISK_FULL):
        reason = (
            f"the disk of {attempt.parent.parent} is full ({text}): free space and submit the run "
            f"again, it goes on from its last checkpoint"
        )
        return Verdict("never", reason, rank=rank)
    return Verdict("failed", f"{type(error).__name__}: {text}", rank=rank)


if __name__ == "__main__":
    main()
