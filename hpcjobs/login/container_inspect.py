"""What an image says about itself: its labels and its signatures."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.run.container_program import Program
from hpcjobs.run.errors import InputError

_TIMEOUT_S = 600


def labels_of(program: Program, image: Path) -> dict[str, str]:
    """The labels of an image, as they stand in its definition.

    Raises:
        InputError: the program cannot read the image.
    """
    answer = ask(program, "inspect", "--json", str(image))
    if answer.returncode != 0:
        raise InputError(f"{image} is no image that {program} can read: {last_line(answer)}")
    labels = json.loads(answer.stdout)["data"]["attributes"].get("labels") or {}
    return {name: str(value).strip('"') for name, value in labels.items()}


def is_signed(program: Program, image: Path) -> bool:
    """Whether a SIF carries a signature, whoever made it; a sandbox cannot."""
    if image.is_dir():
        return False
    answer = ask(program, "sif", "list", str(image))
    return answer.returncode == 0 and "Signature" in answer.stdout


def ask(program: Program, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the container program and returns how it ended and what it said."""
    return _finished([program.path, *words])


def last_line(answer: subprocess.CompletedProcess[str]) -> str:
    """The last thing that a program said, which is where they put the reason."""
    lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
    return lines[-1].removeprefix("FATAL:").strip() if lines else f"exit code {answer.returncode}"


def _finished(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(words),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"cannot run {words[0]}: {error}") from error
