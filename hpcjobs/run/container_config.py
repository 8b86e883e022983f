"""The container that a training runs in: the image, and what of the machine is seen inside."""

import re
from dataclasses import dataclass
from typing import Literal

from hpcjobs.run.checks import one_line
from hpcjobs.run.errors import ConfigError

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_COLON = re.compile(r"(?<!\\):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The container that the training runs in; none is the interpreter of ``cluster.python``."""

    kind: Literal["none", "apptainer", "pyxis"] = "none"
    """``apptainer`` takes SingularityCE too; ``pyxis`` is Slurm's plugin for enroot images."""
    image: str | None = None
    """A SIF file or a sandbox directory; for pyxis a squashfs file of enroot."""
    digest: str | None = None
    """SHA-256 that the image must have; null takes the one that it has at the submission."""
    binds: tuple[str, ...] = ()
    """Further paths seen inside: ``SOURCE``, ``SOURCE:TARGET`` or ``SOURCE:TARGET:ro``; a colon
    of a path is written ``\\:``. What the run itself names is bound without being listed."""
    gpu: Literal["auto", "nv", "rocm", "none"] = "auto"
    """Whose driver libraries are bound; ``auto`` looks for the cards' devices on each node."""
    python: str = "/opt/venv/bin/python"
    """The interpreter inside the image."""
    hf_home: str | None = None
    """A Hugging Face cache that was filled on the login node; read-only inside."""
    cache_dir: str | None = None
    """A node-local directory for compiled kernels that outlives an attempt; null is a fresh one."""

    def __post_init__(self) -> None:
        """Checks that image and kind go together, and every path and digest."""
        for name in ("image", "python", "hf_home", "cache_dir"):
            one_line(name, getattr(self, name))
        if self.kind == "none" and self.image is not None:
            raise ConfigError("image is set, but kind=none: write container=apptainer or pyxis")
        if self.kind != "none" and not self.image:
            raise ConfigError("image is not set: write container.image=PATH")
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise ConfigError(f"digest {self.digest!r} is no SHA-256: write sha256: and 64 digits")
        for text in self.binds:
            parse_bind(text)

    @property
    def sha256(self) -> str | None:
        """The wanted digest in hexadecimal, without its prefix."""
        return self.digest and self.digest.removeprefix("sha256:")


def parse_bind(text: str) -> tuple[str, str, bool]:
    r"""Splits a bind into source, target and whether it is read-only.

    Raises:
        ConfigError: no path, too many parts, or an option other than ro and rw.

    >>> parse_bind("/data"), parse_bind(r"/a\:b:/c:ro")
    (('/data', '/data', False), ('/a:b', '/c', True))
    """
    one_line("binds", text)
    source, *rest = (part.replace("\\:", ":") for part in _COLON.split(text))
    target = rest[0] if rest else source
    option = rest[1] if len(rest) > 1 else "rw"
    if len(rest) > 2 or option not in ("ro", "rw"):
        raise ConfigError(f"binds: {text!r} is none of SOURCE, SOURCE:TARGET, SOURCE:TARGET:ro")
    for path in (source, target):
        if not path.startswith("/") or not path.strip("/."):
            raise ConfigError(f"binds: {text!r} needs absolute paths, and not the root directory")
    return source, target, option == "ro"
