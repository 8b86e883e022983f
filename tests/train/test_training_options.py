"""The options of the optimisation do what they say, through the real engine.

Slow: some twenty short trainings, which share four starts of torch.
"""

import math
import shutil

import pytest
import torch
from runs import trained_steps
from safetensors.torch import load_file
from tiny import tiny_words, write_tiny_data
from trainings import prepare, train_all

from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, step_dir

pytestmark = pytest.mark.slow

STAGES = (0, 1, 2, 3)
STEPS = 6
ADAM_EPS = 1e-8  # torch's default
TINY_NORM = 1e-9
RATE = 0.01

# Gradients far below Adam's epsilon: its first step is then rate x gradient / epsilon.
CLIPPED = {
    "train.steps": 1, "train.schedule": "constant", "train.warmup_ratio": 0.0, "train.lr": RATE,
    "method.train_projector": "false", "data.heldout": "null",
}  # fmt: skip

OFFLOAD = {
    2: {"parallel.offload_optimizer": "cpu"},
    3: {"parallel.offload_optimizer": "cpu", "parallel.offload_params": "cpu"},
}
SINGLE = {
    **{
        f"zero{stage}-{precision}": {"parallel": f"zero{stage}", "train.precision": precision}
        for stage in STAGES
        for precision in ("fp32", "bf16")
    },
    **{f"offload{stage}-fp32": {"parallel": f"zero{stage}", **OFFLOAD[stage]} for stage in (2, 3)},
    **{
        f"clipped{stage}": {**CLIPPED, "parallel": f"zero{stage}", "train.max_grad_norm": TINY_NORM}
        for stage in STAGES
    },
    "clipped-less": {**CLIPPED, "train.max_grad_norm": 2 * TINY_NORM},
    "recomputed": {"train.grad_checkpointing": "true"},
    "loaders": {"data.workers": 2},
    "full": {"method": "full"},
    "projector": {"method": "projector"},
    "full3": {"method": "full", "parallel": "zero3"},
    "best": {
        "train.heldout_every_steps": 1, "train.checkpoint.every_steps": 1, "train.checkpoint.keep": 1,
        "train.checkpoint.keep_best": 2, "train.export": "best", "train.lr": 0.5,
        "train.schedule": "constant", "train.warmup_ratio": 0.5, "parallel": "zero3",
    },
    "rhythms": {"train.heldout_every_steps": 2, "train.log_every_steps": 3},
    "by-time": {
        "train.checkpoint.every_s": 0.001, "train.checkpoint.every_steps": "null",
        "train.checkpoint.keep": 2, "train.checkpoint.asynchronous": "false",
    },
}  # fmt: skip
BATCHES = {
    f"batch-zero{stage}": {"parallel": f"zero{stage}", "method.dropout": 0.0, "parallel.micro_batch": 4}
    for stage in STAGES
}  # fmt: skip


def make(root, data, name, changes, cards):
    common = {
        "train.steps": STEPS, "parallel.device": "cpu", "parallel.micro_batch": 2,
        "parallel.gpus_per_node": cards,
    }  # fmt: skip
    path = root / f"{name}-{cards}"
    return prepare(tiny_words(data, **common | changes, run_dir=path), path)


def train(root, data, plans, cards):
    # ZeRO-3 leaves another torch.nn.functional.linear behind in its interpreter, so it comes last.
    order = sorted(plans, key=lambda name: plans[name].get("parallel") == "zero3")
    runs = {name: make(root, data, name, plans[name], cards) for name in order}
    verdicts = train_all(list(runs.values()), cards)
    assert [verdict.status for verdict in verdicts] == ["done"] * len(runs), verdicts
    return runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("options")


@pytest.fixture(scope="module")
def data(place):
    return write_tiny_data(place / "data")


@pytest.fixture(scope="module")
def alone(place, data):
    """Every option on one process."""
    return train(place, data, SINGLE | BATCHES, 1)


@pytest.fixture(scope="module")
def together(place, data):
    """The same batches on two processes, with half the accumulation."""
    return train(place, data, BATCHES, 2)


def figures(run, name):
    return [line[name] for line in trained_steps(run).values()]


def kinds(run, kind):
    return [event for event in read_lines(run.events) if event["kind"] == kind]


