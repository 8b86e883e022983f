"""What a user gets wrong is one line that says what, where and what to do, and leaves nothing.

The chain of the interrupted run is slow: it trains twice, and is interrupted once more at the
start; everything else stops before a process is started.
"""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from runs import command, submit, trained_steps, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.login import prepare
from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.console import make_console
from hpcjobs.login.follow import resume_command, show_result
from hpcjobs.login.prepare import plan_job, write_run
from hpcjobs.login.submission_lock import submission_lock
from hpcjobs.run.errors import ConfigError, InputError, RunHeldError, TrainingFailedError
from hpcjobs.run.files import read_json, read_lines, write_json
from hpcjobs.run.holder import this_process
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, write_verdict

TOKEN = "hf_" + "planted" * 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("input")


@pytest.fixture(scope="module")
def data(place):
    return write_tiny_data(place / "data")


def words(data, run_dir, **changes):
    plan = {
        "parallel.device": "cpu", "parallel.gpus_per_node": 1, "parallel.micro_batch": 2,
        "cluster.cpus_per_node": 1, "run_dir": run_dir,
    }  # fmt: skip
    return tiny_words(data, **plan | changes)


def refusal(answer, code):
    """The one line of a refusal."""
    assert answer.returncode == code, (answer.stdout, answer.stderr)
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert answer.stderr.startswith("error: ")
    return answer.stderr


@pytest.fixture(scope="module")
def odd(place, data):
    """Files that are something else than their place asks for."""
    (place / "file").write_text("")
    (place / "empty model").mkdir()
    (place / "tokenizer.json").write_text('{"a": 1}')
    (data / "object.json").write_text('{"id": 1}')
    (data / "cut.json").write_text('[{"id": 1},')
    (data / "nothing.json").write_text("")
    return place


CONFIG, INPUT, SCHEDULER, HELD, UNFINISHED, INTERRUPTED = 2, 3, 4, 5, 6, 130


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"train.lrr": 1}, CONFIG, "unknown key train.lrr; did you mean 'train.lr'?"),
        ({"name": "$(touch canary)"}, CONFIG, "name must be 1 to 64 of letters, digits"),
        ({"run_dir": ""}, CONFIG, "run_dir is empty: write run_dir=DIR"),
        ({"run_dir": "~nobody-here/run"}, CONFIG, "names no user of this machine: write the path"),
        ({"run_dir": "{}/file"}, CONFIG, "/file is a file; use another run_dir"),
        ({"run_dir": "{}/data"}, CONFIG, "is not empty and holds no run; use another run_dir"),
        ({"run_dir": "null", "runs_dir": "{}/file"}, INPUT, "Not a directory; write another runs_dir"),
        ({"run_dir": "/proc/run"}, INPUT, "/proc has 0.00 MiB free, 6 checkpoints of the run need 2."),
        ({"data.root": "{}/nowhere"}, INPUT, "nowhere/train.json does not exist: name another file"),
        ({"data.train": "object.json"}, INPUT, "data.train: {}/data/object.json does not begin with ["),
        ({"data.train": "cut.json"}, INPUT, "does not end with ]: is it complete?"),
        ({"data.heldout": "nothing.json"}, INPUT, "data.heldout: {}/data/nothing.json does not begin"),
        ({"data.pictures": "gone"}, INPUT, "data.pictures: {}/data/gone is not a directory"),
        ({"model.tokenizer": "{}/tokenizer.json"}, INPUT, "tokenizer.json is no tokenizer.json"),
        ({"model.text.vocab": 100}, INPUT, "has 300 tokens, the model's embedding 100: use the model's"),
        ({"model.weights": "pretrained", "model.path": "{}/gone"}, INPUT, "gone does not exist: write"),
        (
            {"model.weights": "pretrained", "model.path": "{}/empty model"}, INPUT,
            "holds no .safetensors file: write model.path=DIR",
        ),
        ({"cluster.python": "/no/python"}, INPUT, "cluster.python: /no/python is no program on this"),
        ({"cluster.env_file": "{}/file"}, INPUT, "must be yours alone: chmod 600"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_exit_code_and_writes_nothing(
    odd, data, changes, code, said
):
    filled = {key: str(value).replace("{}", str(odd)) for key, value in changes.items()}
    before = sorted(odd.rglob("*"))
    line = refusal(submit(words(data, **{"run_dir": odd / "run"} | filled), odd), code)
    assert said.replace("{}", str(odd)) in line
    assert sorted(odd.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.lr": "inf"}, "train: lr must be a finite number, not inf"),
        ({"train.beta2": 1}, "train: beta2 must be less than 1"),
        ({"train.seed": 2**63}, "train: seed must be less than"),
        ({"model.vision.patch_px": 0}, "model.vision: patch_px must be at least 1, not 0"),
        ({"model.vision.heads": 3}, "hidden (32) must be a multiple of heads (3)"),
        ({"model.text.head_dim": 15}, "head_dim (15) must be even"),
        ({"model.max_length": 513}, "must not exceed text.max_positions (512)"),
    ],
)
def test_a_figure_that_nothing_can_be_trained_with_is_refused(data, changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose_experiment(words(data, "run", **changes))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no experiment is named: write +experiment=NAME, one of mgm_lora, mgm_lora_demo"),
        (["--cfg", "job"], "unrecognized arguments: --cfg; python -m hpcjobs.submit --help"),
        (["-m", "+experiment=mgm_lora_demo"], "--multirun is not there yet"),
        (["--config-dir"], "expected one argument; python -m hpcjobs.submit --help"),
        ([b"run_dir='/tmp/\xff'"], "is not UTF-8 text: rename what it names"),
    ],
)
def test_wrong_words_are_refused_in_one_line(tmp_path, argv, said):
    assert said in refusal(submit(argv, tmp_path), CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "word",
    [
        f"data.root=/data/{TOKEN}", f"train.lr={TOKEN}", f"name={TOKEN}", f"runs_dir=/x/{TOKEN}",
        f"+cluster.env.HF_TOKEN={TOKEN}", "+cluster.setup=[export API_KEY=planted1]",
        "+cluster.env.NOTE=planted-value-of-the-shell", f"dry_run={TOKEN}",
    ],
)  # fmt: skip
def test_a_secret_on_the_command_line_is_neither_written_nor_repeated(data, tmp_path, word):
    env = {"MY_SECRET": "planted-value-of-the-shell"}
    answer = submit([*words(data, tmp_path / "run"), word], tmp_path, env)
    assert "planted" not in refusal(answer, CONFIG) + answer.stdout
    assert "cluster.env_file" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_without_sbatch_on_the_path_the_cluster_is_refused(data, tmp_path):
    (tmp_path / "bin").mkdir()
    mine = words(data, tmp_path / "run", cluster="slurm")
    line = refusal(submit(mine, tmp_path, {"PATH": str(tmp_path / "bin")}), SCHEDULER)
    assert "sbatch is not on the PATH" in line
    assert "write cluster=local" in line
    assert not (tmp_path / "run").exists()


