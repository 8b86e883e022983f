"""A run on a real Slurm: submitted with one command, preempted, cut short, cancelled, resumed.

Slow: every case trains with real processes on two nodes, and Slurm lets a requeued job wait.
"""

import re

import pytest
from cluster.slurm_cluster import SlurmCluster
from runs import assert_equal_runs, submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS = 200


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data, slurm, tmp_path_factory):
    """The same training on the same two nodes, with nothing in its way."""
    place = tmp_path_factory.mktemp("undisturbed")
    run = RunDir(place / "run")
    submit_run(slurm, data, run)
    wait_for_verdict(run, 1)
    return run


def words(data, run, **changes):
    plan = {
        "cluster": "slurm", "cluster.partition": "low", "cluster.mem": "3G",
        "parallel.nodes": 2, "parallel.gpus_per_node": 1, "parallel.device": "auto",
        "cluster.cpus_per_node": 1,  # two threads a process would fight for the two cores
        "train.steps": STEPS, "train.checkpoint.every_steps": 50, "run_dir": run.path,
    }  # fmt: skip
    return tiny_words(data, **plan, **changes)


def submit_run(slurm, data, run, **changes):
    answer = submit(words(data, run, **changes), run.path.parent, env=slurm.env)
    assert answer.returncode == 0, answer.stderr
    return re.search(r"Slurm job (\d+)", answer.stdout).group(1)


def wait_for_verdict(run, attempt, timeout_s=300):
    path = run.attempt(attempt).verdict
    wait_until(path.exists, f"the verdict of attempt {attempt} of {run.path}", timeout_s)
    return read_json(path)


def wait_for_steps(run, steps, attempt=1):
    def reached():
        return any(
            line["attempt"] == attempt and step >= steps
            for step, line in trained_steps(run).items()
        )

    wait_until(reached, f"step {steps} of attempt {attempt} in {run.path}", 240)


def events(run, kind):
    return [event for event in read_lines(run.events) if event["kind"] == kind]


def take_all_nodes(slurm):
    """A job of higher priority that needs every node for a moment."""
    slurm.run("sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")


def test_a_preempted_two_node_run_is_requeued_and_ends_bit_equal(
    slurm, data, undisturbed, tmp_path
):
    run = RunDir(tmp_path / "preempted")
    job_id = submit_run(slurm, data, run)
    wait_for_steps(run, 10)
    take_all_nodes(slurm)
    first = wait_for_verdict(run, 1)
    assert first["status"] == "checkpointed"
    assert first["reason"].startswith("stopped on SIG")
    assert wait_for_verdict(run, 2)["status"] == "done"
    assert [event["job_id"] for event in events(run, "attempt_started")] == [job_id, job_id]
    assert [event["first"] for event in events(run, "training")] == [0, first["step"]]
    assert_equal_runs(undisturbed, run)


def test_a_run_near_its_time_limit_saves_and_goes_on_in_a_new_job(
    slurm, data, undisturbed, tmp_path
):
    """The limit's own signal goes to the batch step alone; the broker passes it on."""
    run = RunDir(tmp_path / "limit")
    job_id = submit_run(slurm, data, run)
    wait_for_steps(run, 10)
    slurm.run("scancel", "--batch", "--signal=USR2", job_id)  # what --signal=B:USR2@lead sends
    assert wait_for_verdict(run, 1)["status"] == "checkpointed"
    assert wait_for_verdict(run, 2)["status"] == "done"
    assert events(run, "attempt_ended")[0]["signals"][0] == "SIGUSR2"
    assert_equal_runs(undisturbed, run)


def test_a_cancelled_run_saves_and_never_runs_again(slurm, data, tmp_path):
    run = RunDir(tmp_path / "cancelled")
    job_id = submit_run(slurm, data, run)
    wait_for_steps(run, 10)
    slurm.run("scancel", job_id)
    wait_until(lambda: slurm.job(job_id)["JobState"] == "CANCELLED", "the cancelled job", 60)
    assert slurm.job(job_id)["Restarts"] == "0"
    assert run.attempt_numbers() == [1]
    assert events(run, "requeued") == []
    again = submit(words(data, run), tmp_path, env=slurm.env)
    assert again.returncode == 0, again.stderr
    assert wait_for_verdict(run, 2)["status"] == "done"


