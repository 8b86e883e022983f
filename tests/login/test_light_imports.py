"""Login-node commands import nothing heavy, and leave nothing lying about."""

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "deepspeed", "transformers", "peft", "numpy", "pandas", "submitit"}
PROGRAM = """
import sys
from hpcjobs.login.{module} import {name}
try:
    {name}({words})
except SystemExit:
    pass
print(sorted({heavy} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("submit", "submit", ["+experiment=mgm_lora", "dry_run=true"]),
        ("submit", "submit", ["--help"]),
        ("follow_command", "follow_command", ["--help"]),
        ("container_command", "container", ["--help"]),
        ("prefetch_command", "prefetch", ["--help"]),
    ],
)
def test_a_command_that_submits_nothing_loads_nothing_heavy(module, name, words, tmp_path):
    program = PROGRAM.format(module=module, name=name, words=words, heavy=HEAVY)
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert answer.stderr.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_warns_of_what_would_stop_the_real_one(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "hpcjobs.submit", "+experiment=mgm_lora", "dry_run=true"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert answer.returncode == 0
    assert "#SBATCH --gpus-per-node=4" in answer.stdout
    assert "warning: model directory" in answer.stderr
    assert "write model.path=DIR" in answer.stderr
    assert "data.train" in answer.stderr
