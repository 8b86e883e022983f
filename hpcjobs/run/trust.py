"""Who else could put a file where this run will read one: DeepSpeed's checkpoints are pickles."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from hpcjobs.run.errors import InputError

GROUP_MARK = "@"
"""Marks the name of a group among trusted names, as in sudoers."""


def refuse_untrusted(path: Path, trusted: Collection[str] = ()) -> None:
    """Refuses a path that somebody else could replace: every directory above it is looked at.

    A directory may belong to root, to this user or to a trusted user. Others may write into it
    only if it is sticky (they cannot rename what is not theirs, as in ``/tmp``), if the group is
    this user's private one, or if the group is trusted.

    Args:
        path: absolute; its missing end is left out.
        trusted: names of users, and of groups as ``@group``.

    Raises:
        InputError: names the first such directory, and what to do about it.
    """
    for directory in _directories(path):
        _refuse_directory(directory, trusted)


def refuse_foreign_files(files: Iterable[Path]) -> None:
    """Refuses files that are not regular, not this user's own, or writable by others.

    Raises:
        InputError: names the first such file.
    """
    for path in files:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file: it is not read")
        _refuse_foreign(path, status)


def refuse_foreign_directory(path: Path) -> None:
    """Refuses a directory that is a link, not this user's own, or writable by others.

    Raises:
        InputError: names it.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is no directory: it is not read")
    _refuse_foreign(path, status)


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.getuid():
        raise InputError(f"{path} belongs to {_user(status.st_uid)}, not to you: it is not read")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(
            f"{path} can be changed by others: it is not read; if you wrote it, chmod go-w it"
        )


def _directories(path: Path) -> list[Path]:
    """What leads to a path: as it is written, and where its links lead; the outermost first."""
    real = path.resolve()
    chain = {*path.parents, path, *real.parents, real}
    return sorted((place for place in chain if place.is_dir()), key=lambda place: len(place.parts))


def _refuse_directory(directory: Path, trusted: Collection[str]) -> None:
    status = directory.stat()
    owner = _user(status.st_uid)
    if status.st_uid not in (0, os.getuid()) and owner not in trusted:
        raise InputError(
            f"{directory} belongs to {owner}, who could replace the run's files: use another "
            f"runs_dir, or write cluster.trusted=[{owner}]"
        )
    if status.st_mode & stat.S_ISVTX:
        return
    if status.st_mode & stat.S_IWOTH:
        raise InputError(
            f"{directory} can be written by everybody: use another runs_dir, or chmod o-w it"
        )
    group = _group(status.st_gid)
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
        if GROUP_MARK + group in trusted:
            return
        raise InputError(
            f"{directory} can be written by the group {group}: use another runs_dir, chmod g-w it, "
            f"or write cluster.trusted=['{GROUP_MARK}{group}']"
        )


def _is_private(gid: int) -> bool:
    """Whether a group is this user's own: of the same name, and without other members."""
    try:
        group, me = grp.getgrgid(gid), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    own = gid == me.pw_gid and group.gr_name == me.pw_name
    return own and set(group.gr_mem) <= {me.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
