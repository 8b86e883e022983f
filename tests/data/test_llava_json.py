"""Which files and samples are read, and what is said about the others."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.data.llava_json import Sample, Turn, read_samples
from hpcjobs.run.errors import InputError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
READ_TURNS = (Turn("human", "<image>\nWhat?"), Turn("gpt", "That."))


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("item", "picture", "name"),
    [
        ({"id": "a", "image": "x/a.jpg", "conversations": TURNS}, "x/a.jpg", "a"),
        ({"id": "a", "image": ["x/a.jpg"], "conversations": TURNS}, "x/a.jpg", "a"),
        ({"id": 17, "image": [], "conversations": TURNS}, None, "17"),
        ({"id": "a", "image": None, "conversations": TURNS}, None, "a"),
        ({"conversations": TURNS, "unknown": 1}, None, "0"),
        ({"id": "two\nlines \ud800", "conversations": TURNS}, None, "two lines ?"),
    ],
)
def test_samples_are_read_with_and_without_a_picture(tmp_path, item, picture, name):
    samples, bad = read_samples(write(tmp_path / "train.json", [item]))
    assert (samples, bad) == ([Sample(0, name, picture, READ_TURNS)], [])


def test_the_names_that_other_tools_give_the_speakers_are_understood(tmp_path):
    turns = [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]
    samples, _ = read_samples(write(tmp_path / "train.json", [{"conversations": turns}]))
    assert samples[0].turns == (Turn("human", "Q"), Turn("gpt", "A"))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (5, "must be an object, not int"),
        ({"id": "x"}, "no conversations"),
        ({"conversations": []}, "no conversations"),
        ({"conversations": {"from": "human"}}, "no conversations"),
        ({"conversations": ["hello"]}, "a turn must be"),
        ({"conversations": [{"from": "human"}]}, "a turn must be"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn must be"),
        ({"conversations": [{"from": "system", "value": "x"}]}, "'system', not from human or gpt"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "not from human or gpt"),
        ({"conversations": [{"from": "gpt", "value": "a\ud800"}]}, "no Unicode at character 1"),
        ({"image": ["a.jpg", "b.jpg"], "conversations": TURNS}, "2 pictures; MGM takes one"),
        ({"image": 7, "conversations": TURNS}, "image must be a path, not 7"),
        ({"image": "\udfff.jpg", "conversations": TURNS}, "no Unicode"),
    ],
)
def test_a_malformed_sample_comes_back_apart_and_the_others_are_kept(tmp_path, item, reason):
    good = {"id": "good", "conversations": TURNS}
    samples, bad = read_samples(write(tmp_path / "train.json", [good, item, good]))
    assert [sample.index for sample in samples] == [0, 2]
    assert [sample.index for sample in bad] == [1]
    assert reason in bad[0].reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[\n {\n", "is not JSON: .* in line 3, column 1"),
        ('[{"id": 1},]', "is not JSON: .* in line 1"),
        ("", "is not JSON"),
        ("{}", "must hold a JSON list of samples, not dict"),
        ("[]", "not an empty list"),
        ('"text"', "not str"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_holds_no_list_of_samples_is_refused_with_the_place(tmp_path, content, message):
    path = write(tmp_path / "train.json", content)
    with pytest.raises(InputError, match=message) as refused:
        read_samples(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: No such file"):
        read_samples(tmp_path / "none.json")


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    (tmp_path / "train.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="not UTF-8 text: byte 2"):
        read_samples(tmp_path / "train.json")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(string.printable, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "image", "conversations", "from", "value", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(items=st.lists(JSON_VALUES, min_size=1, max_size=5))
def test_whatever_a_list_holds_each_entry_is_read_or_reported_once(tmp_path_factory, items):
    path = write(tmp_path_factory.mktemp("any") / "train.json", items)
    samples, bad = read_samples(path)
    assert sorted(s.index for s in [*samples, *bad]) == list(range(len(items)))
