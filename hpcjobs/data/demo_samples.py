"""The demo's samples: questions about views of scenes and about words written over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from hpcjobs.data.demo_captions import KINDS, Captions, Scene
from hpcjobs.data.demo_pictures import Sources, view, write_word

Questions = list[tuple[str, str]]
"""What is asked and what is answered, turn by turn."""

# Most ask for the word; colour and ground are the easier questions about the same pictures.
_WORD_KINDS = ("word", "letters", "word", "behind", "word")
_TWO_TURNS = (5, 11)
"""The laps over the scenes in which a second question follows."""


@dataclass(frozen=True, slots=True)
class DemoSample:
    """A conversation and the picture that it is about."""

    turns: Questions
    picture: Image.Image | None
    suffix: str = ""
    """``.jpg`` for photographs, ``.png`` where letters must stay sharp."""


def train_samples(captions: Captions, sources: Sources, seed: int) -> Iterator[DemoSample]:
    """Yields 17 views of each scene, 12 pictures of each word, and the questions without one."""
    chance = Random(f"{seed} train")  # noqa: S311 - to be repeated, not secret
    for lap in range(17):
        yield from _scene_lap(captions, sources, lap, chance, two=lap in _TWO_TURNS)
    for lap in range(12):
        yield from _word_lap(captions, sources, captions.words, lap, chance)
    for question, answer in captions.text_only:
        yield DemoSample([(question, answer)], None)


def heldout_samples(captions: Captions, sources: Sources, seed: int) -> Iterator[DemoSample]:
    """Yields 3 other views of each scene, then 18 other pictures of words.

    The order keeps two samples that lie half of the list apart on different scenes: the
    measurement with exchanged pictures moves them by that much.
    """
    chance = Random(f"{seed} heldout")  # noqa: S311 - to be repeated, not secret
    for lap in range(3):
        yield from _scene_lap(captions, sources, lap, chance, two=False)
    yield from _word_lap(captions, sources, captions.words, 0, chance)
    yield from _word_lap(captions, sources, captions.words[:6], 3, chance)


def _scene_lap(
    captions: Captions, sources: Sources, lap: int, chance: Random, two: bool
) -> Iterator[DemoSample]:
    for position, scene in enumerate(captions.scenes):
        kinds = [KINDS[(lap + position + more) % len(KINDS)] for more in range(1 + two)]
        turns = [(captions.questions[kind], scene.answer(kind)) for kind in kinds]
        yield DemoSample(turns, view(scene, sources, chance), ".jpg")


def _word_lap(
    captions: Captions, sources: Sources, words: Sequence[str], lap: int, chance: Random
) -> Iterator[DemoSample]:
    grounds = [scene for scene in captions.scenes if scene.flip]  # the others hold letters
    colours = list(captions.letter_colours)
    for position, word in enumerate(words):
        kind = _WORD_KINDS[(lap + position) % len(_WORD_KINDS)]
        # Every kind of question meets every colour equally often: none is worth guessing.
        colour = colours[(lap + position // len(_WORD_KINDS)) % len(colours)]
        scene = chance.choice(grounds)
        ground = view(scene, sources, chance)
        lettered = write_word(ground, word, captions.letter_colours[colour], chance)
        turns = [(captions.word_questions[kind], _word_answer(kind, word, colour, scene))]
        yield DemoSample(turns, lettered, ".png")


def _word_answer(kind: str, word: str, colour: str, scene: Scene) -> str:
    if kind == "word":
        return f"The word is {word}."
    return f"The letters are {colour}." if kind == "letters" else scene.what