def test_where_preemption_sends_the_users_signal_the_run_is_requeued_too(data, tmp_path, slurm):
    """With preempt_send_user_signal the batch step alone hears of it; the broker passes it on."""
    del slurm  # skips, or fails, where Slurm is missing
    run = RunDir(tmp_path / "user signal")
    with SlurmCluster.running(nnodes=2, cpus=4, gpus=2, grace=20, user_signal=1) as cluster:
        submit_run(cluster, data, run)
        wait_for_steps(run, 10)
        cluster.run(
            "sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "true"
        )
        assert wait_for_verdict(run, 1)["status"] == "checkpointed"
        assert wait_for_verdict(run, 2)["status"] == "done"
    assert events(run, "attempt_ended")[0]["signals"][0] == "SIGUSR2"


def test_the_saved_script_can_be_submitted_by_hand(slurm, data, undisturbed, weird_tmp_path):
    run = RunDir(weird_tmp_path / "by hand")
    slurm_job = submit_run(slurm, data, run)
    wait_for_steps(run, 10)
    slurm.run("scancel", slurm_job)
    wait_until(lambda: slurm.job(slurm_job)["JobState"] == "CANCELLED", "the cancelled job", 60)
    slurm.run("sbatch", str(run.script))
    assert wait_for_verdict(run, 2)["status"] == "done"
    assert_equal_runs(undisturbed, run)


def test_preview_submission_and_saved_script_are_one_text(slurm, data, tmp_path):
    run = RunDir(tmp_path / "same")
    preview = submit([*words(data, run), "dry_run=true"], tmp_path, env=slurm.env)
    assert preview.returncode == 0
    assert not run.path.exists()
    job_id = submit_run(slurm, data, run)
    script, _, after = preview.stdout.partition("\n# nothing was submitted")
    assert script == run.script.read_text()
    assert f"sbatch '{run.path}/job.sbatch'" in after or f"sbatch {run.path}/job.sbatch" in after
    stored = slurm.run("scontrol", "write", "batch_script", job_id, "-").stdout
    assert stored.strip() == script.strip()
    slurm.run("scancel", job_id)


def test_a_run_that_is_queued_or_running_is_not_submitted_twice(slurm, data, tmp_path):
    run = RunDir(tmp_path / "twice")
    job_id = submit_run(slurm, data, run, **{"+cluster.sbatch.hold": "true"})
    second = submit(words(data, run), tmp_path, env=slurm.env)
    assert second.returncode == 5
    assert f"Slurm job {job_id}" in second.stderr
    slurm.run("scancel", job_id)
    by_hand = slurm.submit("--hold", run.script)
    third = submit(words(data, run), tmp_path, env=slurm.env)
    assert third.returncode == 5
    assert f"Slurm job {by_hand}" in third.stderr
    slurm.run("scancel", by_hand)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster.partition": "nowhere"}, "invalid partition"),
        ({"cluster.gpu_type": "h900"}, "not available"),
        ({"+cluster.sbatch.no-such-option": "1"}, "unrecognized option"),
    ],
)
def test_a_refusal_of_slurm_is_one_line_with_its_words(slurm, data, tmp_path, changes, said):
    run = RunDir(tmp_path / "refused")
    answer = submit(
        [*words(data, run), *(f"{k}={v}" for k, v in changes.items())], tmp_path, env=slurm.env
    )
    assert answer.returncode == 4
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not run.path.exists()


def test_the_jobs_environment_holds_no_secret_of_the_shell(slurm, data, tmp_path):
    run = RunDir(tmp_path / "secret")
    planted = "planted-secret-0123456789"
    env = {**slurm.env, "HF_TOKEN": planted, "SBATCH_JOB_NAME": "hijacked"}
    answer = submit(words(data, run, **{"+cluster.sbatch.hold": "true"}), tmp_path, env=env)
    assert answer.returncode == 0, answer.stderr
    job_id = re.search(r"Slurm job (\d+)", answer.stdout).group(1)
    assert slurm.job(job_id)["JobName"] == "tiny"
    for path in [*run.path.rglob("*"), *slurm.directory.joinpath("state").rglob("*")]:
        if path.is_file():
            assert planted.encode() not in path.read_bytes(), path
    slurm.run("scancel", job_id)
