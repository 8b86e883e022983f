"""The same container for pyxis: what srun is told, as recorded; pyxis itself cannot run here."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.container_mounts import container_mounts
from hpcjobs.node.container import process_command
from hpcjobs.node.pyxis import agent_step, refuse_unnameable, srun_options
from hpcjobs.run.container_plan import ContainerPlan, Mount
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir

GOLDEN = Path(__file__).parent / "golden"
IMAGE = "/shared/images/train.sqsh"
CASES = {
    "pyxis_mgm_lora": [
        "+experiment=mgm_lora", "container=pyxis", f"container.image={IMAGE}",
        "model.path=/shared/models/mgm-2b", "data.root=/shared/data/mgm",
        "container.hf_home=/shared/hf", "container.cache_dir=/local/cache",
    ],
    "pyxis_binds": [
        "+experiment=mgm_lora_demo", "container=pyxis", f"container.image={IMAGE}",
        "data.root=/shared/runs/demo-data", "container.binds=['/sw:/opt/sw:ro','/big data']",
    ],
}  # fmt: skip


def planned(words, run=RunDir(Path("/shared/runs/mgm"))):  # noqa: B008
    _, experiment = compose_experiment(words, here=Path("/work"))
    settings = experiment.container
    return ContainerPlan(
        kind=settings.kind, image=settings.image, digest="0" * 64, seal=None,
        mounts=container_mounts(experiment, run), gpu=settings.gpu, python=settings.python,
        hf_home=settings.hf_home, cache_dir=settings.cache_dir,
    )  # fmt: skip


def launch_of(plan, run="/shared/runs/mgm"):
    return Launch(
        python="/usr/bin/python3", nodes=2, processes_per_node=4, cpus_per_node=8, requeue=True,
        env={"OWN": "1"}, env_file=None, code=f"{run}/train.zip",
        container=None if plan is None else asdict(plan),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_srun_is_told_of_the_container_as_recorded(name):
    """Delete the golden file to record a wanted change anew."""
    plan = planned(CASES[name])
    words = ["srun", *srun_options(plan, "/shared/runs/mgm"), plan.python]
    text = " \\\n  ".join(map(shlex.quote, words)) + "\n"
    golden = GOLDEN / f"{name}.sh"
    if not golden.exists():
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("plan", [None, "apptainer"])
def test_other_containers_leave_the_agents_outside(plan):
    words = ["+experiment=mgm_lora", f"container={plan}", "container.image=/x.sif", "model.path=/m"]
    launch = launch_of(None if plan is None else planned(words))
    assert agent_step(launch, "/usr/bin/python3") == ("/usr/bin/python3", [])


@pytest.mark.parametrize("path", ["/a,b", "/a:b"])
def test_a_path_that_pyxis_cannot_say_is_refused(path):
    plan = planned(CASES["pyxis_binds"])
    with pytest.raises(ConfigError, match="a comma or a colon"):
        refuse_unnameable(ContainerPlan(**{**vars(plan), "mounts": (Mount(path, "/x", True),)}))


def test_inside_the_agent_starts_the_images_python(tmp_path):
    launch = launch_of(planned(CASES["pyxis_mgm_lora"]))
    environment = {"RANK": "3", "OWN": "1", "PATH": "/image/bin", "PYTHONPATH": "/host"}
    command = process_command(launch, ["--attempt", "1"], environment, {"KEY": "x"}, tmp_path)
    assert command.argv == [
        "/opt/venv/bin/python", "/shared/runs/mgm/train.zip", "--attempt", "1",
    ]  # fmt: skip
    assert command.env["HF_HOME"] == "/shared/hf"
    assert command.env["TRITON_CACHE_DIR"] == "/local/cache/triton"
    assert (command.env["KEY"], command.env["OWN"], command.env["RANK"]) == ("x", "1", "3")
    assert command.env["PATH"] == "/image/bin"
    assert "PYTHONPATH" not in command.env
