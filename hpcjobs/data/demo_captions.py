"""The hand-written half of the demo data: scenes, questions, answers and words."""

import json
from dataclasses import dataclass
from importlib import resources

from hpcjobs.run.schema import build

KINDS = ("describe", "what", "colour", "kind")
"""The questions that every scene answers, each in its own words."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One motif, and the answers that every view of it has."""

    name: str
    files: tuple[str, ...]
    """Views of it, as paths inside the packages that bring them."""
    describe: str
    what: str
    colour: str
    kind: str
    flip: bool = True
    """Whether its mirror image is as good: not where letters can be read."""

    def answer(self, kind: str) -> str:
        """The answer to a question of one of the ``KINDS``."""
        return str(getattr(self, kind))


@dataclass(frozen=True, slots=True)
class Captions:
    """Everything that the demo asks and answers."""

    questions: dict[str, str]
    """One for each of the ``KINDS``; none of them hints at a scene."""
    word_questions: dict[str, str]
    """For pictures with a word: ``word``, ``letters`` (their colour), ``behind``."""
    words: tuple[str, ...]
    letter_colours: dict[str, tuple[int, ...]]
    """Red, green and blue from 0 to 255."""
    text_only: tuple[tuple[str, ...], ...]
    """Questions and answers without a picture."""
    scenes: tuple[Scene, ...]


def read_captions() -> Captions:
    """Reads the captions that the package carries."""
    file = resources.files("hpcjobs.data").joinpath("demo_captions.json")
    return build(Captions, json.loads(file.read_text(encoding="utf-8")), "demo_captions.json")
