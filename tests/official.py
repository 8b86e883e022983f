"""MGM's released checkpoints: keys and shapes as YanweiLi/MGM-2B has them, and files like its own.

Written down by hand from MGM's code and the published file sizes, not taken from our model.
"""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hpcjobs.run.model_config import AuxDims, Model, TextDims, VisionDims

Shapes = dict[str, tuple[int, ...]]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CLIP, CONVNEXT = "model.vision_tower.vision_tower.vision_model.", "model.vision_tower_aux."


def official_shapes(dims: Model) -> Shapes:
    """Every key of the released files, in their order; the head is stored beside the embedding."""
    shapes = {f"model.{key}": shape for key, shape in _gemma(dims.text)}
    shapes |= {CLIP + key: shape for key, shape in _clip(dims.vision)}
    shapes |= {f"model.{key}": shape for key, shape in _projectors(dims)}
    shapes |= {CONVNEXT + key: shape for key, shape in _convnext(dims.aux)}
    return shapes | {HEAD: shapes[EMBEDDING]}


def _gemma(text: TextDims) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, wide = text.hidden, text.intermediate
    queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    yield "embed_tokens.weight", (text.vocab, hidden)
    for layer in range(text.layers):
        attention, mlp = f"layers.{layer}.self_attn.", f"layers.{layer}.mlp."
        yield f"{attention}q_proj.weight", (queries, hidden)
        yield f"{attention}k_proj.weight", (keys, hidden)
        yield f"{attention}v_proj.weight", (keys, hidden)
        yield f"{attention}o_proj.weight", (hidden, queries)
        yield f"{mlp}gate_proj.weight", (wide, hidden)
        yield f"{mlp}up_proj.weight", (wide, hidden)
        yield f"{mlp}down_proj.weight", (hidden, wide)
        yield f"layers.{layer}.input_layernorm.weight", (hidden,)
        yield f"layers.{layer}.post_attention_layernorm.weight", (hidden,)
    yield "norm.weight", (hidden,)


def _clip(vision: VisionDims) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, wide, patch = vision.hidden, vision.intermediate, vision.patch_px
    yield "embeddings.class_embedding", (width,)
    yield "embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield "embeddings.position_embedding.weight", (vision.grid**2 + 1, width)
    yield from _both("pre_layrnorm", (width,))  # so it is spelt
    for number in range(vision.layers):
        layer = f"encoder.layers.{number}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _both(f"{layer}self_attn.{name}", (width, width))
        yield from _both(f"{layer}layer_norm1", (width,))
        yield from _both(f"{layer}mlp.fc1", (wide, width))
        yield from _both(f"{layer}mlp.fc2", (width, wide))
        yield from _both(f"{layer}layer_norm2", (width,))
    yield from _both("post_layernorm", (width,))


def _projectors(dims: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    clip, text, channels = dims.vision.hidden, dims.text.hidden, dims.aux.channels
    yield from _both("mm_projector.0", (text, clip))
    yield from _both("mm_projector.2", (text, text))
    for name, width in (("query", clip), ("aux", channels), ("val", channels)):
        yield from _both(f"vlm_uni_{name}_projector.0", (width,))
        yield from _both(f"vlm_uni_{name}_projector.1", (clip, width))


def _convnext(aux: AuxDims) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _both("vision_stem.0", (aux.widths[0], 3, 4, 4))
    yield from _both("vision_stem.1", (aux.widths[0],))
    for number, (width, depth) in enumerate(zip(aux.widths, aux.depths, strict=True)):
        stage = f"vision_stages.{number}."
        if number:
            before = aux.widths[number - 1]
            yield from _both(f"{stage}downsample.0", (before,))
            yield from _both(f"{stage}downsample.1", (width, before, 2, 2))
        for block in range(depth):
            place = f"{stage}blocks.{block}."
            yield f"{place}gamma", (width,)
            yield from _both(f"{place}conv_dw", (width, 1, 7, 7))
            yield from _both(f"{place}norm", (width,))
            yield from _both(f"{place}mlp.fc1", (4 * width, width))
            yield from _both(f"{place}mlp.fc2", (width, 4 * width))


def _both(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def in_shards(shapes: Shapes, shard_bytes: float) -> list[list[str]]:
    """Two bytes a number, filled in order up to a limit, as transformers splits a model."""
    shards: list[list[str]] = [[]]
    used = 0
    for key, shape in shapes.items():
        size = 2 * prod(shape)
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += size
    return shards


def write_official(directory: Path, dims: Model, *, older: bool = False) -> dict[str, Tensor]:
    """A random checkpoint in two shards with an index, and the files beside them; returns it.

    Args:
        directory: is made.
        dims: dimensions.
        older: with the buffers that transformers stored before 4.31.
    """
    directory.mkdir(parents=True)
    torch.manual_seed(7)
    shapes = official_shapes(dims)
    tensors = {
        key: torch.randn(shape).mul(0.05).bfloat16() for key, shape in shapes.items() if key != HEAD
    }
    tensors[HEAD] = tensors[EMBEDDING].clone()
    total = sum(2 * prod(shape) for shape in shapes.values())
    first, *others = in_shards(shapes, 0.7 * total)
    shards = [first, [key for keys in others for key in keys]]
    stored = {number: {key: tensors[key] for key in keys} for number, keys in enumerate(shards, 1)}
    if older:
        stored[2][f"{CLIP}embeddings.position_ids"] = torch.arange(dims.vision.grid**2 + 1)[None]
        stored[1]["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    for number, part in stored.items():
        save_file(part, directory / _shard(number), metadata={"format": "pt"})
    weight_map = {key: _shard(number) for number, part in stored.items() for key in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"architectures": ["MiniGeminiGemmaForCausalLM"]}')
    (directory / "trainer_state.json").write_text("{}")
    (directory / "training_args.bin").write_bytes(b"cbuiltins\nexit\n(tR.")  # whoever unpickles it
    return tensors


def _shard(number: int) -> str:
    return f"model-{number:05d}-of-00002.safetensors"
