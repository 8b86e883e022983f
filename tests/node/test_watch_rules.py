"""The parts of the watch: limits of silence, the sampling of alarms, and the card's tool."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node.gpu_use import CardUse, parse_use
from hpcjobs.node.lookout import Lookout
from hpcjobs.node.proc import end_marked_processes, marked, memory_limit_bytes, view_process
from hpcjobs.node.silence import Silence, allowed_s
from hpcjobs.run.beat import PHASES, Beat
from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.watch_config import WatchSettings, read_settings

SETTINGS = WatchSettings()
BEAT = Beat(0, 1, 1, 9, 3, "forward", 0, 8, 10_000, 0.0, 2.0, 0.0, 0.0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "expected_s"),
    [
        ({}, 600),
        ({"step_s": 120.0}, 1200),
        ({"phase": "collective", "step_s": 120.0}, 1200),
        ({"lap": 1, "step_s": None}, 1800),
        ({"lap": 3}, 1800),
        ({"phase": "start", "lap": 0}, 1800),
        ({"phase": "load", "lap": 0}, 3600),
        ({"phase": "save", "step_s": 0.1}, 3600),
        ({"phase": "heldout"}, 3600),
        ({"phase": "export"}, 3600),
        ({"phase": "done"}, 3600),
    ],
)
def test_every_phase_has_its_limit_and_a_step_at_least_ten_medians(changes, expected_s):
    assert allowed_s(replace(BEAT, **changes), SETTINGS) == expected_s


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "done"])
@given(lap=st.integers(0, 10), step_s=st.none() | st.floats(0, 3600), quiet_s=st.floats(0, 600))
def test_ten_minutes_are_never_a_hang_by_default(phase, lap, step_s, quiet_s):
    """A slow step, a compilation, a checkpoint of ten minutes."""
    assert quiet_s <= allowed_s(replace(BEAT, phase=phase, lap=lap, step_s=step_s), SETTINGS)


def test_only_a_new_beat_ends_the_silence():
    silence = Silence(100.0)
    assert silence.look(None, 110.0, 30) == 10
    assert silence.look(BEAT, 111.0, 30) == 0
    assert silence.look(BEAT, 121.0, 30) == 10
    assert silence.look(None, 131.0, 30) == 20
    assert silence.look(replace(BEAT, sequence=2), 141.0, 30) == 0


def test_a_watcher_that_was_stopped_itself_does_not_count_that_time():
    silence = Silence(0.0)
    silence.look(BEAT, 1.0, 30)
    assert silence.look(BEAT, 6.0, 30) == 5
    assert silence.look(BEAT, 3606.0, 30) == 5
    assert silence.look(BEAT, 3616.0, 30) == 15


def test_settings_of_another_version_are_read_as_far_as_they_are_known():
    assert read_settings({}) == SETTINGS
    assert read_settings({"hang_s": 7.0, "unheard_of": 1}) == replace(SETTINGS, hang_s=7.0)


@given(st.text())
def test_any_answer_of_the_cards_tool_is_read(text):
    assert all(isinstance(percent, float) for percent in parse_use(text).values())


def tool(place, script):
    path = place / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def ask(use, wait_s=10.0):
    use.ask(0.0)
    deadline = time.monotonic() + wait_s
    while (answer := use.answer(0.0)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer


def test_the_cards_of_the_job_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool(tmp_path, f'echo "$@" > {tmp_path}/words; echo "2, 93"; echo "3, [N/A]"')
    use = CardUse({"CUDA_VISIBLE_DEVICES": "2,3"})
    assert ask(use) == {"2": 93.0}
    assert "--id=2,3" in (tmp_path / "words").read_text()
    assert ask(use) == {"2": 93.0}


def test_a_tool_that_fails_or_is_absent_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = CardUse({})
    assert ask(absent, 0.1) is None
    tool(tmp_path, "echo 0, 0; exit 9")
    assert ask(CardUse({}), 1.0) is None


def test_a_tool_that_never_answers_delays_nothing_and_is_not_asked_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool(tmp_path, f"echo x >> {tmp_path}/asked; exec sleep 60")
    use = CardUse({})
    began = time.monotonic()
    for _ in range(3):
        use.ask(0.0)
        assert use.answer(1.0) is None
    assert time.monotonic() - began < 5
    use.close()
    assert not (tmp_path / "asked").exists() or (tmp_path / "asked").read_text().count("x") == 1


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def lookout(run, node, nodes, pids, **settings):
    run.attempt(1).path.mkdir(parents=True, exist_ok=True)
    return Lookout(run, 1, node, nodes, WatchSettings(window_s=600.0, **settings), pids)


def train_through(watchers, minutes, waited=0.0, computed=None):
    """Feeds every watcher the beats of its ranks, one lap every ten seconds."""
    for look in range(2 * minutes):
        at_s, lap = 30.0 * look, 10 + 3 * look
        for watcher, ranks in watchers.items():
            beats = {
                rank: replace(
                    BEAT, rank=rank, lap=lap, step=lap, data_s=waited * at_s,
                    compute_s=(computed or {}).get(rank, 1.0) * lap,
                )
                for rank in ranks
            }  # fmt: skip
            watcher.look(beats, at_s)


def alarms(run):
    return [(e["kind"], e["what"], e["subject"]) for e in read_lines(run.events)]


def test_a_run_without_trouble_raises_no_alarm(tmp_path, sleeper):
    run = RunDir(tmp_path)
    train_through({lookout(run, 0, 1, {0: sleeper.pid, 1: sleeper.pid}): (0, 1)}, minutes=30)
    assert alarms(run) == []


def test_waiting_for_data_is_said_once_and_cleared_when_it_is_over(tmp_path, sleeper):
    run = RunDir(tmp_path)
    watcher = lookout(run, 0, 1, {0: sleeper.pid})
    for look in range(120):
        at_s, lap = 30.0 * look, 10 + 3 * look
        waited_s = 0.5 * min(at_s, 1200.0)  # for twenty minutes
        watcher.look({0: replace(BEAT, lap=lap, step=lap, data_s=waited_s)}, at_s)
    said, over = read_lines(run.events)
    assert (said["kind"], over["kind"]) == ("alarm", "alarm_cleared")
    assert said["figures"]["shares"] == {"0": 0.5}
    assert "50% of its time waiting for data" in said["text"]


def test_a_straggler_on_another_node_is_named_by_the_first_node_alone(tmp_path, sleeper):
    run = RunDir(tmp_path)
    second = lookout(run, 1, 2, {2: sleeper.pid, 3: sleeper.pid})
    first = lookout(run, 0, 2, {0: sleeper.pid, 1: sleeper.pid})
    train_through({second: (2, 3), first: (0, 1)}, minutes=20, computed={3: 1.5})
    assert alarms(run) == [("alarm", "straggler", "rank 3")]
    assert read_json(run.attempt(1).watch(1))["paces"]["3"] == pytest.approx(1.5)


LEAK = """
import sys
kept = []
for line in sys.stdin:
    kept.append(bytes(1) * (int(line) << 20))
    print(flush=True)
