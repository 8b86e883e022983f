"""A model is a preset, a path or content; mistakes end in one line."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meta_models import CONFIG_MAPPING

from planner.errors import PlannerError
from planner.estimate import estimate
from planner.models.presets import preset, preset_names
from planner.models.read import architecture_of, assumptions_of, known_model_types
from planner.read_workload import read_workload

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}

PUBLISHED = {
    "gemma-2b": 2_506_172_416,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-4b": 4_300_079_472,
    "llama-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-405b": 405_853_388_800,
    "tiny-llama-1.1b": 1_100_048_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen-1.8b": 1_836_828_672,
    "qwen-7b": 7_721_324_544,
    "qwen-14b": 14_167_290_880,
    "qwen-72b": 72_287_920_128,
    "qwen-vl": 9_656_935_168,
    "qwen2-7b": 7_615_616_512,
    "qwen2-vl-2b": 2_208_985_600,
    "qwen2-vl-7b": 8_291_375_616,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen3-30b-a3b": 30_532_122_624,
    "chatglm3-6b": 6_243_584_000,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
    "internlm2-7b": 7_737_708_544,
    "internvl2-8b": 8_075_365_376,
    "minicpm-llama3-v-2.5": 8_537_092_336,
    "minicpm-v-2.6": 8_099_175_152,
    "falcon-40b": 41_303_293_952,
    "phi-1.5": 1_418_270_720,
    "bloom-7b1": 7_069_016_064,
    "gpt2": 124_439_808,
    "opt-6.7b": 6_658_473_984,
    "llava-1.5-7b": 7_063_427_072,
    "llava-next-mistral-7b": 7_566_747_648,
    "blip2-opt-2.7b": 3_744_679_936,
    "paligemma-3b-224": 2_923_466_480,
    "mgm-2b": 3_019_166_144,
    "llm-foundry-mpt-125m": 125_311_488,
    "llm-foundry-mpt-7b": 6_658_859_008,
    "llm-foundry-mpt-13b": 12_853_954_560,
    "llm-foundry-mpt-70b": 64_862_437_376,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items(), ids=PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name, count):
    assert architecture_of(name).parameters == count


def test_llm_foundrys_table_grows_by_its_learned_positions():
    """The table's models have one position for each token of its longest sequence."""
    content = preset("llm-foundry-mpt-125m") | {"max_seq_len": 32_768}
    assert architecture_of(content).parameters == 148_904_448


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole(name):
    architecture = architecture_of(name)
    tower = architecture.language_model
    assert architecture.name == name
    assert architecture.exact
    assert sum(architecture.components.values()) == architecture.parameters
    assert tower.heads % tower.kv_heads == 0
    assert architecture.max_positions > 1 or tower.family == "bloom"
    if architecture.towers:
        assert architecture.image_tokens > 0
        assert architecture.patches_per_token >= 1
        assert all(t.tokens for t in architecture.towers)


@pytest.mark.parametrize(
    ("name", "tokens", "positions", "per_token"),
    [
        ("llava-1.5-7b", 576, 577, 577 / 576),
        ("qwen2-vl-7b", 1280, 5120, 4),
        ("qwen2.5-vl-7b", 1280, 5120, 4),
        ("gemma-3-4b", 256, 4096, 16),
        ("paligemma-3b-448", 1024, 1024, 1),
        ("internvl2-8b", 256, 1025, 1025 / 256),
        ("blip2-opt-2.7b", 32, 257, 257 / 32),
        ("minicpm-llama3-v-2.5", 96, 1024, 1024 / 96),
        ("qwen-vl", 256, 1024, 4),
        ("mgm-2b", 576, 577, 577 / 576),
        ("mgm-2b-hd", 2880, 2885, 2885 / 2880),
    ],
)
def test_one_picture_takes_the_published_number_of_tokens(name, tokens, positions, per_token):
    architecture = architecture_of(name)
    assert architecture.image_tokens == tokens
    assert architecture.towers[0].tokens == positions
    assert architecture.patches_per_token == per_token


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("mistral-7b", 4096),
        ("mistral-7b-v0.2", None),
        ("qwen2-7b", None),
        ("gemma-2-9b", None),
        ("gemma-3-1b", 512),
    ],
)
def test_a_window_counts_where_most_layers_have_it(name, tokens):
    assert architecture_of(name).language_model.window == tokens


