"""The batch script: exactly as recorded, safe with any name, and valid shell."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.render import check_run_path, render_script, sbatch_word
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.layout import RunDir

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "/opt/env/bin/python"

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


def test_the_partition_cannot_smuggle_a_line():
    _, experiment = compose_experiment(CASES["cpu_only"], here=Path("/work"))
    with pytest.raises(ConfigError, match="control character"):
        replace(experiment.cluster, partition="a\n#SBATCH --wrap=id")
