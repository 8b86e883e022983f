"""A definition file: what it is called, copies in and must be told, and the digest of it all."""

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpcjobs.login.assets import asset_dir
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.schema import did_you_mean

LOCK = "lock.txt"
SUFFIX = ".def"

_HEADER = re.compile(r"^(\w+):\s*(.+?)\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_SECTION = re.compile(r"^%(\w+)(.*)$")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$")


@dataclass(frozen=True)
class Definition:
    """A definition file that can be read."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its name without the suffix: ``train-cpu``."""
        return self.path.stem

    def header(self, key: str) -> str | None:
        """A value of the first stage's header, such as ``Bootstrap``."""
        return next((value for name, value in _HEADER.findall(self.text) if name == key), None)

    @cached_property
    def arguments(self) -> frozenset[str]:
        """The ``{{ names }}`` without a default in ``%arguments``."""
        defaults = {line.split("=")[0].strip() for line in self._section("arguments")}
        return frozenset(_ARGUMENT.findall(self.text)) - defaults

    @cached_property
    def copied(self) -> tuple[Path, ...]:
        """The files that it copies in, with those in directories.

        Raises:
            InputError: one is missing.
        """
        found: set[Path] = set()
        for line in self._section("files"):
            found.update(self._files(shlex.split(line)[0]))
        return tuple(sorted(found))

    @cached_property
    def versions(self) -> dict[str, str]:
        """The locked packages, where it copies a lock in."""
        locks = [path for path in self.copied if path.name == LOCK]
        return read_lock(locks[0].read_text(encoding="utf-8")) if locks else {}

    def mentions(self, word: str) -> bool:
        """Whether the definition, or a file that it copies in, holds this word."""
        texts = (path.read_bytes() for path in self.copied)
        return word in self.text or any(word.encode() in text for text in texts)

    def digest(self, arguments: Mapping[str, str]) -> str:
        """SHA-256 of all that decides what is built here: text, copied files, arguments."""
        whole = hashlib.sha256(self.text.encode())
        for path in self.copied:
            whole.update(f"\0{path.name}\0".encode("utf-8", "surrogateescape"))
            whole.update(path.read_bytes())
        for name in sorted(arguments):
            whole.update(f"\0{name}={arguments[name]}".encode())
        return whole.hexdigest()

    def _files(self, word: str) -> Iterator[Path]:
        matches = sorted(self.path.parent.glob(word)) if not word.startswith("/") else [Path(word)]
        if not any(path.exists() for path in matches):
            raise InputError(f"{self.path} copies {word}, which is not there")
        for path in matches:
            yield from (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)

    def _section(self, name: str) -> Iterator[str]:
        """Lines of all sections of this name, except files that come from another stage."""
        inside = False
        for line in self.text.splitlines():
            if found := _SECTION.match(line):
                inside = found[1] == name and not found[2].strip().startswith("from")
            elif inside and line.strip() and not line.strip().startswith("#"):
                yield line.strip()


def find_definition(word: str) -> Definition:
    """Reads one of the definitions that ship, by name, or a file by path.

    Raises:
        ConfigError: there is none of this name.
        InputError: the file cannot be read.
    """
    path = Path(word) if word.endswith(SUFFIX) else asset_dir("singularity") / f"{word}{SUFFIX}"
    if not path.is_file() and not word.endswith(SUFFIX):
        shipped = shipped_definitions()
        raise ConfigError(
            f"no definition {word!r}{did_you_mean(word, shipped)}; a definition of your own is "
            f"named by its path, which ends in {SUFFIX}"
        )
    try:
        return Definition(path.resolve(), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the definition {path}: {error}") from error


def shipped_definitions() -> list[str]:
    """Names of the definitions that ship with the package."""
    return sorted(path.stem for path in asset_dir("singularity").glob(f"*{SUFFIX}"))


def read_lock(text: str) -> dict[str, str]:
    r"""Package and version of every pin in a pip constraints file.

    >>> read_lock("# a comment\ntorch==2.13.0\n")
    {'torch': '2.13.0'}
    """
    pins = (_PIN.match(line.strip()) for line in text.splitlines())
    return {pin[1]: pin[2] for pin in pins if pin}
