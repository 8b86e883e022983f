"""The batch script: exactly as recorded, safe with any name, and valid shell."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.login.allocation import refuse_unfit_allocation
from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.figures import Figures
from hpcjobs.login.planned_figures import Planned
from hpcjobs.login.preview import preview_rows
from hpcjobs.login.render import check_run_path, render_script, sbatch_options, sbatch_word
from hpcjobs.login.site import Site, longest_s, look_at_site, parse_limits
from hpcjobs.run.errors import ConfigError, HpcjobsError
from hpcjobs.run.layout import RunDir

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "/opt/env/bin/python"
FIGURES, PLANNED = Figures(2, 1), Planned("unknown", "unknown")

CASES = {
    "demo_two_nodes": ["+experiment=mgm_lora_demo", "parallel.nodes=2", "parallel.gpus_per_node=1"],
    "mgm_lora_full_cluster": [
        "+experiment=mgm_lora", "cluster.partition=gpu", "cluster.account=vision", "cluster.qos=long",
        "cluster.constraint='a100&ib'", "cluster.gpu_type=a100", "cluster.mem=200G", "cluster.time=1-0",
        "cluster.setup=[module load cuda/12.4,ulimit -n 65536]", "cluster.requeue=false",
        "+cluster.sbatch.exclude='node[7-9]'", "+cluster.sbatch.exclusive=true",
        "+cluster.sbatch.mail-type=null", "+cluster.sbatch.comment='a \"quoted\" #1 $HOME'",
    ],
    "cpu_only": ["+experiment=mgm_lora_demo", "parallel.device=cpu"],
}  # fmt: skip


def rendered(words, run="/scratch/runs/demo", here=Path("/work")):
    _, experiment = compose_experiment(words, here=here)
    return render_script(experiment, RunDir(Path(run)), PYTHON)


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_the_recorded_one(name):
    """Delete the golden file to record a wanted change anew."""
    golden = GOLDEN / f"{name}.sbatch"
    script = rendered(CASES[name])
    if not golden.exists():
        golden.write_text(script)
    assert script == golden.read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_clean_shell(name, tmp_path):
    script = tmp_path / "job.sbatch"
    script.write_text(rendered(CASES[name], run="/scratch/it's a $HOME `id` für/模型"))
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.fail("shellcheck is not installed: run tests/cluster/install.sh")
    subprocess.run(["shellcheck", "--severity=warning", script], check=True)


@pytest.mark.parametrize(
    "name",
    ["two words", "it's", 'a"b', "$(touch canary)", "`touch canary`", "a;touch canary", "#x", "-x",
     "für 模型", "a&b", "100%", "%j", "*", "~"],
)  # fmt: skip
def test_a_hostile_directory_is_inert(name, tmp_path):
    run = tmp_path / name
    run.mkdir()
    script = tmp_path / "job.sbatch"
    script.write_text(rendered(CASES["demo_two_nodes"], run=str(run)))
    fake = tmp_path / "python"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$OUT"\n')
    fake.chmod(0o700)
    out = tmp_path / "arguments"
    text = script.read_text().replace(PYTHON, str(fake))
    script.write_text(text)
    subprocess.run(["bash", script], check=True, cwd=tmp_path, env={"OUT": str(out)})
    assert out.read_text().splitlines() == ["-Iu", f"{run}/node.pyz", "broker", str(run)]
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("path", ["/a\nb", "/a\\b", "/a\x07b"])
def test_a_directory_that_sbatch_cannot_name_is_refused(path):
    with pytest.raises(ConfigError, match="backslash or a control character"):
        check_run_path(Path(path))


@given(st.text(max_size=30))
def test_any_value_on_an_sbatch_line_is_one_word_or_refused(value):
    try:
        word = sbatch_word(value)
    except ConfigError:
        assert any(ord(c) < 32 or ord(c) == 127 for c in value)
        return
    assert "\n" not in word
    if word.startswith('"'):
        assert word[1:-1].replace('\\"', '"').replace("\\\\", "\\") == value or "\\" in value
    else:
        assert word == value
        assert not set(word) & set(" #'\"\\$`;&|<>()*?~")


BAD = ("gpu-3", "gpu-4")


@pytest.mark.parametrize(
    ("time", "limit_s", "written", "in_chunks"),
    [
        ("2-0", 43200, "12:00:00", True), ("12:00:01", 43200, "12:00:00", True),
        ("12:00:00", 43200, "12:00:00", False), ("90", 43200, "90", False),
        ("30-0", 7 * 86400, "7-00:00:00", True), ("30-0", None, "30-0", False),
    ],
)  # fmt: skip
def test_a_job_asks_for_no_more_time_than_its_partition_gives(time, limit_s, written, in_chunks):
    _, experiment = compose_experiment([*CASES["cpu_only"], f"cluster.time='{time}'"])
    site = Site(limit_s)
    assert ("time", written) in sbatch_options(experiment, RunDir(Path("/r")), site)
    assert site.in_chunks(experiment.cluster) is in_chunks
    rows = dict(preview_rows(experiment, RunDir(Path("/r")), FIGURES, PLANNED, site))
    assert rows["time limit"] == (f"{time}, in chunks of {written}" if in_chunks else time)


@pytest.mark.parametrize(
    ("own", "bad", "written"),
    [
        ([], (), []), ([], BAD, ["gpu-3,gpu-4"]),
        (["+cluster.sbatch.exclude='n[7-9]'"], BAD, ["n[7-9],gpu-3,gpu-4"]),
        (["+cluster.sbatch.exclude=null"], BAD, ["gpu-3,gpu-4"]),
    ],
)  # fmt: skip
def test_bad_nodes_are_added_to_the_users_own(own, bad, written):
    _, experiment = compose_experiment([*CASES["cpu_only"], *own])
    options = sbatch_options(experiment, RunDir(Path("/r")), Site(None, bad))
    assert [value for name, value in options if name == "exclude"] == written


LINE = "PartitionName=gpu AllowQos=ALL Default=YES MaxNodes=UNLIMITED MaxTime={} MinNodes=0"


@pytest.mark.parametrize(
    ("partition", "text", "limit"),
    [
        ("gpu", LINE.format("12:00:00"), 43200), (None, LINE.format("1-00:00:00"), 86400),
        ("gpu", LINE.format("UNLIMITED"), None), ("gpu", "", None), ("gpu", "slurm_load error", None),
        ("other", LINE.format("12:00:00"), None),
        ("gpu,big", LINE.format("60") + "\nPartitionName=big MaxTime=2-00:00:00", 172800),
        ("gpu,big", LINE.format("60"), None), ("gpu", LINE.format("soon"), None),
    ],
)  # fmt: skip
def test_an_unknown_limit_restricts_nothing(partition, text, limit):
    assert longest_s(parse_limits(text), partition) == limit


@given(st.text())
def test_any_answer_about_partitions_is_read(text):
    assert all(limit is None or limit > 0 for limit in parse_limits(text).values())


def test_a_partition_in_which_no_run_could_save_is_refused():
    _, experiment = compose_experiment([*CASES["cpu_only"], "cluster.partition=gpu"])
    said = subprocess.CompletedProcess([], 0, LINE.format("00:02:00"), "")
    with pytest.raises(ConfigError, match="jobs in gpu end after 00:02:00"):
        look_at_site(experiment, lambda _: said)


ROOM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_CPUS_PER_NODE": "8(x2)"}


@pytest.mark.parametrize(
    ("changes", "environment", "gres", "said"),
    [
        (["parallel.nodes=2"], ROOM, "gpu:a100:4", None),
        (["parallel.nodes=2"], {"SLURM_JOB_ID": "7"}, None, None),
        (["parallel.nodes=4"], ROOM, "gpu:a100:8", "has 2 nodes, and the run needs 4"),
        (["cluster.cpus_per_node=9"], ROOM, "gpu:a100:8", "has 8 CPUs on a node"),
        (["parallel.nodes=2"], ROOM, "gpu:a100:3", "has 3 GPUs, and the run needs 4"),
        (["parallel.nodes=2"], ROOM, "(null)", "has 0 GPUs"),
        (["parallel.nodes=2", "parallel.device=cpu"], ROOM, "(null)", None),
        ([], {}, None, "SLURM_JOB_ID is not set"),
    ],
)
def test_an_allocation_that_is_too_small_is_refused_in_one_line(changes, environment, gres, said):
    words = ["+experiment=mgm_lora_demo", "cluster=allocation", "parallel.gpus_per_node=2"]
    words += ["parallel.micro_batch=1", *changes]
    _, experiment = compose_experiment(words)
    line = f"JobId=7 JOB_GRES={gres} Nodes=n1 GRES=gpu:a100:1" if gres else "JobId=7"
    answer = subprocess.CompletedProcess([], 0, line, "")
    if said is None:
        refuse_unfit_allocation(experiment, environment, lambda _: answer)
        return
    with pytest.raises(HpcjobsError, match=said) as error:
        refuse_unfit_allocation(experiment, environment, lambda _: answer)
    assert "\n" not in str(error.value)


def test_the_partition_cannot_smuggle_a_line():
    _, experiment = compose_experiment(CASES["cpu_only"], here=Path("/work"))
    with pytest.raises(ConfigError, match="control character"):
        replace(experiment.cluster, partition="a\n#SBATCH --wrap=id")