def test_windowed_vision_is_known_by_its_window():
    assert architecture_of("qwen2.5-vl-7b").towers[0].window == 64
    assert architecture_of("qwen2-vl-7b").towers[0].window is None


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("gemma-2b", "gelu_pytorch_tanh"),
        ("gemma-2-2b", "gelu_pytorch_tanh"),
        ("gpt2", "gelu_new"),
        ("opt-125m", "relu"),
        ("qwen-7b", "silu"),
        ("falcon-7b", "gelu"),
        ("phi-2", "gelu_new"),
    ],
)
def test_activations_are_those_of_the_family(name, activation):
    assert architecture_of(name).language_model.activation == activation


def test_layers_of_a_mixture_are_grouped_by_kind():
    groups = architecture_of("deepseek-v2-lite").language_model.groups
    assert [group.count for group in groups] == [1, 26]
    routed = [linear for linear in groups[1].linears if linear.copies > 1]
    assert {(x.copies, x.active) for x in routed} == {(64, 6.0)}


def test_a_path_a_directory_and_content_give_the_same_counts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(preset("gemma-2b")))
    expected = architecture_of("Gemma-2B").parameters
    assert architecture_of(str(tmp_path)).parameters == expected
    assert architecture_of(str(tmp_path / "config.json")).parameters == expected
    assert architecture_of(preset("gemma-2b")).parameters == expected


def test_a_file_that_changes_is_read_again(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA))
    first = architecture_of(str(file)).parameters
    file.write_text(json.dumps(LLAMA | {"num_hidden_layers": 2}))
    assert architecture_of(str(file)).parameters < first


def test_unread_keys_of_a_published_config_do_no_harm():
    content = preset("llama-2-7b") | {"torch_dtype": "bfloat16", "rope_scaling": None}
    assert architecture_of(content).parameters == architecture_of("llama-2-7b").parameters


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "model_type is missing"),
        ({"model_type": 3}, "model_type is missing"),
        ({"model_type": "qwen22"}, r"'qwen22' is not known \(near it: qwen.*count_model"),
        (LLAMA | {"hidden_size": -64}, r"hidden_size must be in \[1, 10000000\], not -64"),
        (LLAMA | {"hidden_size": 0}, "hidden_size must be in"),
        (LLAMA | {"hidden_size": 64.5}, "hidden_size must be a whole number, not 64.5"),
        (LLAMA | {"hidden_size": "64"}, "hidden_size must be a whole number, not '64'"),
        (LLAMA | {"hidden_size": True}, "hidden_size must be a whole number"),
        (LLAMA | {"hidden_size": 10**12}, "hidden_size must be in"),
        (LLAMA | {"hidden_size": None}, "hidden_size is missing in this llama config"),
        (LLAMA | {"num_hidden_layers": 10**6}, "num_hidden_layers must be in"),
        (LLAMA | {"hidden_size": 63}, r"hidden_size \(63\) must be a multiple of num_attention"),
        (
            LLAMA | {"num_key_value_heads": 3},
            r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)",
        ),
        (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        (LLAMA | {"hidden_act": 5}, "hidden_act must be text"),
        ({"model_type": "qwen", "hidden_size": 64}, "is missing in this qwen config"),
        ({"model_type": "llava", "text_config": 5}, "text_config must be an object"),
        (
            {"model_type": "llava", "text_config": {"model_type": "gemma9"}},
            r"text_config.model_type 'gemma9' is not known",
        ),
        (
            {"model_type": "llava", "vision_config": {"model_type": "clop"}},
            r"vision_config.model_type 'clop' is not known",
        ),
        (
            {"model_type": "llava", "vision_config": {"image_size": 8}},
            r"vision_config.image_size is smaller than a patch \(32 pixels\)",
        ),
        ({"model_type": "mgm"}, "text is missing: an mgm config has text, vision, aux"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, r"num_experts_per_tok \(9\)"),
        ({"model_type": "minicpmv", "version": "1.0"}, "version '1.0' of MiniCPM-V"),
        ({"model_type": "llava_llama", "mm_vision_tower": "x/y"}, "mm_vision_tower 'x/y'"),
        ({"model_type": "llava_llama", "llm_cfg": {}}, "llm_cfg: VILA and NVILA keep sizes"),
        ({"model_type": "bert"}, "'bert' is no language model"),
        ({"model_type": "siglip_vision_model"}, "is no language model"),
    ],
)
def test_an_impossible_config_ends_in_one_line(content, words):
    with pytest.raises(PlannerError, match=words) as caught:
        architecture_of(content)
    assert "\n" not in str(caught.value)