"""


def test_the_memory_of_a_leaking_process_is_said_with_step_and_limit(tmp_path, monkeypatch):
    """Two MiB a look, which here is three steps, under a limit of one GiB."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    process = subprocess.Popen(
        [sys.executable, "-c", LEAK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    run = RunDir(tmp_path)
    watcher = lookout(run, 0, 1, {0: process.pid})
    try:
        for look in range(50):
            print(2, file=process.stdin, flush=True)
            process.stdout.readline()
            step = 10 + 3 * look
            watcher.look({0: replace(BEAT, lap=step, step=step)}, 30.0 * look)
    finally:
        process.communicate()
    (event,) = read_lines(run.events)
    assert (event["what"], event["figures"]["rank"]) == ("host_memory", 0)
    assert event["figures"]["limit_bytes"] == 1 << 30
    assert event["figures"]["bytes_a_step"] == pytest.approx((2 << 20) / 3, rel=0.1)
    assert 1000 < event["figures"]["step"] < 1800
    assert "rank 0 and its loaders grew most" in event["text"]


def test_cards_reserved_memory_has_the_cards_own_limit(tmp_path, sleeper):
    run = RunDir(tmp_path)
    watcher = lookout(run, 0, 1, {0: sleeper.pid})
    for look in range(50):
        step = 10 + 3 * look
        beat = replace(
            BEAT, lap=step, step=step, reserved_bytes=(20 << 30) + (step << 24), card_bytes=80 << 30
        )
        watcher.look({0: beat}, 30.0 * look)
    (event,) = read_lines(run.events)
    assert (event["what"], event["subject"]) == ("gpu_memory", "rank 0")
    assert event["figures"]["step"] == pytest.approx((60 << 30) / (1 << 24), rel=0.01)


def test_an_unread_card_is_no_idle_card_and_a_read_one_is(tmp_path, sleeper, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool(tmp_path, 'echo "0, 0"; echo "1, [Unknown Error]"')
    run = RunDir(tmp_path / "run")
    watcher = lookout(run, 0, 1, {0: sleeper.pid})
    for look in range(30):
        step = 10 + 3 * look
        time.sleep(0.05)  # the tool answers in the background
        watcher.look({0: replace(BEAT, lap=step, step=step)}, 30.0 * look)
    assert {subject.rpartition(":")[2] for _, _, subject in alarms(run)} == {"0"}


def test_a_full_disk_does_not_end_the_watch(tmp_path, sleeper):
    run = RunDir(tmp_path)
    watcher = lookout(run, 0, 2, {0: sleeper.pid})
    run.attempt(1).path.rmdir()
    train_through({watcher: (0,)}, minutes=20, waited=0.9)


def test_a_process_is_found_by_its_mark_wherever_it_went(tmp_path):
    mark = f"HPCJOBS_TEST_MARK={tmp_path}"
    environment = {**os.environ, "HPCJOBS_TEST_MARK": str(tmp_path)}
    script = "trap '' TERM INT HUP; (setsid sleep 600 &) ; sleep 600"
    started = subprocess.Popen(["sh", "-c", script], env=environment)
    deadline = time.monotonic() + 10
    while len(marked(mark)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(marked(mark)) == 3
    assert end_marked_processes(mark, 10.0) == []
    assert marked(mark) == []
    assert started.wait(10) < 0
    assert view_process(os.getpid()).state == "R"


@pytest.mark.parametrize(("words", "expected"), [("100", 100 << 20), ("0", None), ("x", None)])
def test_slurms_memory_of_a_node_is_a_limit_where_there_is_one(words, expected):
    installed = memory_limit_bytes({})
    assert installed is not None
    assert memory_limit_bytes({"SLURM_MEM_PER_NODE": words}) == (expected or installed)