def test_a_run_that_a_living_process_holds_is_refused_with_its_name(data, tmp_path):
    run = made(data, tmp_path)
    write_json(run.holder, vars(this_process(None)))
    line = refusal(submit(words(data, run.path), tmp_path), HELD)
    assert f"{run.path} is held by process {os.getpid()} on" in line
    assert run.attempt_numbers() == []


def made(data, place, **changes):
    """A run directory as the submission writes it, without a job."""
    request, experiment = compose_experiment(words(data, place / "run", **changes))
    job = plan_job(request, experiment, {}, place)
    write_run(job, words(data, place / "run", **changes), {}, [place])
    return job.run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.lr": 0.1}, "holds a run with train.lr=0.004, not 0.1; use another run_dir"),
        (
            {"train.global_batch": 4},
            "holds a run with train.global_batch=8, not 4; use another",
        ),
        ({"data.train": "heldout.json"}, "holds a run with data.train='train.json', not"),
    ],
)
def test_another_configuration_is_refused_by_the_key_that_differs(data, tmp_path, changes, said):
    run = made(data, tmp_path)
    assert said in refusal(submit(words(data, run.path, **changes), tmp_path), CONFIG)


@pytest.mark.parametrize(
    "changes", [{"train.checkpoint.keep": 1}, {"data.workers": 1}, {"data.bad_samples_max": 3},
                {"train.log_every_steps": 2}, {"cluster.mem": "1G"}, {"parallel.micro_batch": 4}],
)  # fmt: skip
def test_what_changes_no_figure_may_change_when_a_run_goes_on(data, tmp_path, changes):
    run = made(data, tmp_path)
    _, other = compose_experiment(words(data, run.path, **changes))
    prepare.refuse_other_run(run, other)


def test_a_configuration_of_another_version_is_refused_by_its_path(data, tmp_path):
    run = made(data, tmp_path)
    write_json(run.config, read_json(run.config) | {"novelty": 1})
    line = refusal(submit(words(data, run.path), tmp_path), CONFIG)
    assert f"{run.config} is of another version: unknown key novelty" in line


def without_rights(argv):
    """Root may write anywhere, so it gives that right up."""
    if os.getuid():
        return argv
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *argv]


def run_without_rights(mine, cwd):
    return subprocess.run(without_rights(command(mine)), cwd=cwd, text=True, capture_output=True)


