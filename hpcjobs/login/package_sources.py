"""Where this machine gets its packages from, so that a build inside a container does the same.

A definition's ``%post`` sees neither the host's environment nor its files. What pip needs is
laid into a directory that the build binds at ``/mnt``; nothing of it stays in the image, so an
index with a password in its address is safe there.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hpcjobs.run.files import write_text

INSIDE = "/mnt"
"""Where the directory is bound: a bind needs a place that exists in the base system."""
PIP_CONF = f"{INSIDE}/pip.conf"
"""A definition that names this file is given the directory."""

_SETTING = re.compile(r"^(?P<section>[\w:.-]+?)\.(?P<key>[\w-]+)=(?P<value>.*)$")
_TAKEN = ("index-url", "extra-index-url", "find-links", "cert", "proxy", "trusted-host", "timeout")
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of this machine, and where the build sees it."""

    source: Path
    inside: str
    read_only: bool = True


def pip_settings(python: str = sys.executable) -> dict[str, str]:
    """What pip is configured with here, by files and by environment; empty without pip."""
    words = [python, "-m", "pip", "config", "list"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return read_settings(done.stdout) if done.returncode == 0 else {}


def read_settings(text: str) -> dict[str, str]:
    r"""Reads ``pip config list``: what stands for every command, the environment last.

    >>> read_settings("global.cert='/a.crt'\n:env:.cert='/b.crt'\ninstall.user='1'\n")
    {'cert': '/b.crt'}
    """
    found: dict[str, dict[str, str]] = {"global": {}, ":env:": {}}
    for line in text.splitlines():
        setting = _SETTING.match(line)
        if setting and setting["section"] in found and setting["key"] in _TAKEN:
            found[setting["section"]][setting["key"]] = str(ast.literal_eval(setting["value"]))
    return {**found["global"], **found[":env:"]}


def lay_out(
    directory: Path, settings: Mapping[str, str], environment: Mapping[str, str]
) -> list[Bind]:
    """Writes ``pip.conf`` into a directory and says what must be bound for it to hold.

    Args:
        directory: empty and private; it is bound at ``/mnt`` itself.
        settings: of ``pip_settings``.
        environment: for the proxy and the certificates where pip is not told.
    """
    binds = [Bind(directory, INSIDE)]
    lines = ["[global]", "disable-pip-version-check = 1"]
    for key, value in _with_environment(settings, environment).items():
        words = [_inside(word, directory, binds) for word in value.split()]
        if key == "cert":
            shutil.copyfile(value, directory / "ca.crt")
            words = [f"{INSIDE}/ca.crt"]
        lines.append(f"{key} = {' '.join(words)}")
    cache = _pip_cache()
    if cache is not None:
        lines.append(f"cache-dir = {_bound(cache, directory, binds, read_only=False)}")
    write_text(directory / "pip.conf", "\n".join([*lines, ""]))
    return binds


def apt_mirror(release: str) -> str | None:
    """The address from which this machine's apt gets a release of Debian; None if it does not."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return read_mirror(done.stdout, release)


def read_mirror(text: str, release: str) -> str | None:
    """The first address of a release in lines of ``ADDRESS RELEASE``."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if " " in line)
    return next((address for address, name in pairs if name == release), None)


def _with_environment(
    settings: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    told = dict(settings)
    for key, names in (
        ("proxy", ("HTTPS_PROXY", "https_proxy")),
        ("cert", ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")),
    ):
        given = next((environment[name] for name in names if environment.get(name)), None)
        if given is not None:
            told.setdefault(key, given)
    if not Path(told.get("cert", "")).is_file():
        told.pop("cert", None)
    return told


def _inside(word: str, directory: Path, binds: list[Bind]) -> str:
    """The word as the container sees it: local directories are bound, addresses stay."""
    if word.startswith("file://"):
        # The pages of an index name their files relative to its parent.
        index = Path(unquote(urlsplit(word).path))
        return f"file://{_bound(index.parent, directory, binds)}/{index.name}"
    if Path(word).is_dir():
        return _bound(Path(word), directory, binds)
    return word


def _bound(source: Path, directory: Path, binds: list[Bind], read_only: bool = True) -> str:
    name = f"source-{len(binds)}"
    inside = f"{INSIDE}/{name}"
    (directory / name).mkdir()  # the place that it is bound onto
    if source.is_dir():
        binds.append(Bind(source, inside, read_only))
    return inside


def _pip_cache() -> Path | None:
    """Pip's own cache: what was fetched for this machine need not be fetched again."""
    given = os.environ.get("PIP_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(given) if given else base / "pip"
    return cache if cache.is_dir() and os.access(cache, os.W_OK) else None
