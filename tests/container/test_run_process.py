"""One training process in a real container: what it sees, and what nobody else sees."""

import contextlib
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from container.started import ORDINARY, command_of, make_launch, owned, popen
from runs import wait_until

from hpcjobs.node import container, container_image, fuse_shim
from hpcjobs.node.container import check_container, start_failure
from hpcjobs.node.watch import end_marked
from hpcjobs.run.container_plan import Mount
from hpcjobs.run.container_program import Program
from hpcjobs.run.errors import InputError

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

USERS = [None, ORDINARY] if os.geteuid() == 0 else [None]
HOSTILE = "s'q\"x $HOME `id` $(id) \\n,b=c\nsecond line ü"


@pytest.fixture(params=USERS, ids=lambda user: user or "root")
def user(request):
    return request.param


@pytest.fixture
def place(open_tmp_path, user):
    path = owned(open_tmp_path / 'it\'s, a:run "1"', user)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def scratch(open_tmp_path, user):
    path = owned(open_tmp_path / "scratch", user)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("form", ["sif", "sandbox"])
def test_a_process_sees_its_run_and_its_node_and_nothing_of_the_users(
    form, user, place, scratch, small_images, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", "/host/python")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/host/libraries")
    monkeypatch.setenv("APPTAINER_BIND", "/not/there")
    monkeypatch.setenv("CUDA_HOME", "/host/cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    data = place / "data, of: mine"
    (data / "sub").mkdir(parents=True)
    mounts = (Mount(str(data), "/data/a:b, c", True),)
    launch = make_launch(owned(place / "run", user), small_images[form], mounts=mounts,
                         env={"OWN": HOSTILE})  # fmt: skip
    owned(place, user)
    out, log = place / "run" / "shown.json", place / "log"
    command = command_of(launch, [str(out)], scratch, user, secrets={"HF_TOKEN": HOSTILE})
    assert popen(command, user, log).wait(timeout=60) == 0, log.read_text()
    shown = json.loads(out.read_text())
    inside = shown["env"]
    assert inside["OWN"] == HOSTILE
    assert inside["HF_TOKEN"] == HOSTILE
    assert inside["CUDA_VISIBLE_DEVICES"] == "3"
    assert not {"PYTHONPATH", "CUDA_HOME"} & inside.keys()
    assert "/host" not in inside.get("LD_LIBRARY_PATH", "")
    assert shown["cwd"] == str(place / "run")
    assert shown["shm"] == Path("/dev/shm").stat().st_dev
    assert inside["HOME"].startswith(str(scratch))
    assert inside["HF_HUB_OFFLINE"] == "1"
    assert "--nv" not in command.argv


def mounters(place: Path) -> list[int]:
    """The processes that serve the files of images to what was started in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_mounter = (process / "comm").read_text().startswith("squashfuse")
            if is_mounter and str(place).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def test_a_secret_stands_in_no_argument_and_no_file_and_nothing_outlives_a_kill(
    user, place, scratch, small_images
):
    secret = "planted-0123456789"
    program = "import os, sys, time\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)\n"
    launch = make_launch(owned(place / "run", user), small_images["sif"], program)
    owned(place, user)
    begun = place / "run" / "begun"
    command = command_of(launch, [str(begun)], scratch, user, secrets={"KEY": secret})
    process = popen(command, user, place / "log")
    try:
        wait_until(begun.exists, "the process in the container", 60)
        assert len(mounters(place)) == (0 if user is None else 1)
        for arguments in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert secret.encode() not in arguments.read_bytes(), arguments
            except OSError:
                continue
        for directory in (place, scratch):
            for path in directory.rglob("*"):
                if path.is_file():
                    assert secret.encode() not in path.read_bytes(), path
                    assert path.parent != scratch or path.stat().st_mode & 0o077 == 0, path
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        end_marked(scratch)
    assert mounters(place) == []


def test_what_is_bound_read_only_cannot_be_written(user, place, scratch, small_images):
    (place / "data").mkdir()
    (place / "data" / "x").write_text("kept")
    program = (
        "import sys\ntext = open('/seen here/x').read()\n"
        "try:\n    open('/seen here/x', 'w')\nexcept OSError as error:\n    text += str(error.errno)\n"
        "open(sys.argv[1], 'w').write(text)\n"
    )
    mounts = (Mount(str(place / "data"), "/seen here", True),)
    launch = make_launch(place / "run", small_images["sif"], program, mounts=mounts)
    owned(place, user)
    out = place / "run" / "out"
    command = command_of(launch, [str(out)], scratch, user)
    assert popen(command, user, place / "log").wait(timeout=60) == 0
    assert out.read_text() == f"kept{errno.EROFS}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": "0" * 64, "seal": None}, "is not the image it was"),
        ({"mounts": (Mount("/not there, now", "/x", True),)}, "does not see /not there, now"),
        ({"gpu": "rocm"}, "container.gpu=rocm, but"),
    ],
)
def test_a_container_that_cannot_be_as_planned_is_refused(
    place, scratch, small_images, changes, said
):
    launch = make_launch(place / "run", small_images["sif"], **changes)
    with pytest.raises(InputError, match=said):
        check_container(launch)


def test_an_image_is_read_again_only_if_it_looks_changed(place, small_images, monkeypatch):
    image = place / "copied.sif"
    shutil.copy(small_images["sif"], image)
    launch = make_launch(place / "run", image)
    read = []
    real = container_image.check_digest
    monkeypatch.setattr(
        container_image, "check_digest", lambda *words: (read.append(words), real(*words))
    )
    check_container(launch)
    assert read == []
    image.touch()
    check_container(launch)
    check_container(launch)
    assert len(read) == 1
    with image.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(image, ns=(0, launch.container["seal"]["mtime_ns"]))
    with pytest.raises(InputError, match="is not the image it was"):
        check_container(launch)
    image.unlink()
    with pytest.raises(InputError, match="cannot see"):
        check_container(launch)


def test_a_failure_of_apptainer_is_told_from_one_of_the_program(user, place, scratch, small_images):
    ends = make_launch(place / "run", small_images["sif"], "import os; os._exit(255)")
    never = make_launch(place / "other", small_images["sif"], python="/opt/no/python")
    owned(place, user)
    said = []
    for launch, log in ((ends, place / "ends"), (never, place / "never")):
        command = command_of(launch, [], scratch, user)
        code = popen(command, user, log).wait(timeout=60)
        said.append(start_failure(launch, code, log))
    assert said[0] is None
    assert said[1].startswith("the container did not start: ")
    assert "/opt/no/python" in said[1]


LISTENER = """
import os, signal, sys, time
heard = []
for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda n, frame: heard.append(n))
open(sys.argv[1], "w").close()
end = time.monotonic() + 60
while signal.SIGINT not in heard and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(0.5)
import decimal, xml.dom.minidom  # from the image, after the signals
open(sys.argv[2], "w").write("alive")
"""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


def descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in descendants(child))]


def signalled(launch, place, scratch, user, environment=None):
    """Sends every signal to every process, as Slurm's proctrack/linuxproc does; the program's
    last words."""
    begun, out = Path(launch.code).with_name("begun"), Path(launch.code).with_name("out")
    command = command_of(launch, [str(begun), str(out)], scratch, user, extra=environment)
    process = popen(command, user, place / "log")
    try:
        wait_until(begun.exists, "the process in the container", 60)
        for number in SIGNALS:
            for pid in descendants(process.pid):
                os.kill(pid, number)
        process.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        end_marked(scratch)
    return out.read_text() if out.exists() else (place / "log").read_text()


@pytest.mark.parametrize("form", ["sif", "sandbox"])
def test_the_files_of_an_image_outlive_the_signals_to_every_process(
    form, user, place, scratch, small_images
):
    launch = make_launch(place / "run", small_images[form], LISTENER)
    owned(place, user)
    assert signalled(launch, place, scratch, user) == "alive"


@pytest.mark.parametrize("user", USERS[-1:], indirect=True)
def test_without_the_shim_the_files_of_an_image_vanish(
    user, place, scratch, small_images, monkeypatch
):
    """What the test above protects from: an import fails, or a page of a library is gone."""
    if user is None:
        pytest.skip("needs root, to become an ordinary user")
    launch = make_launch(place / "run", small_images["sif"], LISTENER)
    monkeypatch.setattr(container, "fuse_protection", lambda *words: ([], os.environ["PATH"]))
    owned(place, user)
    assert signalled(launch, place, scratch, user) != "alive"


@pytest.mark.parametrize("user", USERS[-1:], indirect=True)
def test_a_build_with_its_own_mounter_unpacks_the_image_where_slurm_signals_everybody(
    user, place, scratch, small_images, monkeypatch
):
    if user is None:
        pytest.skip("needs root, to become an ordinary user")
    monkeypatch.setattr(fuse_shim, "bundles_mounter", lambda program: True)
    monkeypatch.setattr(fuse_shim, "signals_everybody", lambda environment: True)
    launch = make_launch(place / "run", small_images["sif"], LISTENER)
    owned(place, user)
    assert signalled(launch, place, scratch, user) == "alive"
    assert list((scratch / "bin").glob("*")) == []
    assert list((scratch / "tmp").glob("*")) == []


def test_a_mounter_of_its_own_is_looked_for_where_the_build_says(tmp_path):
    program = tmp_path / "apptainer"
    program.write_text(
        f'#!/bin/sh\n[ "$*" = "buildcfg LIBEXECDIR" ] && echo "{tmp_path}/lib exec"\n'
    )
    program.chmod(0o755)
    found = Program(str(program), "apptainer", (1, 4, 5))
    assert not fuse_shim.bundles_mounter(found)
    own = tmp_path / "lib exec/apptainer/bin"
    own.mkdir(parents=True)
    (own / "squashfuse_ll").touch()
    assert fuse_shim.bundles_mounter(found)
