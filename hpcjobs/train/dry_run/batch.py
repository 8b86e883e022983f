"""One micro batch of the right shapes."""

import math

import torch
from torch import Tensor

from hpcjobs.train.dry_run.hf_model import HfModel
from hpcjobs.train.dry_run.mgm_model import is_mgm, mgm_dims
from hpcjobs.train.dry_run.request import Request
from hpcjobs.train.mgm.loss import IGNORE_INDEX
from hpcjobs.train.mgm.placeholders import IMAGE_TOKEN_INDEX

Batch = dict[str, Tensor]

_TOKEN = 5


def labelled_tokens(request: Request) -> int:
    """Positions of a micro batch that the loss of MGM sees."""
    per_sample = request.labelled_tokens
    if per_sample is None:
        tokens = mgm_dims(request.config).picture_tokens
        pictures = math.ceil(_images(request) * tokens / request.micro_batch)
        per_sample = request.seq_len - 1 - pictures
    return max(1, per_sample) * request.micro_batch


def mgm_batch(request: Request, dtype: torch.dtype) -> Batch:
    """What ``MgmForCausalLM.forward`` takes: pictures first, then text, all of it learnt."""
    dims = mgm_dims(request.config)
    shape, images = (request.micro_batch, request.seq_len), _images(request)
    ids_BL, labels_BL = torch.full(shape, _TOKEN), torch.full(shape, IGNORE_INDEX)
    ids_BL.view(-1)[: images * dims.picture_tokens] = IMAGE_TOKEN_INDEX
    learnt = labelled_tokens(request) // request.micro_batch
    labels_BL[:, request.seq_len - learnt :] = _TOKEN
    side = dims.aux.picture_px
    return {
        "input_ids_BL": ids_BL,
        "attention_mask_BL": torch.ones_like(ids_BL),
        "labels_BL": labels_BL,
        "pictures_P3HH": torch.zeros(images, 3, side, side, dtype=dtype),
    }


def hf_batch(model: HfModel, request: Request, dtype: torch.dtype) -> Batch:
    """What a causal model of transformers takes; with pictures where it has a tower."""
    ids_BL = torch.full((request.micro_batch, request.seq_len), _TOKEN)
    batch = {
        "input_ids": ids_BL,
        "attention_mask": torch.ones_like(ids_BL),
        "labels": ids_BL.clone(),
    }
    images = _images(request) if _vision(model) is not None else 0
    return batch | _pictures(model, ids_BL, images, dtype) if images else batch


def _images(request: Request) -> int:
    default = 1.0 if is_mgm(request.config) or "vision_config" in request.config else 0.0
    share = default if request.images_per_sample is None else request.images_per_sample
    return math.ceil(share * request.micro_batch)


def _vision(model: HfModel) -> object:
    return getattr(model.config, "vision_config", None)


def _pictures(model: HfModel, ids_BL: Tensor, images: int, dtype: torch.dtype) -> Batch:
    config = model.config
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    ids_BL.view(-1)[: images * (side // patch) ** 2] = config.image_token_id
    pictures = {"pixel_values": torch.zeros(images, 3, side, side, dtype=dtype)}
    if config.model_type == "paligemma":
        pictures["token_type_ids"] = torch.ones_like(ids_BL)
    return pictures
