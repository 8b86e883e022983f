"""The prompt's text, its tokens, and exactly which of them are learnt."""

import pytest
from data.conversations import conversation
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from hpcjobs.data.llava_json import Sample, Turn
from hpcjobs.data.template import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    SPECIAL_TOKENS,
    Encoded,
    TemplateMismatchError,
    encode,
    load_tokenizer,
    pieces,
)
from hpcjobs.run.errors import InputError

PICTURE_TOKENS = 4


def tokens(encoded: Encoded, tokenizer: Tokenizer) -> list[str]:
    return [
        "<image>" if i == IMAGE_TOKEN_INDEX else tokenizer.id_to_token(i) for i in encoded.input_ids
    ]


def marked(encoded: Encoded, tokenizer: Tokenizer) -> list[str]:
    """The tokens; those that are learnt carry a star."""
    return [
        token if label == IGNORE_INDEX else f"*{token}"
        for token, label in zip(tokens(encoded, tokenizer), encoded.labels, strict=True)
    ]


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (
            conversation("Hi?", "Ho."),
            "<bos><start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHo.<end_of_turn>\n<eos>",
        ),
        (
            conversation("<image>\nWhat?", "A cat.", picture="a.png"),
            "<bos><start_of_turn>user\n<image>\nWhat?<end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n<eos>",
        ),
        (
            conversation("What is \n <image> ", "A cat.", picture="a.png"),
            "<bos><start_of_turn>user\n<image>\nWhat is<end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n<eos>",
        ),
        (
            conversation("<image>", "A cat.", picture="a.png"),
            "<bos><start_of_turn>user\n<image><end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n<eos>",
        ),
        (
            conversation("<image>\nWhat?", "A cat.", "Sure?", "Yes.", picture="a.png"),
            (
                "<bos><start_of_turn>user\n<image>\nWhat?<end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n<eos>"
                "<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n<eos>"
            ),
        ),
    ],
)
def test_the_prompt_is_gemmas_template_with_the_picture_first_in_its_turn(sample, text):
    assert "".join(piece.text for piece in pieces(sample)) == text


def test_only_the_answer_and_its_end_are_learnt(gemma_like):
    sample = conversation("<image>\nQ the", "the A", picture="a.png")
    encoded = encode(sample, gemma_like, PICTURE_TOKENS, 100)
    assert marked(encoded, gemma_like) == [
        "<bos>", "<start_of_turn>", *"user", "\n", "<image>", "<image>", "<image>", "<image>", "\n",
        "Q", "▁", "the", "<end_of_turn>", "\n", "<start_of_turn>", *"model", "\n",
        "*the", "*▁", "*A", "*<end_of_turn>", "*\n", "*<eos>",
    ]  # fmt: skip
    assert encoded.truncated is False


def test_every_answer_of_several_turns_is_learnt_and_no_question(gemma_like):
    sample = conversation("Q", "A", "<image>\nR", "B", picture="a.png")
    assert marked(encode(sample, gemma_like, 2, 100), gemma_like) == [
        "<bos>", "<start_of_turn>", *"user", "\n", "Q", "<end_of_turn>", "\n",
        "<start_of_turn>", *"model", "\n", "*A", "*<end_of_turn>", "*\n", "*<eos>",
        "<start_of_turn>", *"user", "\n", "<image>", "<image>", "\n", "R", "<end_of_turn>", "\n",
        "<start_of_turn>", *"model", "\n", "*B", "*<end_of_turn>", "*\n", "*<eos>",
    ]  # fmt: skip


def test_bytes_of_characters_outside_the_vocabulary_are_learnt_too(gemma_like):
    encoded = encode(conversation("Q", "é"), gemma_like, PICTURE_TOKENS, 100)
    assert marked(encoded, gemma_like)[-5:] == [
        "*<0xC3>",
        "*<0xA9>",
        "*<end_of_turn>",
        "*\n",
        "*<eos>",
    ]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (conversation("Q"), "turns are human: human and gpt must alternate"),
        (conversation("Q", "A", "R"), "turns are human, gpt, human"),
        (Sample(0, "s", None, ()), "turns are none"),
        (Sample(0, "s", None, (Turn("gpt", "A"), Turn("human", "Q"))), "turns are gpt, human"),
        (conversation("Q", "A", picture="a.png"), "0 <image> and 1 pictures"),
        (conversation("<image>Q", "A"), "1 <image> and 0 pictures"),
        (conversation("<image><image>Q", "A", picture="a.png"), "2 <image> and 1 pictures"),
        (conversation("Q", "<image>", picture="a.png"), "answer in turn 2 holds <image>"),
        (conversation("Q", " \n"), "turn 2 is empty"),
        (conversation("", "A"), "turn 1 is empty"),
        *[(conversation("Q", f"A{t}B"), f"turn 2 holds {t}") for t in SPECIAL_TOKENS],
    ],
)
def test_a_sample_that_does_not_fit_the_template_is_refused(gemma_like, sample, reason):
    with pytest.raises(InputError) as refused:
        encode(sample, gemma_like, PICTURE_TOKENS, 100)
    assert reason in str(refused.value)


