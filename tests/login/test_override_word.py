"""Words that messages tell users to type mean what they say."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.login.override_word import override_word

path_text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1)


@given(path_text.map(lambda text: "/" + text))
def test_hydra_reads_back_what_was_written(value):
    word = override_word("run_dir", value)
    parsed = OverridesParser.create().parse_override(word)
    assert parsed.key_or_group == "run_dir"
    assert str(parsed.value()) == value
