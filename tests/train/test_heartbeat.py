"""What a training process tells of itself, and that nobody has to listen."""

import os
import sys
import time
from types import SimpleNamespace

import pytest

from hpcjobs.run.beat import BEATS_VARIABLE, beat_path, dump_path, read_beat
from hpcjobs.train.heartbeat import SILENT, Heartbeat, open_heartbeat


@pytest.fixture
def beats(tmp_path):
    return Heartbeat(beat_path(tmp_path, 3), 3)


@pytest.fixture
def last(tmp_path):
    return lambda: read_beat(beat_path(tmp_path, 3))


def test_without_an_agent_nothing_is_written_and_no_signal_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beats = open_heartbeat({}, 0)
    assert beats is SILENT
    assert not beats.watched
    beats.lap(1, 2)
    beats.enter("data")
    beats.alive()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_silences_the_beats_and_not_the_training(
    tmp_path, capsys
):
    beats = open_heartbeat({BEATS_VARIABLE: str(tmp_path / "gone")}, 0)
    assert beats is SILENT
    assert capsys.readouterr().err.startswith("no heartbeat: ")


def test_the_first_beat_comes_at_once_and_tells_who_it_is(beats, last):
    first = last()
    assert (first.rank, first.pid, first.phase, first.lap) == (3, os.getpid(), "start", 0)
    assert first.step_s is None
    assert first.resident_bytes > 1 << 20
    assert abs(first.at_s - time.monotonic()) < 5


def test_a_lap_starts_counting_points_anew_and_being_alive_is_no_point(beats, last):
    beats.enter("load")
    beats.alive()
    assert (last().place, last().sequence) == ((0, 1), 3)
    beats.lap(step=40, steps=100)
    assert last().place == (1, 0)
    beats.enter("forward", micro=2)
    seen = last()
    assert (seen.place, seen.phase, seen.micro, seen.step, seen.steps) == (
        (1, 1), "forward", 2, 40, 100)  # fmt: skip


def test_the_median_lap_is_known_after_three_and_a_slow_one_does_not_move_it(beats, last):
    for lap in range(6):
        beats.lap(lap, 10)
        assert (last().step_s is None) == (lap < 3)
        time.sleep(0.3 if lap == 1 else 0.01)
    assert last().step_s < 0.2


def test_time_is_booked_to_the_phase_that_it_was_spent_in(beats, last):
    beats.enter("data")
    time.sleep(0.05)
    beats.enter("forward")
    time.sleep(0.1)
    beats.enter("backward")
    time.sleep(0.02)
    beats.enter("collective")
    assert 0.05 <= last().data_s < 0.1 <= last().compute_s


def test_a_loaders_copy_does_not_speak_for_its_parent(beats, last):
    before = last()
    child = os.fork()
    if child == 0:
        beats.enter("data")
        os._exit(0)
    os.waitpid(child, 0)
    assert last() == before


def test_a_file_that_cannot_be_written_any_more_does_not_fail_the_training(beats):
    os.close(beats._file)
    beats.enter("data")
    beats.lap(1, 2)
    beats._file = os.open("/dev/null", os.O_WRONLY)


def test_the_files_are_private(tmp_path, beats):
    assert beat_path(tmp_path, 3).stat().st_mode & 0o777 == 0o600
    assert dump_path(tmp_path, 3, 1).name == "stacks-3.worker-1"


class Event:
    """A card's clock: every event comes a tenth of a second after the one before."""

    count = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.count += 1
        self.at_ms = 100.0 * Event.count

    def query(self):
        return True

    def elapsed_time(self, other):
        return other.at_ms - self.at_ms


def test_with_a_card_its_own_clock_and_memory_count(tmp_path, monkeypatch):
    """No card here: this shows the arithmetic, benchmarks/heartbeat.py runs on a real one."""
    cuda = SimpleNamespace(
        is_initialized=lambda: True, Event=Event, current_device=lambda: 0,
        memory_allocated=lambda: 5, memory_reserved=lambda: 7,
        get_device_properties=lambda _: SimpleNamespace(total_memory=80),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    beats = Heartbeat(beat_path(tmp_path, 0), 0)
    for micro in range(2):
        beats.enter("forward", micro)
        beats.enter("backward", micro)
    assert read_beat(beat_path(tmp_path, 0)).compute_s == 0
    beats.lap(1, 10)
    seen = read_beat(beat_path(tmp_path, 0))
    assert seen.compute_s == pytest.approx(0.2)
    assert (seen.allocated_bytes, seen.reserved_bytes, seen.card_bytes) == (5, 7, 80)
