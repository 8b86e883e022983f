"""The evidence against nodes on disk: one small file each, and its owner is the signature.

A directory of one's own, or one that a group shares. Whoever may write into a shared directory
could name nodes in bad faith; the caps of ``choose_excluded`` bound what that can do.
"""

from __future__ import annotations

import contextlib
import grp
import json
import math
import os
import pwd
import re
import stat
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcjobs.run.bad_nodes import KINDS, MEMORY_S, NODE_NAME, Evidence
from hpcjobs.run.checks import has_control_character
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import make_private_dir, write_json

_FILE = re.compile(rf"({NODE_NAME.pattern})@(\d{{1,12}})-[0-9a-f]{{8}}\.json")
_MOST_BYTES = 16 * 1024
_MOST_FILES = 2000
_REASON_CHARACTERS = 300
_FORGOTTEN_S = 2 * MEMORY_S


@dataclass(frozen=True)
class Found:
    """What a directory holds: evidence, and what was not believed, in words."""

    evidence: list[Evidence] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    files: dict[Path, Evidence] = field(default_factory=dict)


def read_evidence(directory: Path) -> Found:
    """Reads the evidence of trusted users; everything else is ignored and named."""
    found = Found()
    try:
        owners = _trusted_owners(directory)
        names = sorted((path.name for path in directory.iterdir()), key=_age_order)
    except FileNotFoundError:
        return found
    except (OSError, InputError) as error:
        found.ignored.append(str(error))
        return found
    wanted = [name for name in names if not name.startswith(".")]
    if len(wanted) > _MOST_FILES:
        found.ignored.append(f"{directory}: {len(wanted)} files, only {_MOST_FILES} were read")
    for name in wanted[-_MOST_FILES:]:
        try:
            evidence = _read_one(directory / name, owners)
        except (OSError, ValueError) as error:
            found.ignored.append(f"{name!a}: {error}")
        else:
            found.evidence.append(evidence)
            found.files[directory / name] = evidence
    return found


def add_evidence(directory: Path, evidence: Evidence) -> Path:
    """Writes one piece of evidence, and removes what is so old that it says nothing any more.

    Raises:
        ConfigError: the node's name is none.
        OSError: the directory cannot be written.
    """
    if not NODE_NAME.fullmatch(evidence.node):
        raise ConfigError(f"{evidence.node!a} is no name of a node")
    if not directory.exists():
        make_private_dir(directory)
    _remove_old(directory, evidence.time_s)
    name = f"{evidence.node}@{max(0, int(evidence.time_s))}-{uuid.uuid4().hex[:8]}.json"
    plain = {**asdict(evidence), "reason": _one_line(evidence.reason)}
    write_json(directory / name, plain)
    _share(directory, directory / name)
    return directory / name


def forget(directory: Path, node: str | None) -> tuple[list[str], list[str]]:
    """Removes the evidence against a node, or all; returns what went and what could not go."""
    gone, left = [], []
    for path, evidence in read_evidence(directory).files.items():
        if node is not None and evidence.node != node:
            continue
        try:
            path.unlink()
        except OSError as error:
            left.append(f"{path}: {error.strerror}")
        else:
            gone.append(evidence.node)
    return sorted(set(gone)), left


def _age_order(name: str) -> tuple[int, str]:
    match = _FILE.fullmatch(name)
    return (int(match.group(2)) if match else 0, name)


def _read_one(path: Path, owners: frozenset[int]) -> Evidence:
    """Reads one file without following links.

    Raises:
        ValueError: it is not what it should be.
        OSError: it cannot be opened.
    """
    match = _FILE.fullmatch(path.name)
    if not match:
        raise ValueError("no file of evidence by its name")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        if status.st_uid not in owners:
            raise ValueError(f"belongs to user {status.st_uid}, who is not trusted here")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("others can change it")
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES} bytes")
    try:
        return _checked(json.loads(content), match.group(1))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _checked(raw: Any, node: str) -> Evidence:  # noqa: ANN401 - whatever JSON holds
    try:
        evidence = Evidence(**raw)
    except TypeError:
        raise ValueError("holds other fields than evidence has") from None
    texts = (evidence.node, evidence.kind, evidence.reason, evidence.run)
    if not all(isinstance(text, str) and not has_control_character(text) for text in texts):
        raise ValueError("holds text that is none")
    if evidence.node != node or evidence.kind not in KINDS:
        raise ValueError(f"says {evidence.node!a}, {evidence.kind!a}")
    for number in (evidence.time_s, evidence.hours or 0.0):
        if not _is_number(number) or number < 0:
            raise ValueError(f"{number!a} is no time")
    if not all(part is None or type(part) is int for part in (evidence.attempt, evidence.place)):
        raise ValueError("holds an attempt or a place that is no number")
    return evidence


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def _trusted_owners(directory: Path) -> frozenset[int]:
    """Whose evidence counts: one's own, root's, and in a shared directory that of its group.

    Raises:
        InputError: everybody could put files there, or take others' away.
    """
    status = directory.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise InputError(f"{directory} can be written by everybody: chmod o-w it")
    owners = {0, os.getuid(), status.st_uid}
    if status.st_mode & stat.S_IWGRP:
        owners |= _members(status.st_gid)
    return frozenset(owners)


def _members(gid: int) -> set[int]:
    """Users of a group, by its list and as their own group."""
    users = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    with contextlib.suppress(KeyError):
        for name in grp.getgrgid(gid).gr_mem:
            with contextlib.suppress(KeyError):
                users.add(pwd.getpwnam(name).pw_uid)
    return users


def _share(directory: Path, path: Path) -> None:
    """In a shared directory the group may read the file; elsewhere it stays private."""
    status = directory.stat()
    if not status.st_mode & stat.S_IWGRP:
        return
    with contextlib.suppress(OSError):
        os.chown(path, -1, status.st_gid)
        path.chmod(0o640)


def _remove_old(directory: Path, now_s: float) -> None:
    with contextlib.suppress(OSError):
        for path in list(directory.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match and int(match.group(2)) < now_s - _FORGOTTEN_S:
                with contextlib.suppress(OSError):
                    path.unlink()


def _one_line(reason: str) -> str:
    words = " ".join(reason.split())
    return "".join(c for c in words if c.isprintable())[:_REASON_CHARACTERS]
