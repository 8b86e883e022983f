"""A run is not begun where somebody else could replace its checkpoints."""

from runs import submit
from tiny import tiny_words, write_tiny_data


def test_a_place_that_others_can_change_is_refused_before_anything_is_written(tmp_path):
    data = write_tiny_data(tmp_path / "data", samples=8, heldout=8)
    runs = tmp_path / "shared"
    runs.mkdir()
    runs.chmod(0o777)
    answer = submit(tiny_words(data, runs_dir=runs), tmp_path)
    assert answer.returncode == 3
    assert answer.stderr.startswith(f"error: {runs} can be written by everybody")
    assert len(answer.stderr.splitlines()) == 1
    assert list(runs.iterdir()) == []
