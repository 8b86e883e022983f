"""A training goes on with fewer or more processes, and with another ZeRO stage, as if undisturbed.

Slow: four trainings with real processes of DeepSpeed, on two, then one, then three.
"""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import trained_steps
from tiny import tiny_words, write_tiny_data
from trainings import prepare, train_all

from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps, step_dir
from hpcjobs.train.reshape import overlaps, spans

STEPS, FIRST, SECOND = 6, 2, 4
PLANS = {
    "zero0": {"parallel": "zero0"},
    "zero2": {"parallel": "zero2", "parallel.offload_optimizer": "cpu"},
    "zero3": {"parallel": "zero3"},
    "mixed": {"parallel": "zero2"},
}
MIXED = {1: 3, 3: 1}
"""The stages that the run ``mixed`` goes on with, by the number of processes."""


def train(runs, processes):
    verdicts = train_all(list(runs.values()), processes)
    assert [verdict.status for verdict in verdicts] == ["done"] * len(runs), verdicts


def cut(runs, after, place):
    """Copies of runs that were interrupted after a checkpoint."""
    copies = {name: RunDir(place / f"{name}-{after}") for name in runs}
    for name, copy in copies.items():
        shutil.copytree(runs[name].path, copy.path)
        shutil.rmtree(copy.result)
        for step in committed_steps(copy.checkpoints):
            if step > after:
                shutil.rmtree(step_dir(copy.checkpoints, step))
    return copies


def change_stage(run, stage):
    config = json.loads(run.config.read_text())
    config["parallel"]["zero_stage"] = stage
    run.config.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Undisturbed on two processes; and from each third on one process, then on three."""
    place = tmp_path_factory.mktemp("reshape")
    data = write_tiny_data(place / "data")
    common = {
        "train.steps": STEPS, "train.checkpoint.every_steps": 2, "train.global_batch": 12,
        "parallel.nodes": "1-3", "parallel.gpus_per_node": 1, "parallel.device": "cpu",
        "parallel.micro_batch": 2, "method.dropout": 0.0, "train.precision": "fp32",
    }  # fmt: skip
    undisturbed = {
        name: prepare(tiny_words(data, **common | plan, run_dir=place / name), place / name)
        for name, plan in PLANS.items()
    }
    train(undisturbed, 2)
    fewer = cut(undisturbed, FIRST, place)
    change_stage(fewer["mixed"], MIXED[1])
    train(fewer, 1)
    more = cut(fewer, SECOND, place)
    change_stage(more["mixed"], MIXED[3])
    train(more, 3)
    return undisturbed, fewer, more


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_two_then_one_then_three_processes_train_as_two_did(runs, name):
    undisturbed, fewer, more = (trained_steps(run[name]) for run in runs)
    assert list(undisturbed) == list(fewer) == list(more) == list(range(1, STEPS + 1))
    for step, expected in undisturbed.items():
        for found in (fewer[step], more[step]):
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5), step
            assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4), step
            for figure in ("lr", "tokens", "samples"):
                assert found[figure] == expected[figure], (step, figure)
    attempts = [more[step]["attempt"] for step in more]
    assert attempts == [1] * FIRST + [2] * (SECOND - FIRST) + [3] * (STEPS - SECOND)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_the_states_are_divided_among_the_processes_that_are_there(runs, name):
    for run, processes in zip(runs, (2, 1, 3), strict=True):
        last = step_dir(run[name].checkpoints, STEPS)
        manifest = json.loads((last / "manifest.json").read_text())
        assert manifest["world_size"] == processes
        parts = len(list(last.glob("*optim_states.pt")))
        assert parts == (0 if manifest["zero_stage"] == 0 else processes)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    old=st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 7)),
    new=st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 7)),
)
def test_every_value_finds_its_place_whatever_the_stages_and_numbers(sizes, old, new):
    shapes = {f"p{number}": (size,) for number, size in enumerate(sizes)}
    values = dict(zip(shapes, torch.arange(sum(sizes)).split(sizes), strict=True))
    pieces = {}
    for part in divided(shapes, *old):
        flat = torch.full((part_numel(shapes, *old),), -1)
        for span in part:
            flat[span.offset : span.offset + span.numel] = values[span.name][
                span.first : span.first + span.numel
            ]
        for span in part:
            pieces.setdefault(span.name, []).append((span, {"weight": flat}))
    seen = {name: torch.full_like(value, -1) for name, value in values.items()}
    for part in divided(shapes, *new):
        flat = torch.full((part_numel(shapes, *new),), -1)
        for span in part:
            for place, found in overlaps(span, pieces[span.name]):
                flat[place] = found["weight"]
            own = flat[span.offset : span.offset + span.numel]
            seen[span.name][span.first : span.first + span.numel] = own
    assert all(torch.equal(seen[name], values[name]) for name in values)


def part_numel(shapes, stage, parts):
    sizes = [size for (size,) in shapes.values()]
    if stage == 3:
        return sum(-(-size // parts) for size in sizes)
    return 2 * -(-sum(sizes) // (2 * parts))  # DeepSpeed aligns the whole to twice the parts


def divided(shapes, stage, parts):
    numel = part_numel(shapes, stage, parts)
    return [spans(shapes, stage, parts, part, numel) for part in range(parts)]
