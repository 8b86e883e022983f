"""``python -m planner calibrate`` reads run directories as the trainer leaves them."""

import json
from pathlib import Path

import pytest
from msgspec import structs
from tiny import tiny_words
from trainings import prepare

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.workload_of import workload_of
from hpcjobs.run.events import record_event
from hpcjobs.run.files import append_line, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.schema import plain
from hpcjobs.run.verdict import Verdict, write_verdict
from planner.calibrate_command import calibrate
from planner.calibration.observe import observe
from planner.calibration.read_run import WARM_UP_STEPS, read_run
from planner.calibration.run_workload import Shape, run_workload
from planner.calibration.store import read_calibration
from planner.errors import PlannerError

CARD = "NVIDIA A100-SXM4-80GB"


def make_run(root, name="r1", steps=30, device=CARD, busy_s=0.5, rows_of=lambda step: 512, **line):
    """A run directory with a real configuration, and metrics as hpcjobs.train writes them."""
    run = prepare(tiny_words("/nowhere", **{"parallel.gpus_per_node": 1}), root / name)
    write_json(run.record, {"packages": {"torch": "2.13.0", "deepspeed": "0.19.8"}})
    for step in range(1, steps + 1):
        metric = {
            "kind": "train", "time": 1e9 + step, "attempt": 1, "step": step, "loss": 1.0,
            "positions": rows_of(step), "longest": 64, "pictures": 8, "step_s": busy_s / 0.9 + (step <= 3),
            "data_wait_share": 0.1, "device": device, "peak_allocated_gib": 2.0,
            "peak_reserved_gib": 2.5,
        }  # fmt: skip
        append_line(run.metrics, metric | line)
    return run


def run_out_of_memory(root, name="full"):
    run = prepare(tiny_words("/nowhere", **{"cluster.gpu_type": "a100_80gb"}), root / name)
    attempt = run.attempt(run.new_attempt())
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 7.25 GiB"
    write_verdict(attempt.rank_verdict(0), Verdict("failed", reason, rank=0))
    return run


def test_a_run_is_read_with_its_median_step_and_its_wait(tmp_path):
    record = read_run(make_run(tmp_path).path)
    (sample,) = record.samples
    assert sample.busy_s == pytest.approx(0.5)
    assert sample.wait_s == pytest.approx(0.5 / 9)
    assert sample.steps == 30 - WARM_UP_STEPS
    assert record.peak_allocated_gib == 2.0
    assert (record.longest, record.mean_positions) == (64, 512)


def test_steps_are_told_apart_by_their_length(tmp_path):
    run = make_run(tmp_path, rows_of=lambda step: 256 << (step % 3))
    assert [s.positions for s in read_run(run.path).samples] == [256, 512, 1024]


def test_a_step_that_shared_its_time_with_a_checkpoint_is_left_out(tmp_path):
    run = make_run(tmp_path, steps=10)
    for step in (4, 8):
        record_event(run, "checkpoint", attempt=1, step=step, save_s=1.0, pruned=[])
    append_line(run.metrics, {"kind": "heldout", "attempt": 1, "step": 5, "loss": 1.0})
    (sample,) = read_run(run.path).samples
    assert sample.steps == 10 - WARM_UP_STEPS - 3  # steps 5, 6 and 9


def test_every_attempt_warms_up_again(tmp_path):
    run = make_run(tmp_path, steps=10)
    for step in range(8, 14):
        append_line(
            run.metrics,
            json.loads(run.metrics.read_text().splitlines()[-1]) | {"attempt": 2, "step": step},
        )
    assert read_run(run.path).samples[0].steps == (10 - WARM_UP_STEPS) + (6 - WARM_UP_STEPS)


def test_a_run_teaches_time_and_both_peaks(tmp_path):
    observed = observe(read_run(make_run(tmp_path).path))
    (time,) = observed.time
    assert time.key.card == "A100-SXM4-80GB"
    assert time.key.stack == "torch 2.13 deepspeed 0.19"
    allocated, reserved = observed.memory
    assert (allocated.slack_bytes, allocated.context_bytes, reserved.context_bytes) == (0, 0, 0)
    assert reserved.slack_bytes > 0
    assert reserved.measured_bytes == 2.5 * (1 << 30)