def test_a_wrong_name_or_file_ends_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    for name, words in {
        "gemma-2bb": "did you mean gemma-2b",
        "zzzzzzzz": "docs/models.md lists the presets",
        str(tmp_path / "none.json"): "neither a preset nor a path",
        str(tmp_path): "no valid JSON",
        str(tmp_path / "list.json"): "must be a JSON object, not list",
        str(tmp_path / "binary.json"): "no text file",
        str(tmp_path / "empty"): "has no config.json",
        "": "model is empty",
        "a\0b": "neither a preset nor a path",
        "x" * 5000: "neither",
    }.items():
        with pytest.raises(PlannerError, match=words) as caught:
            architecture_of(name)
        assert "\n" not in str(caught.value)


def test_content_that_is_no_json_ends_in_one_line():
    with pytest.raises(PlannerError, match="is no JSON"):
        architecture_of({"model_type": object()})
    with pytest.raises(PlannerError, match="must be a name, a path or an object"):
        architecture_of(5)


LLAVA_QWEN_7B = {
    "model_type": "llava_qwen",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
}


@pytest.mark.parametrize(
    "tower", ["google/siglip-so400m-patch14-384", "/data/siglip_so400m_patch14_384/"]
)
def test_llava_with_siglip_is_as_large_as_published_and_leaves_one_layer_out(tower):
    """lmms-lab/llava-onevision-qwen2-7b-ov has 8,030,348,832 parameters on its page."""
    architecture = architecture_of(LLAVA_QWEN_7B | {"mm_vision_tower": tower})
    assert architecture.parameters == 8_030_348_832
    assert architecture.image_tokens == 729


@pytest.mark.parametrize(
    "tower", ["openai/clip-vit-large-patch14-336", "/ckpt/openai_clip-vit-large-patch14-336"]
)
def test_clip_is_known_by_the_end_of_its_path(tower):
    content = LLAVA_QWEN_7B | {"mm_vision_tower": tower}
    assert architecture_of(content).image_tokens == 576


def test_sizes_that_a_config_leaves_out_are_named_with_the_family_that_gave_them():
    (note,) = assumptions_of(LLAMA | {"max_position_embeddings": 4096})
    assert note.endswith("taken from the defaults of llama")
    assert "num_hidden_layers" in note
    assert "hidden_size" not in note
    (first, *_) = assumptions_of({"model_type": "llava"})
    assert "text_config.hidden_size" in first
    assert assumptions_of("llava-1.5-7b") == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model_type": "llama", "hiden_size": 2048},
            "unknown field hiden_size; did you mean 'hidden_size'?",
        ),
        (
            {"model_type": "llava", "text_config": {"num_hiden_layers": 4}},
            "unknown field text_config.num_hiden_layers; did you mean 'num_hidden",
        ),
    ],
)
def test_a_misspelt_size_inline_is_refused_with_the_right_spelling(content, message):
    with pytest.raises(PlannerError, match=message):
        architecture_of(content)


@pytest.mark.parametrize("model_type", sorted({*known_model_types()} & {*CONFIG_MAPPING}))
def test_no_other_key_of_a_real_config_is_taken_for_a_misspelt_size(model_type):
    for field in dataclasses.fields(CONFIG_MAPPING[model_type]):
        try:
            architecture_of({"model_type": model_type, field.name: None})
        except PlannerError as error:
            assert "did you mean" not in str(error)


def test_a_count_that_failed_leaves_the_model_uncounted(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "phi3_v"}')
    (tmp_path / "planner_count.json").write_text("")
    with pytest.raises(PlannerError, match=r"'phi3_v' is not known.*count_model"):
        architecture_of(str(tmp_path))


def counted(model_type, linears, hidden=64):
    """What the counting program writes, for a model of two alike layers."""
    layer = [
        {"name": name, "inputs": inputs, "outputs": outputs, "copies": copies}
        for name, inputs, outputs, copies in linears
    ]
    inner = 2 * sum(inputs * outputs * copies for _, inputs, outputs, copies in linears)
    tower = {
        "name": "language_model",
        "kind": "decoder",
        "family": model_type,
        "hidden": hidden,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "intermediate": 128,
        "gated": True,
        "activation": "silu",
        "norm": "rms",
        "norms_per_layer": 2,
        "qk_norm": False,
        "embeddings": 640,
        "final": 64,
        "groups": [{"count": 2, "linears": layer, "other": 128}],
    }
    return {
        "version": 1,
        "model_type": model_type,
        "vocab": 10,
        "tied": True,
        "head_bias": False,
        "parameters": inner + 2 * 128 + 704,
        "max_positions": 128,
        "towers": [],
        "language_model": tower,
        "projector": {"linears": [], "other": 0},
    }


