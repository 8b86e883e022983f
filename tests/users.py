"""Parts of a test as another user of this machine: the operating system is the judge."""

import ctypes
import os
import pickle
import pwd
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEW_MOUNTS = 0x00020000
"""CLONE_NEWNS of sched.h."""


def as_user(
    name: str, function: Callable[..., Any], *args: Any, first: Callable[[], None] = lambda: None
) -> Any:
    """Calls a function in a child process that belongs to the user; needs to run as root.

    What the function returns or raises comes back; modules that it needs must be loaded. ``first``
    is called in the child while that is still root.
    """
    user = pwd.getpwnam(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            first()
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.umask(0o022)
            answer = (True, function(*args))
        except BaseException as error:  # noqa: BLE001 - the parent raises it again
            answer = (False, (error, traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        worked, answer = pickle.load(pipe)
    os.waitpid(child, 0)
    if worked:
        return answer
    error, text = answer
    error.add_note(text)
    raise error


def show_to_everybody(place: Path) -> None:
    """Makes a directory readable to this process and its children, whatever lies above it.

    In mounts of their own: a closed directory above is replaced by an empty one that leads to it.
    """
    closed = next((p for p in reversed(place.parents) if p.stat().st_mode & 0o005 != 0o005), None)
    if closed is None:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    kept = tempfile.mkdtemp(dir="/tmp")
    for words in (
        ["--make-rprivate", "/"],
        ["--bind", str(place), kept],
        ["-t", "tmpfs", "-o", "mode=755", "none", str(closed)],
    ):
        subprocess.run(["mount", *words], check=True)
    place.mkdir(parents=True)
    subprocess.run(["mount", "--bind", kept, str(place)], check=True)
