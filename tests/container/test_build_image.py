"""The image that the tests train in, as ``singularity/train-cpu.def`` makes it.

Slow: building it takes two minutes where no earlier session left it; its own test takes 10 s.
"""

import os
import subprocess
from pathlib import Path

import pytest
from users import as_user

from hpcjobs.login.container_definition import find_definition
from hpcjobs.run.image_record import read_record

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.timeout(1200)]

PACKAGES = """
import importlib.metadata as m
for d in m.distributions():
    print(d.metadata['Name'].lower().replace('_', '-').replace('.', '-'), d.version.split('+')[0])
"""


def inside(program, image, *words, **how):
    return subprocess.run(
        [program.path, "exec", "--cleanenv", *how.pop("options", []), str(image), *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        **how,
    )


def test_the_image_holds_the_locked_versions_and_takes_a_training_step(container_program, image):
    asked = inside(container_program, image, "python", "-c", PACKAGES)
    assert asked.returncode == 0, asked.stderr
    held = dict(line.split() for line in asked.stdout.splitlines())
    locked = find_definition("train-cpu").versions
    assert {name: held[name] for name in held if name != "pip"} == {
        name: locked.get(name) for name in held if name != "pip"
    }
    assert {"torch", "deepspeed", "transformers", "peft", "safetensors"} <= held.keys()
    if (record := read_record(image)) is not None:
        assert record.versions == locked

    tested = subprocess.run(
        [container_program.path, "test", "--cleanenv", str(image)], capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stderr
    assert "one ZeRO-1 step on cpu: ok" in tested.stdout


def test_an_ordinary_user_s_own_packages_do_not_shadow_the_image_s(
    container_program, image, open_tmp_path
):
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody else")
    shadow = open_tmp_path / ".local/lib/python3.11/site-packages"
    shadow.mkdir(parents=True)
    (shadow / "numpy.py").write_text("raise SystemExit('the user\\'s own')\n")
    for path in (shadow, *shadow.parents):
        if path.is_relative_to(open_tmp_path):
            path.chmod(0o755)
    words = ["python", "-c", "import numpy; print(numpy.__file__)"]
    told = {"options": ["--home", str(open_tmp_path)], "cwd": Path("/tmp")}

    def as_other():
        return inside(container_program, image, *words, **told).stdout

    assert as_user("nobody", as_other).startswith("/opt/venv/")
