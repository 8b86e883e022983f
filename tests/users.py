"""Parts of a test as another user of this machine: the operating system is the judge."""

import os
import pickle
import pwd
import traceback
from collections.abc import Callable
from typing import Any


def as_user(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in a child process that belongs to the user; needs to run as root.

    What the function returns or raises comes back; modules that it needs must be loaded.
    """
    user = pwd.getpwnam(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
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
