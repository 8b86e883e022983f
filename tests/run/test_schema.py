"""Plain mappings become frozen configuration, or one line says what to write instead."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.schema import build, did_you_mean, plain


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    size: int
    kind: Literal["small", "large"] = "small"
    note: str | None = None
    options: dict[str, str | int | bool | None] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_a_full_mapping_becomes_nested_frozen_values():
    built = build(Outer, {"size": 2, "inner": {"rate": 1, "names": ["a"]}, "options": {"x": True}})
    assert built == Outer(size=2, inner=Inner(1.0, ("a",)), options={"x": True})
    assert type(built.inner.rate) is float


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"size": 1, "sise": 2}, "unknown key sise; did you mean 'size'?"),
        ({"size": 1, "inner": {"rat": 2}}, "unknown key inner.rat; did you mean 'rate'?"),
        ({}, "size is not set: write size=VALUE"),
        ({"size": "2"}, "size must be an integer, not '2' (str)"),
        ({"size": True}, "size must be an integer, not True (bool)"),
        ({"size": 2.0}, "size must be an integer, not 2.0 (float)"),
        ({"size": 1, "kind": "larg"}, "kind must be one of small, large, not 'larg' (str); did you"),
        ({"size": 1, "note": 3}, "note must be text, not 3 (int)"),
        ({"size": 1, "inner": 3}, "inner must be a mapping, not 3 (int)"),
        ({"size": 1, "inner": {"names": "a"}}, "inner.names must be a list, not 'a' (str)"),
        ({"size": 1, "inner": {"names": [1]}}, "inner.names[0] must be text"),
        ({"size": 1, "options": {"x": [1]}}, "options.x must be text or an integer or true or false"),
        ("text", "the configuration must be a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_key_and_the_remedy(raw, message):
    with pytest.raises(ConfigError) as error:
        build(Outer, raw)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_far_word_gets_the_list_of_known_ones():
    assert did_you_mean("zzz", ["lr", "steps"]) == "; known here: lr, steps"


inner = st.builds(Inner, st.floats(allow_nan=False), st.lists(st.text()).map(tuple))
outer = st.builds(
    Outer,
    st.integers(),
    st.sampled_from(["small", "large"]),
    st.none() | st.text(),
    st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.booleans()),
    inner,
)


@given(outer)
def test_json_and_back_is_the_same_value(value):
    assert build(Outer, json.loads(json.dumps(plain(value)))) == value


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(st.dictionaries(st.sampled_from(["size", "kind", "note", "options", "inner", "x"]), junk))
def test_any_mapping_is_built_or_refused_but_never_crashes(raw):
    try:
        assert isinstance(build(Outer, raw), Outer)
    except ConfigError as error:
        assert str(error)
