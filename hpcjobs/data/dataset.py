"""Samples as tensors, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from hpcjobs.data.llava_json import Sample
from hpcjobs.data.picture import load_picture
from hpcjobs.data.template import IGNORE_INDEX, encode
from hpcjobs.run.errors import InputError


@dataclass(frozen=True, slots=True)
class Item:
    """One encoded sample: ids and labels [L], picture [3, S, S] or none."""

    input_ids_L: Tensor
    labels_L: Tensor
    picture_3SS: Tensor | None


@dataclass(frozen=True)
class MgmDataset(Dataset[Item]):
    """Encodes samples on demand."""

    samples: Sequence[Sample]
    tokenizer: Tokenizer
    pictures: Path
    picture_tokens: int
    picture_px: int
    max_length: int

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        """Encodes one sample and decodes its picture.

        Raises:
            InputError: the sample broke since the data was checked.
        """
        sample = self.samples[index]
        try:
            return self._item(sample)
        except InputError as error:
            raise InputError(
                f"sample {sample.id} (number {sample.index}) cannot be used any more: {error}; "
                f"mend it and submit the run again (data.check=decode looks before the first step)"
            ) from error

    def _item(self, sample: Sample) -> Item:
        encoded = encode(sample, self.tokenizer, self.picture_tokens, self.max_length)
        name = sample.picture
        return Item(
            torch.tensor(encoded.input_ids),
            torch.tensor(encoded.labels),
            None if name is None else load_picture(self.pictures, name, self.picture_px),
        )

    def with_shuffled_pictures(self) -> "MgmDataset":
        """The same conversations, each with the picture of another scene.

        A model that looks at its pictures must do worse on these. The pictures move by half
        of the samples, so that neighbours, which often show the same scene, part.
        """
        shown = [index for index, sample in enumerate(self.samples) if sample.picture]
        moved = shown[len(shown) // 2 :] + shown[: len(shown) // 2]
        samples = list(self.samples)
        for index, source in zip(shown, moved, strict=True):
            samples[index] = replace(samples[index], picture=self.samples[source].picture)
        return replace(self, samples=samples)


def collate(items: Sequence[Item], pad_id: int, picture_px: int) -> dict[str, Tensor]:
    """Pads items on the right to a batch.

    Returns:
        ``input_ids_BL``, ``attention_mask_BL``, ``labels_BL``, and ``pictures_P3HH`` in the
        order of the samples; P may be 0.
    """
    length = max(len(item.input_ids_L) for item in items)
    shape = (len(items), length)
    input_ids_BL = torch.full(shape, pad_id)
    labels_BL = torch.full(shape, IGNORE_INDEX)
    attention_mask_BL = torch.zeros(shape, dtype=torch.long)
    for row, item in enumerate(items):
        filled = len(item.input_ids_L)
        input_ids_BL[row, :filled] = item.input_ids_L
        labels_BL[row, :filled] = item.labels_L
        attention_mask_BL[row, :filled] = 1
    pictures = [item.picture_3SS for item in items if item.picture_3SS is not None]
    none_P3HH = torch.zeros(0, 3, picture_px, picture_px)
    return {
        "input_ids_BL": input_ids_BL,
        "attention_mask_BL": attention_mask_BL,
        "labels_BL": labels_BL,
        "pictures_P3HH": torch.stack(pictures) if pictures else none_P3HH,
    }
