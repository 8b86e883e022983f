"""The words of an interactive shell in an image, as a training would see this machine."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import hpcjobs
from hpcjobs.login.container_flags import bind_word
from hpcjobs.login.package_sources import Bind
from hpcjobs.run.container_program import Program
from hpcjobs.run.errors import InputError

_HF_HOME = "HF_HOME"


def shell_words(
    program: Program,
    image: Path,
    binds: Iterable[Bind],
    environment: Mapping[str, str],
    gpu: bool,
) -> list[str]:
    """The command that opens a shell; nothing of the host's environment leaks into it.

    Args:
        program: the container program.
        image: a SIF or a sandbox.
        binds: what is seen inside.
        environment: the host's, of which only the Hugging Face cache is passed on.
        gpu: whether there are NVIDIA cards.
    """
    words = [program.path, "shell", "--cleanenv", *(["--nv"] if gpu else [])]
    for bind in binds:
        words += ["--bind", bind_word(bind)]
    passed = {"PYTHONPATH": str(source_root())}
    if environment.get(_HF_HOME):
        passed[_HF_HOME] = environment[_HF_HOME]
    prefix = f"{program.prefix}ENV_"
    return [
        "env",
        *(f"{prefix}{name}={value}" for name, value in passed.items()),
        *words,
        str(image),
    ]


def shell_binds(wanted: Iterable[str], environment: Mapping[str, str], here: Path) -> list[Bind]:
    """The working directory, this package, the Hugging Face cache, and what was asked for.

    Raises:
        InputError: a path that was asked for is missing; the program would only say FATAL.
    """
    binds = [Bind(here, str(here), read_only=False), Bind(source_root(), str(source_root()))]
    cache = environment.get(_HF_HOME)
    if cache and Path(cache).is_dir():
        binds.append(Bind(Path(cache).absolute(), cache, read_only=False))
    for word in wanted:
        path = Path(word).absolute()
        if not path.exists():
            raise InputError(f"cannot bind {path}: there is no such file or directory")
        binds.append(Bind(path, str(path), read_only=not os.access(path, os.W_OK)))
    return binds


def source_root() -> Path:
    """The directory that holds this package; the image itself has only what it depends on."""
    return Path(hpcjobs.__file__).resolve().parents[1]
