"""The wheel works outside the source tree: configuration and templates travel in it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The built wheel, unpacked as an installation would."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", place, ROOT],
        check=True,
    )  # fmt: skip
    (wheel,) = place.glob("hpcjobs-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_the_wheel_holds_what_the_commands_read(installed):
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert "hpcjobs/conf/config.yaml" in names
    assert "hpcjobs/conf/experiment/mgm_lora_demo.yaml" in names
    assert "hpcjobs/sbatch_templates/job.sbatch.j2" in names
    assert "hpcjobs/singularity/train.def" in names
    assert "hpcjobs/singularity/lock.txt" in names
    assert "hpcjobs/data/demo_captions.json" in names
    assert not {name for name in names if name.startswith(("conf/", "tests/"))}


def test_a_dry_run_works_from_the_wheel_alone(installed, tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import hpcjobs.login.submit as s; "
        f"assert s.__file__.startswith({str(installed)!r}), s.__file__; "
        f"s.submit(['+experiment=mgm_lora_demo', 'dry_run=true'])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "#SBATCH --job-name=mgm-lora-demo" in answer.stdout
