"""An experiment becomes the workload that our trainer really is."""

import json

import pytest

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.figures import figures_of
from hpcjobs.login.sample_facts import sample_facts
from hpcjobs.login.workload_of import describe, workload_of
from hpcjobs.run.errors import ConfigError
from planner.memory.trained import trained_of
from planner.models.read import architecture_of

LORA = "+experiment=mgm_lora"


def experiment(tmp_path, *words):
    return compose_experiment([LORA, *words], here=tmp_path)[1]


def sample(index, words=200, picture=True):
    return {
        "id": f"s{index}",
        **({"image": f"{index}.jpg"} if picture else {}),
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?" if picture else "What is it?"},
            {"from": "gpt", "value": "word " * words},
        ],
    }


def write_data(tmp_path, samples, indent=None):
    root = tmp_path / "data" / "mgm"
    root.mkdir(parents=True)
    path = root / "mgm_instruction.json"
    path.write_text(json.dumps(samples, indent=indent))
    return path


def test_the_trainers_own_facts(tmp_path):
    work = workload_of(experiment(tmp_path, "train.grad_checkpointing=false"))
    assert work.method.adapter_dtype == "bf16"
    assert work.method.dropout == 0.1
    assert work.reduce_bucket == 2048**2
    assert work.towers == "frozen"
    assert work.image_tokens == 576
    assert not work.grad_ckpt.language_model
    assert (work.sharding, work.gpus, work.micro_batch, work.grad_accum) == ("zero2", 4, 1, 32)
    assert work.logit_share == 1 - 576 / 2048


@pytest.mark.parametrize("method", ["lora", "full", "projector"])
def test_the_planner_counts_what_the_submission_counts(method, tmp_path):
    chosen = experiment(tmp_path, f"method={method}")
    work = workload_of(chosen)
    architecture = architecture_of(work.model)
    figures = figures_of(chosen)
    assert trained_of(architecture, work).total == figures.trainable
    adapters = trained_of(architecture, work).adapters
    assert architecture.parameters + adapters == figures.total


@pytest.mark.parametrize(
    ("pattern", "targets"),
    [
        (r"model\.layers\.\d+\.self_attn\.(q|v)_proj", ("q_proj", "v_proj")),
        (r"model\.layers\.\d+\.mlp\.down_proj", ("down_proj",)),
    ],
)
def test_own_targets_are_taken_over(pattern, targets, tmp_path):
    work = workload_of(experiment(tmp_path, f"method.targets='{pattern}'"))
    assert work.method.targets == targets


def test_targets_that_match_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="matches no projection"):
        workload_of(experiment(tmp_path, "method.targets=nothing"))


def test_a_small_data_file_is_counted_exactly(tmp_path):
    write_data(tmp_path, [sample(i, picture=i % 4 != 0) for i in range(40)])
    described = describe(experiment(tmp_path))
    work = described.workload
    assert work.samples == 40
    assert work.images_per_sample == 0.75
    assert max(work.seq_len.values) == pytest.approx(576 + 1000 / 4, abs=30)
    assert any("estimated from 40 samples" in note for note in described.assumptions)


def test_a_large_data_file_is_measured_in_parts(tmp_path):
    samples = [sample(i, words=20 + i % 700) for i in range(4000)]
    path = write_data(tmp_path, samples)
    assert path.stat().st_size > 4 << 20
    facts = sample_facts(path)
    assert (facts.samples, facts.is_exact, facts.is_whole) == (4000, True, False)
    values, weights = facts.lengths(576, 2048)
    assert sum(weights) == pytest.approx(1)
    true_mean = (
        sum(576 + 12 + len("What is it?") / 4 + 5 * (20 + i % 700) / 4 for i in range(4000)) / 4000
    )
    mean = sum(n * share for n, share in zip(values, weights, strict=True))
    assert mean == pytest.approx(true_mean, rel=0.1)
    assert max(values) == 2048, "one that was not looked at may be as long as a sample can be"


def test_an_indented_file_is_measured_too(tmp_path):
    path = write_data(tmp_path, [sample(i) for i in range(6000)], indent=2)
    facts = sample_facts(path)
    assert (facts.samples, facts.picture_share) == (6000, 1.0)


def test_a_very_large_file_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcjobs.login.sample_facts._COUNTED_BYTES", 3 << 20)
    path = write_data(tmp_path, [sample(i, words=20 + 7 * i % 700) for i in range(8000)])
    facts = sample_facts(path)
    assert facts.samples == pytest.approx(8000, rel=0.05)
    assert not facts.is_exact


@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", "not json", '[{"id": 1}]'])
def test_a_file_that_tells_nothing_leaves_the_configuration_to_speak(content, tmp_path):
    path = write_data(tmp_path, [])
    path.write_text(content)
    assert sample_facts(path) is None
    assert workload_of(experiment(tmp_path)).samples == 1_500_000


def test_the_file_is_left_alone_where_the_configuration_says_so(tmp_path):
    write_data(tmp_path, [sample(i) for i in range(40)])
    words = ["planner.read_data=false", "planner.samples=7", "planner.lengths.mean=900"]
    described = describe(experiment(tmp_path, *words))
    assert described.workload.samples == 7
    assert max(described.workload.seq_len.values) == 2048
    assert "7 samples (planner.samples)" in described.assumptions


def test_without_any_word_every_sample_is_as_long_as_it_can_be(tmp_path):
    words = ["planner.lengths.mean=null", "planner.lengths.std=null", "planner.samples=null"]
    described = describe(experiment(tmp_path, *words))
    assert described.workload.seq_len.values == (2048,)
    assert described.workload.samples is None
    assert any("write planner.samples=N" in note for note in described.assumptions)


def test_the_allocators_setting_is_taken_from_the_jobs_environment(tmp_path):
    word = "+cluster.env.PYTORCH_CUDA_ALLOC_CONF='max_split_size_mb:128'"
    assert not workload_of(experiment(tmp_path, word)).expandable_segments
    assert workload_of(experiment(tmp_path)).expandable_segments
