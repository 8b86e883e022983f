"""Broken samples are found before training, counted, and named up to the limit."""

import json
from dataclasses import asdict, replace

import pytest
import tiny

from hpcjobs.data.bad_sample import BadSample, refuse_too_many
from hpcjobs.data.check import check_samples, without
from hpcjobs.data.dataset import MgmDataset
from hpcjobs.data.llava_json import Turn, read_samples
from hpcjobs.data.template import load_tokenizer
from hpcjobs.run.errors import InputError


@pytest.fixture
def dataset(tmp_path) -> MgmDataset:
    root = tiny.write_tiny_data(tmp_path, samples=24)
    samples, _ = read_samples(root / "train.json")
    return MgmDataset(samples, load_tokenizer(root / "tokenizer.json"), root, 4, 16, 128)


def break_some(dataset: MgmDataset) -> MgmDataset:
    """Breaks sample 2's picture, takes 5's away, and spoils the turns of 7 and 11."""
    pictures = dataset.pictures / "pictures"
    whole = (pictures / "red.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    samples = list(dataset.samples)
    samples[2] = replace(samples[2], picture="pictures/cut.png")
    samples[5] = replace(samples[5], picture="pictures/gone.png")
    samples[7] = replace(samples[7], turns=samples[7].turns[:1])
    samples[11] = replace(samples[11], turns=(samples[11].turns[0], Turn("gpt", "a <eos> b")))
    return replace(dataset, samples=samples)


def test_sound_samples_pass(dataset):
    assert check_samples(dataset, "decode") == []


@pytest.mark.parametrize(("how", "found"), [("decode", [2, 5, 7, 11]), ("exists", [5, 7, 11])])
def test_broken_pictures_and_conversations_are_found_in_order(dataset, how, found):
    bad = check_samples(break_some(dataset), how, threads=3)
    assert [sample.index for sample in bad] == found
    reasons = {sample.index: sample.reason for sample in bad}
    assert "pictures/gone.png is missing" in reasons[5]
    assert "human and gpt must alternate" in reasons[7]
    assert "turn 2 holds <eos>" in reasons[11]
    assert [sample.id for sample in bad] == [f"s{index}" for index in found]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 40])
def test_ranks_share_the_work_and_find_together_what_one_finds(dataset, world_size):
    broken = break_some(dataset)
    shares = [check_samples(broken, "decode", rank, world_size) for rank in range(world_size)]
    together = sorted((bad for share in shares for bad in share), key=lambda bad: bad.index)
    assert together == check_samples(broken, "decode")


def test_positions_are_those_in_the_file_also_after_malformed_samples(dataset, tmp_path):
    raw = json.loads((tmp_path / "train.json").read_text())
    raw[1] = {"id": "hollow"}
    raw[4]["image"] = "pictures/gone.png"
    (tmp_path / "train.json").write_text(json.dumps(raw))
    samples, malformed = read_samples(tmp_path / "train.json")
    bad = check_samples(replace(dataset, samples=samples), "exists")
    assert [sample.index for sample in [*malformed, *bad]] == [1, 4]
    assert [sample.index for sample in without(samples, bad)][:4] == [0, 2, 3, 5]


def test_an_entry_can_be_written_as_json_and_read_back():
    bad = BadSample(3, "x", "why")
    assert BadSample(**json.loads(json.dumps(asdict(bad)))) == bad


def some(count: int) -> list[BadSample]:
    return [BadSample(i, f"s{i}", f"reason {i}") for i in range(count)]


@pytest.mark.parametrize(("count", "limit"), [(0, 0), (3, 3), (3, 100)])
def test_as_many_broken_samples_as_the_limit_allows_pass(count, limit):
    refuse_too_many(some(count), limit, "train.json")


def test_one_more_is_refused_in_one_line_with_the_first_five_and_the_remedy():
    with pytest.raises(InputError) as refused:
        refuse_too_many(some(8), 7, "train.json")
    message = str(refused.value)
    assert message.startswith("8 of the train.json samples cannot be used (allowed: 7): ")
    assert "s0 (number 0): reason 0; s1 (number 1): reason 1" in message
    assert "s4 (number 4): reason 4; and 3 more, all in data_check.json; " in message
    assert "reason 5" not in message
    assert message.endswith("mend them, or leave them out with data.bad_samples_max=8")
    assert "\n" not in message
