"""Fixtures for the whole suite."""

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from cluster.slurm_cluster import SlurmCluster, missing_daemons

from hpcjobs.run.container_program import Program, detect
from hpcjobs.run.errors import InputError


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A running cluster: 4 nodes of 4 CPUs and 2 pretended GPUs; the partition low is preemptible.

    Without Slurm the test is skipped, or fails where HPCJOBS_REQUIRE_SLURM=1 asks for it.
    """
    if missing := missing_daemons():
        reason = f"not installed: {', '.join(missing)}; see tests/cluster/install.sh"
        if os.environ.get("HPCJOBS_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with SlurmCluster.running(nnodes=4, cpus=4, gpus=2, grace=20) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def container_program() -> Program:
    """The container program of this machine.

    Without one the test is skipped, or fails where HPCJOBS_REQUIRE_CONTAINER=1 asks for it.
    """
    try:
        return detect()
    except InputError as error:
        if os.environ.get("HPCJOBS_REQUIRE_CONTAINER") == "1":
            pytest.fail(str(error))
        pytest.skip(f"{error}; see tests/cluster/install-apptainer.sh")


@pytest.fixture(scope="session")
def image(container_program: Program) -> Path:
    """The image of ``singularity/train-cpu.def``, readable by every user.

    It takes minutes to build and is kept from one session to the next, until the definition
    changes. HPCJOBS_TEST_IMAGE names one that is there already.
    """
    if given := os.environ.get("HPCJOBS_TEST_IMAGE"):
        return Path(given)
    place = Path(f"/var/tmp/hpcjobs-test-images-{os.getuid()}")
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    assert place.stat().st_uid == os.getuid(), f"{place} belongs to somebody else"
    words = ["build", "train-cpu", "--shared", "--output", str(place / "train-cpu.sif")]
    built = subprocess.run(
        [sys.executable, "-m", "hpcjobs.container", *words], capture_output=True, text=True
    )
    if built.returncode != 0:
        pytest.fail(f"the image was not built: {built.stderr}")
    return Path(built.stdout.strip())


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The cluster is shared: a job that a failed test left behind would fail the next one."""
    cluster = request.getfixturevalue("slurm") if "slurm" in request.fixturenames else None
    yield
    if cluster is not None:
        cluster.cancel_all()


@pytest.fixture(autouse=True)
def _umask_stays() -> Iterator[None]:
    """A command's door makes everything private, for the rest of its process; tests share one."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def _bad_nodes_of_this_suite(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs of the tests keep what they know of nodes to themselves: all clusters have a node1."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def _bad_nodes_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that one test makes sick is well again in the next."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def weird_tmp_path(tmp_path: Path) -> Path:
    """A directory with the characters in its name that unquoted shell and sbatch lines break on."""
    path = tmp_path / "it's a $HOME für 模型"
    path.mkdir()
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of the daemons' logs into the report of a test that failed on the cluster."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("slurm")
    if report.failed and isinstance(cluster, SlurmCluster):
        report.sections.append(("Slurm logs", cluster.logs()))
    return report