def measured(run):
    return [line for line in read_lines(run.metrics) if line["kind"] == "heldout"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_stage_reports_the_same_losses_and_gradient_norms(alone, precision):
    """Adam's count of steps is part of it: a step too many makes the first updates too small."""
    names = [f"zero{stage}-{precision}" for stage in STAGES]
    names += ["offload2-fp32", "offload3-fp32"] if precision == "fp32" else []
    losses = [figures(alone[name], "loss") for name in names]
    norms = [figures(alone[name], "grad_norm") for name in names]
    assert all(isinstance(norm, float) and norm > 0 for run in norms for norm in run)
    close = 1e-5 if precision == "fp32" else 1e-3
    for other in range(1, len(names)):
        assert losses[other] == pytest.approx(losses[0], rel=close), names[other]
        assert norms[other] == pytest.approx(norms[0], rel=close * 10), names[other]


@pytest.mark.parametrize("stage", STAGES)
def test_the_reported_gradient_norm_is_the_one_before_clipping(alone, stage):
    free = alone["clipped-less"]
    assert figures(alone[f"clipped{stage}"], "grad_norm")[0] > 0.1
    assert figures(alone[f"clipped{stage}"], "grad_norm") == pytest.approx(
        figures(free, "grad_norm"), rel=1e-5
    )


def gradient_norm_of_first_step(run):
    """The norm that Adam was given, worked out from how far the adapters have moved from zero."""
    adapter = load_file(run.result / "adapter" / "adapter_model.safetensors")
    moved = torch.cat([t.flatten() for key, t in adapter.items() if "lora_B" in key]).double()
    return float((moved * ADAM_EPS / (RATE - moved.abs())).norm())


@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_is_clipped_to_max_grad_norm(alone, stage):
    assert gradient_norm_of_first_step(alone[f"clipped{stage}"]) == pytest.approx(
        TINY_NORM, rel=1e-3
    )


def test_twice_the_limit_is_twice_the_gradient(alone):
    assert gradient_norm_of_first_step(alone["clipped-less"]) == pytest.approx(
        2 * TINY_NORM, rel=1e-3
    )


def test_the_rate_warms_up_and_follows_the_cosine(alone):
    warmup = math.ceil(0.03 * STEPS)
    expected = [0.0] + [
        0.004 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))
        for step in range(warmup, STEPS)
    ]
    assert figures(alone["zero2-fp32"], "lr") == pytest.approx(expected)


def test_recomputing_activations_changes_no_figure(alone):
    plain, recomputed = alone["zero2-fp32"], alone["recomputed"]
    assert figures(recomputed, "loss") == pytest.approx(figures(plain, "loss"), rel=1e-6)
    assert figures(recomputed, "grad_norm") == pytest.approx(figures(plain, "grad_norm"), rel=1e-5)


def test_loader_processes_change_no_figure(alone):
    assert figures(alone["loaders"], "loss") == figures(alone["zero2-fp32"], "loss")


@pytest.mark.parametrize("stage", STAGES)
def test_accumulation_and_cards_are_the_same_batch(alone, together, stage):
    one, two = alone[f"batch-zero{stage}"], together[f"batch-zero{stage}"]
    assert figures(two, "tokens") == figures(one, "tokens")
    assert figures(two, "loss") == pytest.approx(figures(one, "loss"), rel=1e-5)
    assert figures(two, "grad_norm") == pytest.approx(figures(one, "grad_norm"), rel=1e-4)


@pytest.fixture(scope="module")
def later(alone, place, data):
    """A run from the result of another one, and runs that go on where they were cut short."""
    full = alone["full"]
    changes = {"model.weights": "pretrained", "model.path": full.result, "train.steps": 1}
    runs = {"from-full": make(place, data, "from-full", changes, 1)}
    start = {"method.start_from": alone["best"].result, "train.steps": 1, "parallel": "zero2"}
    runs["from-best"] = make(place, data, "from-best", start, 1)
    for stage in (0, 1):
        runs[f"zero{stage}-bf16"] = cut_short(alone[f"zero{stage}-bf16"])
    verdicts = train_all(list(runs.values()))
    assert [verdict.status for verdict in verdicts] == ["done"] * len(runs), verdicts
    return runs


def cut_short(run):
    copy = RunDir(run.path.with_name(f"{run.path.name}-cut"))
    shutil.copytree(run.path, copy.path)
    shutil.rmtree(copy.result)
    shutil.rmtree(step_dir(copy.checkpoints, STEPS))
    return copy


@pytest.mark.parametrize("stage", [0, 1])
def test_in_bf16_a_run_goes_on_bit_equal_at_the_stages_with_wrapped_optimizers(alone, later, stage):
    run, whole = later[f"zero{stage}-bf16"], alone[f"zero{stage}-bf16"]
    assert [event["first"] for event in kinds(run, "training")] == [0, 4]
    assert figures(run, "loss") == figures(whole, "loss")
    assert figures(run, "grad_norm") == figures(whole, "grad_norm")
    for name in ("adapter/adapter_model.safetensors", "projector.safetensors"):
        assert (run.result / name).read_bytes() == (whole.result / name).read_bytes()


