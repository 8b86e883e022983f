"""Which container program this machine has: Apptainer, SingularityCE or the Singularity of old.

One module for the login node and the compute nodes, because the two may differ.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcjobs.run.errors import InputError

APPTAINER = "apptainer"
SINGULARITY_CE = "singularity-ce"
SINGULARITY = "singularity"
"""Before the fork of 2021, and whatever else answers to that name."""

_NAMES = (APPTAINER, SINGULARITY)
_TIMEOUT_S = 60
# "apptainer version 1.4.5", "singularity-ce version 4.1.1-jammy", "2.6.1-dist"
_VERSION = re.compile(
    r"(?:(?P<name>[a-z][a-z-]*)\s+version\s+)?v?(?P<numbers>\d+(?:\.\d+)+)", re.IGNORECASE
)

Answer = Callable[[Sequence[str]], str]
"""Runs a command and returns what it printed; raises OSError where it cannot be run."""


@dataclass(frozen=True)
class Program:
    """A container program, as it describes itself."""

    path: str
    kind: str
    """``apptainer``, ``singularity-ce`` or ``singularity``, whatever name it was found under."""
    version: tuple[int, ...]

    def __str__(self) -> str:
        """For messages and records: ``apptainer 1.4.5``."""
        return f"{self.kind} {'.'.join(str(number) for number in self.version)}"

    @property
    def is_apptainer(self) -> bool:
        """Whether the options are there that only Apptainer has."""
        return self.kind == APPTAINER

    @property
    def prefix(self) -> str:
        """How the program's own variables begin: SingularityCE ignores APPTAINER_*."""
        return "APPTAINER" if self.is_apptainer else "SINGULARITY"


def detect(
    answer: Answer | None = None, which: Callable[[str], str | None] = shutil.which
) -> Program:
    """Finds the container program on PATH; ``singularity`` may turn out to be Apptainer.

    Args:
        answer: runs a command; the default runs it here.
        which: finds a program on PATH.

    Raises:
        InputError: there is none, or none that says its version.
    """
    strange = []
    for name in _NAMES:
        path = which(name)
        if path is None:
            continue
        text = _ask(answer or _run, path)
        found = parse_version(text)
        if found:
            return Program(path, *found)
        strange.append(f"{path} --version answers {text[:80]!r}")
    raise InputError(
        f"no container program: {'; '.join(strange) or 'neither apptainer nor singularity'} is on "
        f"PATH; load the cluster's module, or write container=none"
    )


def parse_version(text: str) -> tuple[str, tuple[int, ...]] | None:
    """Reads what ``--version`` prints; None where it is nobody that we know.

    >>> parse_version("apptainer version 1.4.5-1.el9")
    ('apptainer', (1, 4, 5))
    """
    found = _VERSION.match(text.strip())
    if found is None:
        return None
    numbers = tuple(int(number) for number in found["numbers"].split("."))
    name = (found["name"] or SINGULARITY).lower()
    if name == APPTAINER:
        return APPTAINER, numbers
    if name.startswith("singularity"):
        # The commercial edition is made from SingularityCE.
        return (SINGULARITY if name == SINGULARITY else SINGULARITY_CE), numbers
    return None


def _ask(answer: Answer, path: str) -> str:
    try:
        return answer([path, "--version"])
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(
        list(words),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout
