"""Samples as tensors, batches of them, and pictures exchanged between them."""

import pickle
from dataclasses import replace

import pytest
import tiny
import torch
from data.conversations import conversation
from torch.utils.data import DataLoader

from hpcjobs.data.dataset import Item, MgmDataset, collate
from hpcjobs.data.llava_json import read_samples
from hpcjobs.data.template import IGNORE_INDEX, IMAGE_TOKEN_INDEX, load_tokenizer, pad_id
from hpcjobs.run.errors import InputError

PX = 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> MgmDataset:
    root = tiny.write_tiny_data(tmp_path_factory.mktemp("tiny"), samples=20)
    samples, bad = read_samples(root / "train.json")
    assert not bad
    return MgmDataset(samples, load_tokenizer(root / "tokenizer.json"), root, 4, PX, 128)


def item(*ids: int, picture: float | None = None) -> Item:
    shown = None if picture is None else torch.full((3, PX, PX), picture)
    return Item(torch.tensor(ids), torch.tensor([-100, *ids[1:]]), shown)


def test_an_item_has_labels_of_its_tokens_length_and_its_picture(dataset):
    first = dataset[0]
    assert first.input_ids_L.shape == first.labels_L.shape
    assert first.input_ids_L.dtype == first.labels_L.dtype == torch.long
    assert (first.input_ids_L == IMAGE_TOKEN_INDEX).sum() == 4
    assert first.picture_3SS.shape == (3, PX, PX)


def test_an_item_without_a_picture_has_none(dataset):
    assert dataset[8].picture_3SS is None
    assert (dataset[8].input_ids_L != IMAGE_TOKEN_INDEX).all()


def test_a_picture_that_broke_since_the_check_stops_the_run_instead_of_being_replaced(dataset):
    gone = replace(dataset, samples=[replace(dataset.samples[0], picture="pictures/gone.png")])
    with pytest.raises(InputError, match=r"pictures/gone\.png is missing"):
        gone[0]


def test_a_batch_is_padded_on_the_right_and_padding_is_neither_seen_nor_learnt():
    batch = collate([item(2, 5, 6, 7, picture=1.0), item(2, 8)], 0, PX)
    assert batch["input_ids_BL"].tolist() == [[2, 5, 6, 7], [2, 8, 0, 0]]
    assert batch["attention_mask_BL"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels_BL"].tolist() == [[-100, 5, 6, 7], [-100, 8, IGNORE_INDEX, IGNORE_INDEX]]


@pytest.mark.parametrize(
    ("pictures", "shape"),
    [([], (0, 3, PX, PX)), ([1.0], (1, 3, PX, PX)), ([1.0, 2.0], (2, 3, PX, PX))],
)
def test_a_batch_holds_its_pictures_in_the_order_of_the_samples(pictures, shape):
    items = [item(2, 3), *(item(2, 3, picture=value) for value in pictures)]
    batch = collate(items, 0, PX)
    assert set(batch) == {"input_ids_BL", "attention_mask_BL", "labels_BL", "pictures_P3HH"}
    assert batch["pictures_P3HH"].shape == shape
    assert batch["pictures_P3HH"][:, 0, 0, 0].tolist() == pictures


def test_exchanged_pictures_are_the_same_pictures_with_other_conversations(dataset):
    exchanged = dataset.with_shuffled_pictures()
    before = [sample.picture for sample in dataset.samples]
    after = [sample.picture for sample in exchanged.samples]
    assert sorted(map(str, before)) == sorted(map(str, after))
    assert [s.turns for s in dataset.samples] == [s.turns for s in exchanged.samples]
    assert all((a is None) == (b is None) for a, b in zip(before, after, strict=True))
    assert before != after


@pytest.mark.parametrize(
    "samples", [[], [conversation("Q", "A")], [conversation("<image>", "A", picture="a.png")]]
)
def test_exchanging_too_few_pictures_changes_nothing(dataset, samples):
    few = replace(dataset, samples=samples)
    assert few.with_shuffled_pictures() == few


def test_a_loader_process_gets_the_same_items(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3].input_ids_L, dataset[3].input_ids_L)
    number = pad_id(dataset.tokenizer)
    loader = DataLoader(
        dataset, batch_size=5, num_workers=1, collate_fn=lambda items: collate(items, number, PX)
    )
    batch = next(iter(loader))
    assert torch.equal(batch["pictures_P3HH"][1], dataset[1].picture_3SS)
