"""The agent's private directory, and the kernel's count of what it killed for memory."""

import os

import pytest

from hpcjobs.node.memory_kills import memory_kills
from hpcjobs.node.scratch import open_scratch, scratch_path
from hpcjobs.run.layout import RunDir


def test_every_node_of_a_run_has_its_own_place_and_finds_it_again(tmp_path):
    places = {"SLURM_TMPDIR": str(tmp_path), "TMPDIR": "/elsewhere"}
    run = RunDir(tmp_path / "a:b, c")
    paths = [scratch_path(run, node, places) for node in (0, 1, 0)]
    assert paths[0] == paths[2] != paths[1]
    assert paths[0].is_relative_to(tmp_path)
    assert not set(paths[0].name) & set(":, ")
    other = scratch_path(RunDir(tmp_path / "other" / "a:b, c"), 0, places)
    assert other != paths[0]


@pytest.mark.parametrize("places", [{}, {"TMPDIR": ""}, {"TMPDIR": "/no/such/place"}])
def test_without_a_place_of_its_own_it_lies_in_tmp(tmp_path, places):
    assert str(scratch_path(RunDir(tmp_path), 0, places)).startswith(f"/tmp/hpcjobs-{os.getuid()}/")


def test_it_is_empty_private_and_gone_at_the_end(tmp_path):
    path = tmp_path / "hpcjobs-0" / "scratch"
    path.parent.mkdir(mode=0o700)
    path.mkdir()
    (path / "left by a killed agent").touch()
    with open_scratch(path) as scratch:
        assert scratch == path
        assert list(scratch.iterdir()) == []
        assert scratch.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_a_place_that_others_can_enter_is_not_used(tmp_path):
    squatted = tmp_path / "hpcjobs-0"
    squatted.mkdir()
    squatted.chmod(0o777)
    with open_scratch(squatted / "scratch") as scratch:
        assert not scratch.is_relative_to(squatted)
        assert scratch.stat().st_mode & 0o777 == 0o700
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("nr_free_pages 17\noom_kill 3\nnr_x 1\n", 3),
        ("oom_kill_x 3\n", None),
        ("oom_kill many\n", None),
        ("", None),
    ],
)
def test_the_kernels_count_is_read_or_unknown(tmp_path, text, kills):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text(text)
    assert memory_kills(vmstat) == kills
    assert memory_kills(tmp_path / "missing") is None
