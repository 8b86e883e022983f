"""The words of ``apptainer build``, by program, user and definition."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.login.package_sources import Bind
from hpcjobs.run.container_program import APPTAINER, SINGULARITY, SINGULARITY_CE, Program
from hpcjobs.run.errors import InputError

# zstd packs five times as fast as gzip into the same size. Files that all belong to root can be
# unpacked, and so built upon, by users without a range of subordinate ids.
SQUASH = "-comp zstd -Xcompression-level 3 -all-root"

_TEMPLATES = {APPTAINER: (1, 2), SINGULARITY_CE: (4, 0), SINGULARITY: (9999,)}
_IMPLIED_FAKEROOT = (1, 1)
_SQUASH_ARGS = (1, 4)


@dataclass(frozen=True, slots=True)
class Builder:
    """Who builds: what decides about the rights that a build runs with."""

    uid: int
    whole_root: bool
    """Whether root has all capabilities; without one of them ``%post`` fails as plain root."""
    subordinate_ids: bool
    """Whether /etc/subuid gives this user a range."""


def build_words(
    program: Program,
    builder: Builder,
    target: Path,
    definition: Path,
    *,
    sandbox: bool = False,
    arguments: Mapping[str, str] | None = None,
    binds: Iterable[Bind] = (),
) -> list[str]:
    """The command that builds ``target``.

    Raises:
        InputError: the program is too old for a definition with arguments.
    """
    words = [program.path, "build", *_rights(program, builder)]
    if sandbox:
        words.append("--sandbox")
    elif program.is_apptainer and program.version >= _SQUASH_ARGS:
        words += ["--mksquashfs-args", SQUASH]
    if arguments and program.version < _TEMPLATES[program.kind]:
        raise InputError(
            f"{program} knows no --build-arg, which {definition.name} needs: build with Apptainer "
            f"1.2 or SingularityCE 4.0, and copy the image here"
        )
    for name, value in sorted((arguments or {}).items()):
        words += ["--build-arg", f"{name}={value}"]
    for bind in binds:
        words += ["--bind", _plain_bind(bind)]
    return [*words, str(target), str(definition)]


def bind_word(bind: Bind) -> str:
    r"""A bind for ``exec`` and ``shell``, which know a backslash before colons and commas.

    >>> bind_word(Bind(Path('/a:b,c'), '/mnt'))
    '/a\\:b\\,c:/mnt:ro'
    """
    return f"{_escaped(str(bind.source))}:{_escaped(bind.inside)}{':ro' if bind.read_only else ''}"


def can_bind(path: Path) -> bool:
    """Whether a build can bind a path; it also binds files of its own out of its ``--tmpdir``."""
    return not any(mark in str(path) for mark in ":,")


def builder_here(uid: int, user: str) -> Builder:
    """Reads who this is, and what the system allows them."""
    return Builder(
        uid,
        has_all_capabilities(_read("/proc/self/status"), _read("/proc/sys/kernel/cap_last_cap")),
        any(line.startswith((f"{user}:", f"{uid}:")) for line in _read("/etc/subuid").splitlines()),
    )


def has_all_capabilities(status: str, last: str) -> bool:
    r"""Whether ``CapPrm`` of /proc/self/status holds every capability that the kernel knows.

    >>> has_all_capabilities("CapPrm:\t000001fffeffffff\n", "40\n")
    False
    """
    held = next((line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:")), "")
    if not held or not last.strip():
        return True  # a system that does not say so has no such trouble that we know of
    return int(held, 16) == (1 << (int(last) + 1)) - 1


def _plain_bind(bind: Bind) -> str:
    """A bind for ``build``, which loses backslashes, and takes no ``--mount`` beside others."""
    if not can_bind(bind.source):
        raise InputError(
            f"a build cannot bind {bind.source}, because of its colon or comma: move it, or "
            f"configure pip otherwise"
        )
    return bind_word(bind)


def _escaped(path: str) -> str:
    return re.sub(r"([\\:,])", r"\\\1", path)


def _rights(program: Program, builder: Builder) -> list[str]:
    if builder.uid == 0:
        return [] if builder.whole_root else ["--fakeroot"]
    if program.is_apptainer and program.version >= _IMPLIED_FAKEROOT:
        return []  # it takes the best that this machine allows
    # SingularityCE falls back to proot by itself only where the option is absent.
    return ["--fakeroot"] if builder.subordinate_ids else []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
