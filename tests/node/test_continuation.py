"""How a run goes on after its job: every refusal of Slurm has its way, and none doubles a job."""

import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.node.continuation import World, continue_later, time_limit
from hpcjobs.node.queue import jobs_of, parse_queue, runs_script
from hpcjobs.run.allowance import left_s, spent_s
from hpcjobs.run.events import record_event
from hpcjobs.run.files import read_lines
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir

LAUNCH = Launch("python", 2, 1, 4, True, {}, None)
DOWN = (1, "", "Unable to contact slurm controller (connect failure)")
DISABLED = (1, "", "Requested operation is presently disabled for job 12")
MISSING = (127, "", "scontrol: No such file or directory")
HANGING = (124, "", "scontrol: no answer")
RUNNING = (0, "JobId=12 JobState=RUNNING Restarts=0", "")
NOTHING = (0, "", "")


@dataclass
class Slurm:
    """Answers by the first two words of a command; the last answer of a list stays."""

    answers: dict[str, list[tuple[int, str, str]]]
    heard: list[list[str]] = field(default_factory=list)
    time_s: float = 0.0

    def __call__(self, argv):
        self.heard.append(list(argv))
        key = " ".join(argv[:2]) if argv[0] == "scontrol" else argv[0]
        left = self.answers.get(key, [NOTHING])
        code, out, err = left.pop(0) if len(left) > 1 else left[0]
        self.time_s += 30 if code == 124 else 0.01
        return subprocess.CompletedProcess(argv, code, out, err)

    def sleep(self, seconds):
        self.time_s += seconds

    @property
    def world(self):
        return World(self, self.sleep, lambda: self.time_s, lambda: 0.5)

    def said(self, *words):
        return [line for line in self.heard if line[: len(words)] == list(words)]


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.script.touch()
    return run


def kinds(run):
    return [event["kind"] for event in read_lines(run.events)]


def queued(run, *ids, state="PENDING"):
    return (0, "".join(f"{i}\x1f{state}\x1f{run.script}\x1f(null)\n" for i in ids), "")


def test_a_requeue_is_enough(run):
    slurm = Slurm({})
    end = continue_later(run, LAUNCH, "12", 0, world=slurm.world)
    assert (end.kind, end.job_id) == ("requeued", "12")
    assert slurm.heard == [["scontrol", "requeue", "12"]]
    assert kinds(run) == ["requeued"]


def test_a_requeued_job_does_not_get_the_bad_nodes_again(run):
    """Its list replaces the user's own, which is therefore in it."""
    slurm = Slurm({"scontrol update": [DOWN, NOTHING]})
    continue_later(
        run, replace(LAUNCH, exclude="old[1-2]"), "12", 0, ["n7", "n3"], world=slurm.world
    )
    words = ["scontrol", "update", "JobId=12", "ExcNodeList=old[1-2],n3,n7"]
    assert slurm.said("scontrol", "update") == [words, words]


@pytest.mark.parametrize(
    ("launch", "requeue"),
    [
        (LAUNCH, [DISABLED]), (LAUNCH, [MISSING]), (LAUNCH, [HANGING]), (LAUNCH, [DOWN]),
        (replace(LAUNCH, requeue=False), [NOTHING]),
    ],
)  # fmt: skip
def test_what_cannot_be_requeued_is_followed_by_a_job(run, launch, requeue):
    slurm = Slurm(
        {"scontrol requeue": requeue, "scontrol show": [RUNNING], "sbatch": [(0, "13;hpc\n", "")]}
    )
    end = continue_later(run, launch, "12", 0, ["n3"], world=slurm.world)
    assert (end.kind, end.job_id) == ("follow_up", "13")
    assert slurm.said("sbatch") == [
        ["sbatch", "--parsable", "--dependency=afterany:12", "--comment=hpcjobs:after-12.0",
         "--exclude=n3", str(run.script)]
    ]  # fmt: skip
    assert [line["job_id"] for line in read_lines(run.submissions)] == ["13"]
    assert kinds(run) == ["requeue_refused", "follow_up"]
    assert bool(slurm.said("scontrol", "requeue")) is launch.requeue


def test_a_requeue_is_given_up_in_time_for_a_follow_up(run):
    slurm = Slurm({"scontrol requeue": [HANGING], "scontrol show": [HANGING], "sbatch": [HANGING]})
    assert continue_later(run, LAUNCH, "12", 0, patience_s=60, world=slurm.world).kind == "none"
    assert slurm.time_s <= 2 * 60 + 30


