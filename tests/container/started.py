"""One process in a container, started as the agent starts it, by root or an ordinary user."""

import os
import pwd
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from users import as_user

from hpcjobs.login.container_planned import digest_of
from hpcjobs.node.container import Command, check_container, process_command
from hpcjobs.run.beat import BEATS_VARIABLE
from hpcjobs.run.container_plan import ContainerPlan, Mount
from hpcjobs.run.launch import Launch

ORDINARY = "nobody"
SHOW = """
import json, os, sys
path = sys.argv[1]
shown = {"env": dict(os.environ), "argv": sys.argv, "cwd": os.getcwd(), "root": os.listdir("/"),
         "uid": os.getuid(), "shm": os.stat("/dev/shm").st_dev}
with open(path + ".partial", "w") as file:
    json.dump(shown, file)
os.rename(path + ".partial", path)
"""


def make_launch(run: Path, image: Path, program: str = SHOW, **changes: Any) -> Launch:
    """A launch file's content for a program that stands in for the training."""
    run.mkdir(parents=True, exist_ok=True)
    code = run / "train.zip"
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("__main__.py", program)
    digest, seal = digest_of(image)
    mounts = (Mount(str(run), str(run), False), *changes.pop("mounts", ()))
    plan = ContainerPlan(
        kind="apptainer", image=str(image), digest=digest, seal=seal, mounts=mounts, gpu="auto",
        python="/usr/bin/python3",
    )  # fmt: skip
    env = changes.pop("env", {})
    plan = ContainerPlan(**{**vars(plan), **changes})
    return Launch(
        python="/usr/bin/python3", nodes=1, processes_per_node=1, cpus_per_node=1, requeue=True,
        env=env, env_file=None, code=str(code), container=asdict(plan),
    )  # fmt: skip


def owned(path: Path, user: str | None) -> Path:
    """Makes a directory that belongs to the user; None is this one."""
    path.mkdir(parents=True, exist_ok=True)
    if user is not None:
        for each in (path, *path.rglob("*")):
            os.chown(each, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    return path


def command_of(
    launch: Launch,
    words: list[str],
    scratch: Path,
    user: str | None,
    extra: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> Command:
    """What the agent would start, made as the user."""
    mark = {BEATS_VARIABLE: f"{scratch}/beats"}
    environment = {**os.environ, "RANK": "0", **mark, **launch.env, **(extra or {})}

    def make() -> Command:
        check_container(launch)
        return process_command(launch, words, environment, secrets or {}, scratch)

    return make() if user is None else as_user(user, make)


def popen(command: Command, user: str | None, log: Path) -> "subprocess.Popen[bytes]":
    """Starts it as the agent does."""
    ids = {} if user is None else {"user": user, "group": "nogroup", "extra_groups": []}
    code = next(word for word in command.argv if word.endswith("/train.zip"))
    with log.open("ab") as file:
        return subprocess.Popen(
            command.argv, env=command.env, cwd=Path(code).parent, stdout=file,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, **ids,
        )  # fmt: skip