ATTENTION = [(f"{name}_proj", 64, 64, 1) for name in "qkvo"]


@pytest.mark.parametrize(
    ("linears", "words"),
    [
        ([("in_proj", 64, 128, 1), ("out_proj", 128, 64, 1)], "layers without attention"),
        ([("q", 64, 64, 2), ("o", 64, 64, 2), ("wi", 64, 128, 1)], "is an encoder-decoder"),
    ],
)
def test_a_counted_model_whose_layers_are_no_decoders_is_refused(tmp_path, linears, words):
    (tmp_path / "config.json").write_text('{"model_type": "new"}')
    (tmp_path / "planner_count.json").write_text(json.dumps(counted("new", linears)))
    with pytest.raises(PlannerError, match=words):
        architecture_of(str(tmp_path))


def test_counted_experts_that_are_stored_the_other_way_round_are_turned(tmp_path):
    experts = [("gate_up_proj", 256, 64, 4), ("down_proj", 64, 128, 4)]
    (tmp_path / "config.json").write_text('{"model_type": "new"}')
    answer = counted("new", ATTENTION + experts)
    (tmp_path / "planner_count.json").write_text(json.dumps(answer))
    architecture = architecture_of(str(tmp_path))
    (group,) = architecture.language_model.groups
    assert [(x.inputs, x.outputs) for x in group.linears[-2:]] == [(64, 256), (128, 64)]
    assert architecture.parameters == answer["parameters"]


def test_a_counted_tower_is_as_wide_as_its_matrices(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "new"}')
    answer = counted("new", ATTENTION)
    tower = answer["language_model"] | {"name": "vision", "kind": "encoder", "hidden": 1408}
    answer |= {"towers": [tower], "parameters": 2 * answer["parameters"]}
    (tmp_path / "planner_count.json").write_text(json.dumps(answer))
    (found,) = architecture_of(str(tmp_path)).towers
    assert (found.hidden, found.heads * found.head_dim) == (64, 64)


def test_a_counted_model_with_towers_asks_for_the_tokens_of_an_image(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "new"}')
    answer = counted("new", ATTENTION)
    tower = answer["language_model"] | {"name": "vision", "kind": "encoder"}
    answer |= {"towers": [tower], "parameters": 2 * answer["parameters"]}
    (tmp_path / "planner_count.json").write_text(json.dumps(answer))
    asked = {"model": str(tmp_path), "method": "lora", "seq_len": 128}
    with pytest.raises(PlannerError, match="image_tokens is needed"):
        estimate(read_workload(asked))
    for more in ({"images_per_sample": 0}, {"image_tokens": 16}):
        assert estimate(read_workload(asked | more)).memory.allocated_bytes > 0


def test_a_name_without_end_is_cut_in_the_message():
    with pytest.raises(PlannerError) as caught:
        architecture_of("x" * 100_000)
    assert len(str(caught.value)) < 400


KEYS = sorted({key for name in preset_names() for key in preset(name)})
VALUES = st.one_of(
    st.integers(-2, 300),
    st.sampled_from([None, True, 0.5, "text", [], {}, [1, 2], 10**9, {"model_type": "clip"}]),
)


@given(st.sampled_from(known_model_types()), st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_random_content_has_positive_parameters_or_ends_in_one_line(model_type, content):
    _positive_or_refused({**content, "model_type": model_type})


@given(st.sampled_from(preset_names()), st.sampled_from(KEYS), VALUES, st.data())
def test_a_preset_with_one_field_changed_counts_or_ends_in_one_line(name, key, value, data):
    content = dict(preset(name))
    sections = [k for k, v in content.items() if isinstance(v, dict)]
    if sections and data.draw(st.booleans()):
        section = data.draw(st.sampled_from(sections))
        inner = data.draw(st.sampled_from(sorted(content[section]) or [key]))
        content[section] = {**content[section], inner: value}
    else:
        content[key] = value
    _positive_or_refused(content)


def _positive_or_refused(content):
    try:
        architecture = architecture_of(content)
    except PlannerError as error:
        assert "\n" not in str(error)
        return
    assert architecture.parameters > 0
    assert all(count >= 0 for count in architecture.components.values())