def test_an_sbatch_whose_answer_was_lost_is_found_and_not_repeated(run):
    slurm = Slurm(
        {
            "sbatch": [(1, "", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")],
            "squeue": [NOTHING, queued(run, 12, 14)],
            "scontrol show": [RUNNING],
        }
    )  # fmt: skip
    end = continue_later(run, replace(LAUNCH, requeue=False), "12", 0, world=slurm.world)
    assert (end.kind, end.job_id) == ("follow_up", "14")
    assert len(slurm.said("sbatch")) == 1


def test_while_the_queue_cannot_be_seen_nothing_is_submitted(run):
    slurm = Slurm({"squeue": [DOWN]})
    end = continue_later(run, replace(LAUNCH, requeue=False), "12", 0, world=slurm.world)
    assert end.kind == "none"
    assert slurm.said("sbatch") == []


@pytest.mark.parametrize("failures", [1, 2, 4])
def test_a_restarting_controller_is_asked_again_ever_more_slowly(run, failures):
    slurm = Slurm({"scontrol requeue": [DOWN] * failures + [NOTHING], "scontrol show": [DOWN]})
    assert continue_later(run, LAUNCH, "12", 0, world=slurm.world).kind == "requeued"
    assert slurm.time_s == pytest.approx(2**failures - 1, abs=0.2)


def test_a_job_submitted_by_hand_goes_on_with_the_run(run):
    slurm = Slurm({"squeue": [queued(run, 12, 40)], "scontrol show": [RUNNING]})
    end = continue_later(run, replace(LAUNCH, requeue=False), "12", 0, world=slurm.world)
    assert (end.kind, end.job_id) == ("follow_up", "40")
    assert slurm.said("sbatch") == []


@pytest.mark.parametrize(
    ("line", "kind", "event"),
    [
        ("JobState=COMPLETING Restarts=0", "none", "follow_up_refused"),
        ("JobState=COMPLETING Restarts=1", "requeued", "requeued"),
    ],
)
def test_a_follow_up_goes_when_the_job_was_cancelled_or_requeued_meanwhile(run, line, kind, event):
    slurm = Slurm({"scontrol show": [(0, line, "")], "sbatch": [(0, "13", "")]})
    end = continue_later(run, replace(LAUNCH, requeue=False), "12", 0, world=slurm.world)
    assert end.kind == kind
    assert slurm.said("scancel") == [["scancel", "13"]]
    assert kinds(run)[-1] == event


def test_too_few_other_nodes_are_no_reason_to_stop(run):
    refused = (1, "", "sbatch: error: Requested node configuration is not available")
    slurm = Slurm({"sbatch": [refused, (0, "13", "")], "scontrol show": [RUNNING]})
    end = continue_later(
        run, replace(LAUNCH, requeue=False, exclude="n9"), "12", 0, ["n3"], world=slurm.world
    )
    assert end.kind == "follow_up"
    excluded = [word for line in slurm.said("sbatch") for word in line if "exclude" in word]
    assert excluded == ["--exclude=n9,n3", "--exclude=n9"]


@pytest.mark.parametrize("follow_up", [True, False])
def test_a_refusal_says_what_to_type(run, capsys, follow_up):
    slurm = Slurm(
        {"scontrol requeue": [DISABLED], "scontrol show": [RUNNING], "sbatch": [(1, "", "Invalid account")]}
    )  # fmt: skip
    end = continue_later(run, replace(LAUNCH, follow_up=follow_up), "12", 0, world=slurm.world)
    assert end.kind == "none"
    said = capsys.readouterr().err
    assert "presently disabled" in said
    assert ("Invalid account" if follow_up else "cluster.follow_up is false") in said
    assert f"sbatch {run.script}" in said
    assert len(said.splitlines()) == 1


def attempts(run, *spans):
    for begin, end in spans:
        for kind, at in (("attempt_started", begin), ("attempt_ended", end)):
            record_event(run, kind, time=at)


def test_a_run_in_chunks_ends_when_its_time_is_used_up(run):
    launch = replace(LAUNCH, total_s=10_000, job_time_s=3600, signal_lead_s=120)
    attempts(run, (0, 3500), (4000, 7500))
    slurm = Slurm({})
    assert continue_later(run, launch, "12", 0, world=slurm.world).kind == "requeued"
    assert slurm.said("scontrol", "update")[0][-1] == "TimeLimit=50"  # 3000 of 10,000 s are left
    attempts(run, (8000, 10_900))
    end = continue_later(run, launch, "12", 1, world=slurm.world)
    assert (end.kind, end.said) == ("none", "cluster.time is used up: give the run more of it")
    assert len(slurm.said("scontrol", "requeue")) == 1


@pytest.mark.parametrize(
    ("left", "limit"),
    [(None, None), (9000.0, None), (3600.0, None), (3599.0, "59"), (30.0, "1")],
)
def test_the_last_chunk_is_no_longer_than_what_is_left(left, limit):
    assert time_limit(left, replace(LAUNCH, job_time_s=3600)) == limit


def test_an_attempt_that_was_killed_counts_to_the_last_that_is_known_of_it(run):
    for kind, at in (
        ("attempt_started", 10), ("checkpoint", 60), ("submitted", 900), ("attempt_started", 1000),
        ("attempt_ended", 1030), ("requeued", 1040), ("attempt_started", 2000), ("checkpoint", 2005),
    ):  # fmt: skip
        record_event(run, kind, time=at)
    assert left_s(run, 200) == 200 - (50 + 30 + 5)


@given(st.lists(st.one_of(
    st.none(), st.integers(), st.text(),
    st.fixed_dictionaries({}, optional={
        "kind": st.sampled_from(["attempt_started", "attempt_ended", "submitted", "x"]),
        "time": st.one_of(st.none(), st.text(), st.floats(0, 1e9)),
    }),
)))  # fmt: skip
def test_any_events_are_summed_and_never_below_zero(events):
    assert spent_s(events) >= 0


@given(st.text())
def test_any_answer_of_squeue_is_read(text):
    assert all(job.job_id for job in parse_queue(text))


def test_jobs_of_other_runs_and_ending_ones_do_not_count(run, tmp_path):
    other = RunDir(tmp_path / "run-2")
    link = tmp_path / "link"
    link.symlink_to(run.path)
    lines = [queued(run, "3_[0-4]", "5+1")[1], queued(run, 6, state="COMPLETING")[1]]
    lines += [queued(other, 7)[1], queued(RunDir(link), 8)[1], queued(run, 9, state="NEW_STATE")[1]]
    slurm = Slurm({"squeue": [(0, "".join(lines), "")]})
    assert jobs_of(run, but="9", ask=slurm) == ["3_[0-4]", "5+1", "8"]
    assert jobs_of(run, ask=Slurm({"squeue": [DOWN]})) is None


@given(st.text())
def test_any_command_is_compared(command):
    assert runs_script(command, Path("/nowhere/job.sbatch")) in (True, False)