def test_the_result_of_full_training_can_start_another_run(alone, later):
    """Its first measurement is the last one of the run that made it."""
    full = alone["full"]
    assert figures(full, "loss")[-1] < figures(full, "loss")[0]
    first, last = measured(later["from-full"])[0]["loss"], measured(full)[-2]["loss"]
    assert first == pytest.approx(last, rel=1e-6)
    assert last == read_json(full.result_file)["heldout_loss_after"]


def test_full_training_at_zero_3_exports_the_whole_model(alone):
    """Gathered parameter by parameter, towers and all, it is what the other stages export."""
    full, divided = alone["full"], alone["full3"]
    index = read_json(full.result / "model.safetensors.index.json")
    assert read_json(divided.result / "model.safetensors.index.json") == index
    for name in set(index["weight_map"].values()):
        left, right = load_file(full.result / name), load_file(divided.result / name)
        for key, value in left.items():
            assert torch.allclose(value, right[key], rtol=1e-3, atol=1e-5), key


def test_the_best_checkpoints_stay_and_the_best_becomes_the_result(alone):
    """The rate rises until the training breaks: its best step is not its last."""
    run = alone["best"]
    lines = [line for line in measured(run) if not line["shuffled_pictures"] and line["step"] > 0]
    losses = {line["step"]: line["loss"] for line in lines}
    ranked = sorted(set(losses) - {STEPS}, key=losses.__getitem__)  # measured before the last save
    assert losses[ranked[0]] < losses[STEPS]
    assert committed_steps(run.checkpoints) == [*sorted(ranked[:2]), STEPS]
    assert (run.checkpoints / "best").read_text().strip() == f"step-{ranked[0]:08d}"
    result = read_json(run.result_file)
    assert (result["best_step"], result["exported_step"]) == (ranked[0], ranked[0])
    assert result["best_heldout_loss"] == losses[ranked[0]]


def test_the_result_of_the_best_step_measures_as_that_step_did(alone, later):
    best = read_json(alone["best"].result_file)["best_heldout_loss"]
    first = measured(later["from-best"])[0]
    assert (first["step"], first["moment"]) == (0, "before")
    assert first["loss"] == pytest.approx(best, rel=1e-6)
    (started,) = kinds(later["from-best"], "started_from")
    assert sorted(started["sha256"]) == [
        "adapter/adapter_model.safetensors",
        "projector.safetensors",
    ]


def test_the_projector_alone_trains_and_is_exported(alone):
    run = alone["projector"]
    assert sorted(path.name for path in run.result.iterdir()) == [
        "model.json", "projector.safetensors", "result.json",
    ]  # fmt: skip
    tensors = load_file(run.result / "projector.safetensors")
    assert len(tensors) == 16
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    norms = figures(run, "grad_norm")
    assert all(
        norm < whole for norm, whole in zip(norms, figures(alone["full"], "grad_norm"), strict=True)
    )


def test_held_out_losses_and_metrics_come_in_the_rhythm_that_was_asked_for(alone):
    run = alone["rhythms"]
    moments = [(line["step"], line["moment"]) for line in measured(run)]
    assert moments == [(0, "before"), (2, "during"), (4, "during"), (6, "after"), (6, "after")]
    assert list(trained_steps(run)) == [3, 6]
    assert figures(run, "loss") == figures(alone["zero2-fp32"], "loss")[2::3]


def test_measuring_in_between_does_not_disturb_the_training(alone):
    assert measured(alone["rhythms"])[-2:] != []
    last = [measured(alone[name])[-2]["loss"] for name in ("rhythms", "zero2-fp32")]
    assert last[0] == last[1]


def test_checkpoints_come_by_the_clock_and_only_the_newest_are_kept(alone):
    run = alone["by-time"]
    assert [event["step"] for event in kinds(run, "checkpoint")] == list(range(1, STEPS + 1))
    assert [event["pruned"] for event in kinds(run, "checkpoint")] == [
        [], [], [1], [2], [3], [4],
    ]  # fmt: skip
    assert committed_steps(run.checkpoints) == [STEPS - 1, STEPS]
    assert (run.checkpoints / "latest").read_text().strip() == f"step-{STEPS:08d}"


def test_checkpoints_come_by_steps(alone):
    assert committed_steps(alone["zero2-fp32"].checkpoints) == [2, 4, 6]