def test_a_run_out_of_memory_is_a_bound(tmp_path):
    observed = observe(read_run(run_out_of_memory(tmp_path).path))
    (bound,) = observed.memory
    assert bound.censored
    assert bound.measured_bytes > 70 * (1 << 30)
    assert observed.time == ()


def test_the_command_learns_and_adds_up(tmp_path, capsys):
    path = tmp_path / "calibration.json"
    first = make_run(tmp_path / "runs", "r1", busy_s=0.5)
    make_run(tmp_path / "runs", "r2", rows_of=lambda step: 2048, busy_s=0.9)
    run_out_of_memory(tmp_path / "runs")
    assert calibrate([str(first.path), "-o", str(path)]) == 0
    assert set(read_calibration(path).runs) == {"r1"}
    assert calibrate([str(tmp_path / "runs"), "-o", str(path)]) == 0
    known = read_calibration(path)
    assert set(known.runs) == {"r1", "r2", "full"}
    assert len(known.time) == 2
    assert "step time" in capsys.readouterr().out
    assert calibrate([str(first.path), "-o", str(path), "--fresh"]) == 0
    assert set(read_calibration(path).runs) == {"r1"}


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path, capsys):
    good = make_run(tmp_path, "good")
    make_run(tmp_path, "unknown", device="Abacus 3000")
    empty = RunDir(tmp_path / "empty")
    prepare(tiny_words("/nowhere"), empty.path)
    broken = make_run(tmp_path, "broken", step_s="fast")
    old = make_run(tmp_path, "old")
    old.metrics.write_text('{"kind": "train", "step": 1, "step_s": 1.0}\n')
    names = [good.path.name, "unknown", "empty", "broken", "old", "missing"]
    words = [str(tmp_path / name) for name in names]
    assert calibrate([*words, "-o", str(tmp_path / "c.json")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5
    for reason in ("no card is called 'Abacus 3000'", "measured no step", "broken/metrics.jsonl",
                   "old/metrics.jsonl is of another version", "is no run directory"):  # fmt: skip
        assert any(reason in line for line in said), reason
    assert broken.path.exists()


@pytest.mark.parametrize(
    "figure", ["positions", "longest", "step_s", "data_wait_share", "peak_allocated_gib"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0, "x", None, []])
def test_no_figure_of_a_log_breaks_the_command(tmp_path, figure, value):
    run = make_run(tmp_path, **{figure: value})
    path = tmp_path / "c.json"
    try:
        calibrate([str(run.path), "-o", str(path)])
    except PlannerError as error:
        assert "\n" not in str(error)
    else:
        assert read_calibration(path) is not None


def test_nothing_to_learn_from_is_one_line(tmp_path):
    with pytest.raises(PlannerError, match="none of the runs could be used"):
        calibrate([str(tmp_path)])
    with pytest.raises(PlannerError, match="--help"):
        calibrate([])


def test_torn_and_strange_lines_are_left_out(tmp_path):
    run = make_run(tmp_path)
    with Path(run.metrics).open("ab") as file:
        file.write(b'[1]\n\xff\xfe\n{"kind": "train", "st')
    assert read_run(run.path).samples[0].steps == 30 - WARM_UP_STEPS


def test_a_configuration_of_another_version_is_left_out(tmp_path):
    run = make_run(tmp_path)
    config = json.loads(run.config.read_text())
    del config["parallel"]["micro_batch"]
    run.config.write_text(json.dumps(config))
    with pytest.raises(PlannerError, match="another version"):
        observe(read_run(run.path))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["parallel=zero1", "train.precision=bf16", "method.rank=4"],
        ["method=full", "train.grad_checkpointing=true"],
        ["method=projector", "parallel.gpus_per_node=2"],
        ["+cluster.env.PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"],
    ],
)
def test_a_run_is_described_as_its_plan_was(words):
    """Else the calibration would learn the difference between two descriptions."""
    _, experiment = compose_experiment([*tiny_words("/nowhere"), *words])
    planned = structs.asdict(workload_of(experiment))
    longest = planned["seq_len"].values[0]
    shape = Shape((longest,), (1.0,), planned["images_per_sample"])
    ran = structs.asdict(run_workload(plain(experiment), shape, planned["memory_metric"]))
    for field in ("samples", "steps", "epochs"):
        planned.pop(field), ran.pop(field)
    assert ran == planned
