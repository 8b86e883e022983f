"""What is known to fail is refused before a build starts, which may take half an hour."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hpcjobs.login.container_definition import Definition
from hpcjobs.login.container_flags import can_bind
from hpcjobs.login.package_sources import apt_mirror
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.image_record import read_record

MIRROR = "mirror"
"""The argument that the machine's own apt answers."""
_NO_SANDBOX = ":,'"
"""Apptainer 1.4 builds no sandbox under a path with one of these."""


def arguments_of(definition: Definition, given: Mapping[str, str]) -> dict[str, str]:
    """What a definition asks for: what was typed, else what this machine uses itself.

    Raises:
        ConfigError: it asks for something that nobody gave.
    """
    found = dict(given)
    if MIRROR in definition.arguments - found.keys():
        release = definition.header("OSVersion") or ""
        mirror = apt_mirror(release)
        if mirror is None:
            raise ConfigError(
                f"apt on this machine has no source for {release or 'a release'}: write "
                f"--arg {MIRROR}=ADDRESS of a Debian mirror"
            )
        found[MIRROR] = mirror
    missing = definition.arguments - found.keys()
    if missing:
        raise ConfigError(f"{definition.path.name} needs --arg {min(missing)}=VALUE")
    return found


def refuse_target(target: Path, sandbox: bool) -> None:
    """Refuses to put an image where something else is, or where the program cannot.

    Raises:
        ConfigError: says where it could lie.
    """
    if target.is_dir() and not sandbox:
        raise ConfigError(f"{target} is a directory: an image is a file, or write --sandbox")
    if sandbox and any(mark in str(target) for mark in _NO_SANDBOX):
        raise ConfigError(
            f"no sandbox works at {target}: its path must be without colon, comma and "
            f"apostrophe; a SIF may lie anywhere"
        )
    if sandbox and target.exists() and read_record(target) is None:
        raise ConfigError(
            f"{target} exists and is no image that this command built: remove it, or name "
            f"another directory"
        )


def refuse_tmpdir(tmpdir: Path) -> None:
    """Refuses a temporary directory that a build cannot work in.

    Raises:
        InputError: it is missing, or has a name that the program misreads.
    """
    if not tmpdir.is_dir():
        raise InputError(f"the temporary directory {tmpdir} is not there: name one with --tmpdir")
    if not can_bind(tmpdir.absolute()):
        raise InputError(
            f"a build cannot work in {tmpdir}, because of its colon or comma: name another "
            f"directory with --tmpdir"
        )


def refuse_missing_tools(definition: Definition) -> None:
    """Refuses a definition whose base system this machine cannot make.

    Raises:
        InputError: debootstrap is not installed.
    """
    if definition.header("Bootstrap") != "debootstrap":
        return
    if not shutil.which("debootstrap", path=system_path()):
        raise InputError(
            f"{definition.path.name} starts from debootstrap, which is not installed: install "
            f"it, or build on another machine and copy the image here"
        )


def system_path() -> str:
    """PATH with the places of the system's own tools, which an ordinary user's may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
