"""What can be said of the test cluster's own code without starting a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.slurm_cluster import SCRIPTS, parse_job

TESTS = Path(__file__).parents[1]


def test_parse_job_keeps_blanks_and_equals_signs_in_values() -> None:
    line = "JobId=7 JobName=a b TRES=cpu=1,node=2 ReqB:S:C:T=0:0:*:* StdOut=/x y/it's=1 Power= \n"
    assert parse_job(line) == {
        "JobId": "7",
        "JobName": "a b",
        "TRES": "cpu=1,node=2",
        "ReqB:S:C:T": "0:0:*:*",
        "StdOut": "/x y/it's=1",
        "Power": "",
    }


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_without_slurm_a_test_is_skipped_unless_slurm_is_required(
    required: str, outcome: str
) -> None:
    one_test = "cluster/test_cluster.py::test_every_node_is_idle"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", one_test],
        capture_output=True,
        check=False,
        cwd=TESTS,
        env=os.environ | {"PATH": "", "HPCJOBS_REQUIRE_SLURM": required},
        text=True,
        timeout=60,
    )
    assert outcome in done.stdout
    assert "not installed" in done.stdout


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; see tests/cluster/install.sh")
    done = subprocess.run(["shellcheck", script], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout
