import pytest

pytestmark = pytest.mark.slurm


def test_x(slurm):
    j = slurm.submit("-N2", "--wrap", "srun hostname", "-o", "out")
    assert slurm.wait_for_state(j, "COMPLETED")["Restarts"] == "0"
    assert sorted((slurm.home / "out").read_text().split()) == ["node1", "node2"]


def test_two(slurm):
    with SlurmCluster.running(user="nobody") as c:
        j = c.submit("-N2", "--wrap", "srun hostname; id -un", "-o", "out")
        c.wait_for_state(j, "COMPLETED")
        assert (c.home / "out").read_text().split() == ["node1", "node2", "nobody"]


from cluster.slurm_cluster import SlurmCluster
