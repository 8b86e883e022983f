"""MGM's counts are those of the model that is trained, part for part."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from hpcjobs.run.model_config import Model
from hpcjobs.run.schema import build
from hpcjobs.train.mgm.counts import count_parts
from planner.models.presets import preset
from planner.models.read import architecture_of


def dims(name):
    raw = OmegaConf.to_container(OmegaConf.load(f"conf/model/{name}.yaml"))
    return raw | {"weights": "random"}


@pytest.mark.parametrize("name", ["mgm_2b", "mgm_tiny"])
def test_the_dimensions_of_conf_count_as_the_module_does(name):
    raw = dims(name)
    content = {"model_type": "mgm"} | {key: raw[key] for key in ("text", "vision", "aux")}
    ours = architecture_of(content).components
    parts = count_parts(build(Model, raw))
    towers = ("language_model", "vision_tower", "vision_tower_aux")
    assert {part: ours[part] for part in towers} == {part: parts[part] for part in towers}
    assert sum(ours.values()) == sum(parts.values())


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ("7b", "llama-2-7b"),
        ("13b", "llama-2-13b"),
        ("8b", "llama-3-8b"),
        ("8x7b", "mixtral-8x7b"),
        ("34b", "yi-34b"),
    ],
)
def test_a_larger_mgm_is_its_language_model_two_towers_and_the_projectors(size, text):
    mgm, inner = architecture_of(f"mgm-{size}"), architecture_of(text)
    width = inner.language_model.hidden
    assert mgm.components["vision_tower"] == 303_507_456
    assert mgm.components["vision_tower_aux"] == 196_227_264
    mining, projector = 6_963_456, 1024 * width + width + width * width + width
    assert mgm.components["projector"] == projector + mining
    assert mgm.parameters == inner.parameters + 499_734_720 + projector + mining
    hd = architecture_of(f"mgm-{size}-hd")
    assert hd.parameters == mgm.parameters
    assert hd.image_tokens == 5 * mgm.image_tokens


@pytest.mark.parametrize(
    ("content", "same"),
    [
        ({"model_type": "mgm_gemma", "text": "gemma-2b", "image_size_aux": 768}, "mgm-2b"),
        (
            {
                "model_type": "mini_gemini",
                "architectures": ["MiniGeminiGemmaForCausalLM"],
                "text": "gemma-2b",
                "image_size_aux": 1536,
                "image_grid": 2,
                "image_global": True,
            },
            "mgm-2b-hd",
        ),
        ({"model_type": "mgm", "text": "llama-2-7b", "image_grid": 1}, "mgm-7b"),
        ({"model_type": "mgm_mixtral", "text": "mixtral-8x7b"}, "mgm-8x7b"),
    ],
)
def test_a_released_config_reads_as_its_preset(content, same):
    text = preset(content.pop("text"))
    released = {**text, **content, "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336"}
    assert replace(architecture_of(released), name=same) == architecture_of(same)