def test_a_directory_that_the_user_may_not_write_is_refused(data, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    mine = words(data, "null", runs_dir=closed)
    line = refusal(run_without_rights(mine, tmp_path), INPUT)
    assert "cannot write the run directory" in line
    assert "Permission denied; write another runs_dir or run_dir" in line
    assert not list(closed.iterdir())


def test_data_that_the_user_may_not_see_is_refused(data, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    mine = words(data, tmp_path / "run", **{"data.root": closed})
    line = refusal(run_without_rights(mine, tmp_path), INPUT)
    assert str(closed) in line
    assert "Permission denied" in line
    assert not (tmp_path / "run").exists()


def test_a_disk_without_room_for_the_checkpoints_is_refused_with_both_sizes(data, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        line = refusal(submit(words(data, disk / "run"), tmp_path), INPUT)
        assert f"{disk} has 1.00 MiB free, 6 checkpoints of the run need 2.10 MiB" in line
        assert "free space, or lower train.checkpoint.keep" in line
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_submission_that_breaks_off_while_it_writes_leaves_no_half_run(
    data, tmp_path, monkeypatch, error
):
    def break_off(_path):
        raise error

    monkeypatch.setattr(prepare, "write_node_archive", break_off)
    with pytest.raises((KeyboardInterrupt, InputError)):
        made(data, tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_submission_that_was_killed_while_it_wrote_can_be_repeated(data, tmp_path):
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    write_json(run.submitting, vars(this_process(None)) | {"pid": gone.pid, "started": "1"})
    with submission_lock(run):
        assert read_json(run.submitting)["pid"] == os.getpid()
        made(data, tmp_path)
    assert run.config.exists()
    assert not run.submitting.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "is being submitted by process"),
        ({"host": "elsewhere"}, "if that does not run any more"),
    ],
)
def test_two_submissions_do_not_work_on_one_directory(tmp_path, change, said):
    run = RunDir(tmp_path)
    with submission_lock(run):
        write_json(run.submitting, read_json(run.submitting) | change)
        with pytest.raises(RunHeldError, match=said), submission_lock(run):
            pytest.fail("it was let in")
        assert run.submitting.exists()


def test_the_command_that_continues_a_run_names_the_users_own_configuration(data, tmp_path):
    again = shlex.split(resume_command(made(data, tmp_path)))
    assert again[3:5] == ["--config-dir", str(tmp_path)]
    assert again[-1] == f"run_dir={tmp_path}/run"


def test_a_job_that_began_no_attempt_is_not_told_by_the_result_of_an_earlier_one(data, tmp_path):
    run = made(data, tmp_path)
    write_verdict(run.attempt(run.new_attempt()).verdict, Verdict("checkpointed", "stopped", 2, 0))
    (run.submitit / "7_0_log.out").write_text("no such interpreter\n")
    console = make_console()
    with console.capture() as printed, pytest.raises(TrainingFailedError, match="left no verdict"):
        show_result(run, console, after=1)
    assert "no such interpreter" in printed.get()


def test_paths_are_printed_as_they_are(data, tmp_path):
    odd = tmp_path / "[red]a[" / ":x: [bold]"
    request, experiment = compose_experiment(words(data, odd))
    run = plan_job(request, experiment, {}, tmp_path).run
    run.result.mkdir(parents=True)
    write_json(run.result_file, {"steps": 1})
    write_verdict(run.attempt(run.new_attempt()).verdict, Verdict("done", "all 1 steps", 1, 0))
    console = make_console()
    with console.capture() as printed:
        show_result(run, console)
    assert str(run.result) in printed.get()


@pytest.mark.parametrize("reader", ["true", "head -1", None])
def test_a_preview_that_nobody_reads_ends_quietly(data, tmp_path, reader):
    mine = shlex.join(command([*words(data, tmp_path / "run"), "dry_run=true"]))
    line = f"{mine} | {reader}; exit ${{PIPESTATUS[0]}}" if reader else f"{mine} >&-"
    answer = subprocess.run(["bash", "-c", line], cwd=tmp_path, text=True, capture_output=True)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_hostile_paths_stay_words(data, tmp_path):
    """They reach the batch script, whose quoting has to hold."""
    hostile = f"{tmp_path}/a 'b' \"c\" $(touch canary); #x"
    mine = [*words(data, hostile, **{"cluster.python": f"{hostile}/python"}), "dry_run=true"]
    answer = submit(mine, tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    (tmp_path / "script").write_text(answer.stdout)
    ran = subprocess.run(["bash", "script"], cwd=tmp_path, capture_output=True, text=True)
    assert "canary" not in {path.name for path in tmp_path.iterdir()}
    assert f"{hostile}/python: No such file or directory" in ran.stderr


def interrupt(process):
    """What a terminal does with Ctrl-C: the whole foreground group hears it."""
    os.killpg(process.pid, signal.SIGINT)


def launch(mine, cwd):
    return subprocess.Popen(
        command(mine), cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(place, data):
    """A run that was submitted twice at one moment, then interrupted while it trained."""
    run = RunDir(place / "interrupted")
    mine = words(data, run.path, **{"train.steps": 60, "train.checkpoint.every_steps": "null"})
    both = [launch(mine, place), launch(mine, place)]
    wait_until(lambda: len(trained_steps(run)) >= 3, "three steps")
    loser = next(process for process in both if process.poll() is not None)
    winner = next(process for process in both if process is not loser)
    interrupt(winner)
    said = winner.communicate(timeout=60)
    return run, (winner.returncode, *said), (loser.returncode, *loser.communicate())


@pytest.fixture(scope="module")
def finished(place, interrupted):
    """The same run, continued with the command that it printed, by a user who reads one line."""
    run, (_, printed, _), _ = interrupted
    typed = printed.split("Go on with:\n", 1)[1].splitlines()[0]
    line = typed.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    answer = subprocess.run(
        ["bash", "-c", f"{line} | head -1; exit ${{PIPESTATUS[0]}}"], cwd=place, text=True,
        capture_output=True,
    )  # fmt: skip
    return run, answer


@pytest.mark.slow
def test_of_two_submissions_at_one_moment_one_is_refused(interrupted):
    run, _, (code, _, said) = interrupted
    assert code == HELD
    assert re.match(r"error: .*/interrupted (is being submitted|is held|was taken) by ", said), said
    assert len(said.splitlines()) == 1
    starts = [event for event in read_lines(run.events) if event["kind"] == "attempt_started"]
    assert starts[0]["attempt"] == 1


@pytest.mark.slow
def test_an_interrupt_during_the_training_saves_and_prints_how_to_go_on(interrupted):
    run, (code, printed, error), _ = interrupted
    assert (code, error) == (INTERRUPTED, "")
    assert "stopping: saving a checkpoint first" in printed
    step = read_json(run.attempt(1).verdict)["step"]
    assert f"stopped, saved at step {step}. Go on with:" in printed
    assert 3 <= step < 60


@pytest.mark.slow
def test_a_reader_that_goes_away_stops_nothing(interrupted, finished):
    _, answer = finished
    assert (answer.returncode, answer.stderr) == (0, "")
    assert len(answer.stdout.splitlines()) == 1
    run, _, _ = interrupted
    firsts = [event["first"] for event in read_lines(run.events) if event["kind"] == "training"]
    assert firsts == [0, read_json(run.attempt(1).verdict)["step"]]
    assert sorted(trained_steps(run)) == list(range(1, 61))


@pytest.mark.slow
def test_a_finished_run_says_that_it_is_finished_and_is_not_touched(place, data, finished):
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    mine = words(data, run.path, **{"train.steps": 60, "train.checkpoint.every_steps": "null"})
    again = submit(mine, place)
    assert (again.returncode, again.stderr) == (0, "")
    assert "the run has finished already, nothing was started" in again.stdout
    assert "done after 60 steps" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    longer = submit([*mine, "train.steps=200"], place)
    assert "holds a run with train.steps=60, not 200" in refusal(longer, CONFIG)


@pytest.mark.slow
def test_an_interrupt_at_the_start_is_never_lost(data, tmp_path):
    """The first signal may come before anybody listens; then it is given again."""
    run = RunDir(tmp_path / "run")
    process = launch(words(data, run.path, **{"train.steps": 600}), tmp_path)
    wait_until(lambda: any(e["kind"] == "submitted" for e in read_lines(run.events)), "the job")
    interrupt(process)
    printed, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (INTERRUPTED, "")
    assert "stopped before the training began" in printed or "saved at step 0" in printed
    assert "hpcjobs.submit +experiment=mgm_lora_demo" in printed
    assert not run.holder.exists()
    assert not run.submitting.exists()
    wait_until(lambda: str(run.path) not in living_commands(), "the end of all its processes")


def living_commands():
    answer = subprocess.run(["ps", "-eo", "args"], text=True, capture_output=True, check=True)
    return answer.stdout


@pytest.mark.slow
def test_a_second_interrupt_stops_only_the_waiting(data, tmp_path):
    run = RunDir(tmp_path / "run")
    process = launch(words(data, run.path, **{"train.steps": 600}), tmp_path)
    wait_until(lambda: run.attempt(1).rank_log(0).exists(), "the training process")
    interrupt(process)
    assert next(line for line in process.stdout if "saving a checkpoint first" in line)
    interrupt(process)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert f"python -m hpcjobs.follow {run.path}" in printed
    wait_until(run.attempt(1).verdict.exists, "the verdict")
    assert read_json(run.attempt(1).verdict)["status"] == "checkpointed"
