"""Fixtures for the whole suite."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from cluster.slurm_cluster import SlurmCluster, missing_daemons


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