def test_an_answer_whose_start_merges_with_the_template_is_reported_not_blanked(gemma_like):
    with pytest.raises(TemplateMismatchError, match="line break"):
        encode(conversation("Q", "\nA"), gemma_like, PICTURE_TOKENS, 100)
    encode(conversation("\nQ\n", "A\n\n\nB\n"), gemma_like, PICTURE_TOKENS, 100)  # no seam there


PROMPT_TOKENS = len("user\n") + len("Q") + len("model\n") + 5  # bos, three of turns, one line break


@pytest.mark.parametrize(
    ("extra", "learnt", "truncated"), [(1, 1, True), (3, 3, True), (4, 4, False)]
)
def test_a_long_sample_is_cut_at_its_end(gemma_like, extra, learnt, truncated):
    encoded = encode(conversation("Q", "A"), gemma_like, PICTURE_TOKENS, PROMPT_TOKENS + extra)
    assert len(encoded.input_ids) == len(encoded.labels) == PROMPT_TOKENS + extra
    assert sum(label != IGNORE_INDEX for label in encoded.labels) == learnt
    assert encoded.truncated is truncated


def test_a_sample_that_loses_all_its_answers_to_the_limit_is_refused(gemma_like):
    with pytest.raises(
        InputError, match=f"no answer is left within model.max_length={PROMPT_TOKENS}"
    ):
        encode(conversation("Q", "A"), gemma_like, PICTURE_TOKENS, PROMPT_TOKENS)


@pytest.mark.parametrize("kept_of_picture", [0, 1, PICTURE_TOKENS - 1])
def test_a_sample_that_loses_its_picture_to_the_limit_is_refused(gemma_like, kept_of_picture):
    first_round = PROMPT_TOKENS + 4
    limit = first_round + len("user\n") + 1 + kept_of_picture
    sample = conversation("Q", "A", "<image>R", "B", picture="a.png")
    with pytest.raises(InputError, match="its picture does not fit"):
        encode(sample, gemma_like, PICTURE_TOKENS, limit)


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\tthe.,?"),
    min_size=1,
    max_size=20,
).filter(lambda text: text.strip() and "<" not in text)


@settings(deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    with_picture=st.booleans(),
    kind=st.sampled_from(["byte_level", "gemma_like"]),
)
def test_any_conversation_is_encoded_exactly_or_reported(request, texts, with_picture, kind):
    tokenizer = request.getfixturevalue(kind)
    turns = [text for answer in texts for text in ("Q?", answer)]
    turns[0] = "<image>\nQ?" if with_picture else "Q?"
    sample = conversation(*turns, picture="a.png" if with_picture else None)
    try:
        encoded = encode(sample, tokenizer, PICTURE_TOKENS, 10_000)
    except TemplateMismatchError:
        assert any(text[0].isspace() for text in texts)
        return
    learnt = [label for label in encoded.labels if label != IGNORE_INDEX]
    expected = [
        number
        for text in texts
        for number in tokenizer.encode(f"{text}<end_of_turn>\n<eos>", add_special_tokens=False).ids
    ]
    assert learnt == expected
    assert encoded.input_ids.count(IMAGE_TOKEN_INDEX) == PICTURE_TOKENS * with_picture
    assert encoded.input_ids[0] == tokenizer.token_to_id("<bos>")
    assert encoded.input_ids.count(tokenizer.token_to_id("<bos>")) == 1
    agree = [
        i == label
        for i, label in zip(encoded.input_ids, encoded.labels, strict=True)
        if label != IGNORE_INDEX
    ]
    assert all(agree)


def test_a_tokenizer_without_the_templates_tokens_is_refused_by_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(BPE())
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    tokenizer.save(str(path))
    with pytest.raises(InputError, match=r"tokenizer\.json lacks <start_of_turn>, <end_of_turn>"):
        load_tokenizer(path)


def test_a_token_that_is_only_in_the_vocabulary_is_refused_since_texts_would_be_split(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(SPECIAL_TOKENS)}, []))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS[1:]))
    tokenizer.save(str(path))
    with pytest.raises(InputError, match=r"lacks <bos>, which"):
        load_tokenizer(path)


@pytest.mark.parametrize(("content", "reason"), [(None, "does not exist"), ("{", "cannot be read")])
def test_a_tokenizer_that_is_missing_or_broken_is_named(tmp_path, content, reason):
    path = tmp_path / "tokenizer.json"
    if content:
        path.write_text(content)
    with pytest.raises(InputError, match=rf"{path} {reason}"):
        load_tokenizer(path)


def test_a_limit_that_the_tokenizer_brings_along_is_switched_off(tmp_path, gemma_like):
    limited = Tokenizer.from_str(gemma_like.to_str())
    limited.enable_truncation(5)
    limited.enable_padding(length=50)
    limited.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    sample = conversation("Q", "A long answer.")
    assert encode(sample, loaded, 4, 100) == encode(sample, gemma_like, 4, 100)
