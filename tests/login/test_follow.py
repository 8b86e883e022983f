"""Following a run reads only its directory, and says what to type next."""

import io
import os
import shlex

import pytest
from rich.console import Console

from hpcjobs.login import follow_command
from hpcjobs.login.follow import follow, resume_command, show_result
from hpcjobs.login.follow_command import has_ended
from hpcjobs.run.errors import TrainingFailedError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import append_line, write_json
from hpcjobs.run.holder import Holder, take
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, write_verdict


@pytest.fixture
def run(weird_tmp_path):
    run = RunDir(weird_tmp_path / "run")
    run.path.mkdir()
    write_json(run.record, {"overrides": ["+experiment=mgm_lora_demo", "run_dir=old"]})
    run.new_attempt()
    return run


def ended(kind):
    return ("attempt_ended", {"decision": {"kind": kind}})


HERE = ("attempt_started", {"job_id": None})
ON_SLURM = ("attempt_started", {"job_id": "12"})


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], False),
        ([("submitted", {}), ("attempt_started", {})], False),
        ([ON_SLURM, ended("stop")], True),
        ([ON_SLURM, ended("done")], True),
        ([ON_SLURM, ended("restart")], False),
        ([HERE, ended("restart")], False),
        ([HERE, ended("later")], True),
        ([ON_SLURM, ended("later")], False),  # Slurm itself may have requeued it
        ([ON_SLURM, ended("later"), ("requeued", {})], False),
        ([ON_SLURM, ended("later"), ("requeue_refused", {})], False),
        ([ON_SLURM, ended("later"), ("requeue_refused", {}), ("follow_up", {})], False),
        ([ON_SLURM, ended("later"), ("requeue_refused", {}), ("follow_up_refused", {})], True),
        ([ON_SLURM, ended("later"), ("time_used_up", {})], True),
        ([ON_SLURM, ended("stop"), ("submitted", {})], False),
        ([ON_SLURM, ended("later"), ON_SLURM, ended("done")], True),
    ],
)
def test_a_run_has_ended_when_nothing_more_happens_by_itself(run, events, expected):
    for kind, fields in events:
        record_event(run, kind, **fields)
    assert has_ended(run) is expected


def printed(action):
    console = Console(file=io.StringIO(), width=200)
    action(console)
    return console.file.getvalue()


def test_an_alarm_is_a_line_of_its_own_and_so_is_its_end(run):
    record_event(run, "alarm", what="data_wait", subject="n1", text="slow [red]disk[/red]")
    record_event(run, "alarm_cleared", what="data_wait", subject="n1", text="slow")
    text = printed(lambda console: follow(run, console, lambda: True))
    assert "alarm: slow [red]disk[/red]\n" in text
    assert "over: slow\n" in text


def test_progress_shows_steps_and_loss(run):
    record_event(run, "training", steps=10)
    append_line(run.metrics, {"kind": "train", "step": 4, "loss": 1.25, "samples_per_s": 8.0})
    text = printed(lambda console: follow(run, console, lambda: True))
    assert "4/10 steps" in text
    assert "loss 1.250" in text


def test_a_stopped_run_says_exactly_how_to_go_on(run):
    write_verdict(run.attempt(1).verdict, Verdict("checkpointed", "stopped on SIGTERM", 7, 0))
    text = printed(lambda console: show_result(run, console))
    assert "stopped, saved at step 7" in text
    words = shlex.split(resume_command(run))
    assert words[:4] == ["python", "-m", "hpcjobs.submit", "+experiment=mgm_lora_demo"]
    assert len(words) == 5
    assert words[4].startswith("run_dir='")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict("failed", "rank 1 was killed by signal 9", 3, 1), "rank 1 was killed"),
        (Verdict("never", "cat.png is missing", None, 0), "cat.png is missing"),
        (Verdict("unknown", "no process left a verdict"), "no process left a verdict"),
        (None, "the job left no verdict"),
    ],
)
def test_a_run_that_did_not_finish_says_why(run, verdict, said):
    if verdict is not None:
        write_verdict(run.attempt(1).verdict, verdict)
    with pytest.raises(TrainingFailedError, match=said):
        printed(lambda console: show_result(run, console))


def test_the_end_of_the_culprits_log_is_shown(run):
    run.attempt(1).rank_log(1).write_text("first\n[bold]markup stays text\n")
    write_verdict(run.attempt(1).verdict, Verdict("failed", "it crashed", 3, 1))
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(TrainingFailedError):
        show_result(run, console)
    assert "[bold]markup stays text" in console.file.getvalue()


def test_a_cancelled_run_says_so_and_how_to_go_on(run):
    write_verdict(run.attempt(1).verdict, Verdict("cancelled", "stopped on SIGTERM", 29, 0))
    text = printed(lambda console: show_result(run, console))
    assert "cancelled, saved at step 29" in text
    assert "hpcjobs.submit" in text


def test_watching_ends_when_the_job_has_vanished(run, monkeypatch):
    monkeypatch.setattr(follow_command, "_ASK_EVERY_S", 0.0)
    record_event(run, "attempt_started")
    take(run, Holder(os.uname().nodename, 2**22, "1"), lambda holder: False)
    assert not has_ended(run)
    assert follow_command._Watch(run).holder_is_gone()


def test_a_job_that_cannot_be_seen_is_watched_on(run, monkeypatch):
    monkeypatch.setattr(follow_command, "_ASK_EVERY_S", 0.0)
    take(run, Holder("elsewhere", 1, "1"), lambda holder: False)
    assert not follow_command._Watch(run).holder_is_gone()


def test_a_finished_run_shows_both_losses_its_place_and_what_to_type_next(run):
    write_verdict(run.attempt(1).verdict, Verdict("done", "all 9 steps", 9, 0))
    run.result.mkdir()
    losses = {"heldout_loss_before": 7.1, "heldout_loss_after": 0.4, "steps": 9}
    write_json(run.result_file, losses)
    text = printed(lambda console: show_result(run, console))
    assert "7.100 before -> 0.400 after" in text
    assert str(run.path) in text
    assert f"cat {shlex.quote(str(run.result_file))}" in text
    assert "python -m hpcjobs.submit +experiment=mgm_lora dry_run=true" in text
