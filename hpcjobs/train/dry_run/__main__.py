"""Measures the memory of a training without a card and without the memory.

``python -m hpcjobs.train.dry_run WORKLOAD.JSON`` runs the unmodified DeepSpeed engine as rank 0
of N ranks on tensors that have no storage, and answers in JSON; ``-`` reads standard input.
"""

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from hpcjobs.run.errors import ConfigError, HpcjobsError
from hpcjobs.run.files import read_json

_USAGE = "usage: python -m hpcjobs.train.dry_run WORKLOAD.JSON|-\n"


def main(arguments: list[str]) -> int:
    """Prints the measurement of one workload, and returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(_USAGE)
        return ConfigError.exit_code
    try:
        answer = _answer(_read(arguments[0]))
    except HpcjobsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0


def _read(path: str) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    if path != "-":
        return read_json(Path(path))
    try:
        return json.load(sys.stdin)
    except ValueError as error:
        raise ConfigError(f"standard input is no JSON: {error}") from None


def _answer(raw: Any) -> dict[str, Any]:  # noqa: ANN401
    from hpcjobs.train.dry_run.request import read_request

    request = read_request(raw)  # before the slow imports: a mistake is told at once
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed asks at its first import
    import torch

    from hpcjobs.train.dry_run.group import join_fake_group
    from hpcjobs.train.dry_run.measure import measure

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the libraries warn of what a dry run does on purpose
    with contextlib.redirect_stdout(sys.stderr):
        join_fake_group(request.gpus)
        return measure(request)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # torch's destructors are slow, and sometimes abort after a process group
