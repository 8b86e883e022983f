"""docs/models.md lists what is there."""

from pathlib import Path

from planner.models.presets import preset_names
from planner.models.read import known_model_types

PAGE = Path("docs/models.md").read_text("utf-8")


def test_the_page_lists_every_preset():
    assert [name for name in preset_names() if f"`{name}`" not in PAGE] == []


def test_the_page_lists_every_family():
    assert [name for name in known_model_types() if f"`{name}`" not in PAGE] == []
