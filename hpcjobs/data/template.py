"""The Gemma conversation template: a sample as token ids, with loss on the answers alone."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from hpcjobs.data.llava_json import PLACEHOLDER, Sample, Turn
from hpcjobs.run.errors import InputError

IMAGE_TOKEN_INDEX = -200
IGNORE_INDEX = -100
SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>")


class TemplateMismatchError(InputError):
    """The text does not tokenize the same in pieces and whole, so the mask would be wrong."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and labels of one sample, of equal length."""

    input_ids: tuple[int, ...]
    """``IMAGE_TOKEN_INDEX`` at each of a picture's positions."""
    labels: tuple[int, ...]
    """``IGNORE_INDEX`` where nothing is learnt; unshifted."""
    truncated: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the prompt that is learnt as a whole or not at all."""

    text: str
    learnt: bool


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a ``tokenizer.json``.

    Raises:
        InputError: it cannot be read, or lacks one of Gemma's special tokens.
    """
    if not path.is_file():
        raise InputError(f"tokenizer {path} does not exist: write model.tokenizer=FILE")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"tokenizer {path} cannot be read: {error}") from error
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise InputError(f"tokenizer {path} lacks {', '.join(missing)}, which the template needs")
    return tokenizer


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that fills batches; ``load_tokenizer`` has checked that there is one."""
    return int(tokenizer.token_to_id("<pad>") or 0)


def pieces(sample: Sample) -> list[Piece]:
    r"""Lays a conversation out in MGM's Gemma template, the picture first in its turn.

    ``<start_of_turn>user\\n<image>\\n{q}<end_of_turn>\\n<start_of_turn>model\\n{a}<end_of_turn>\\n<eos>``;
    the answer with its ``<end_of_turn>\\n<eos>`` is learnt.

    Raises:
        InputError: the turns do not alternate, or picture and placeholders do not match.
    """
    _check_turns(sample)
    laid: list[Piece] = [Piece("<bos>", learnt=False)]
    for turn in sample.turns:
        if turn.speaker == "human":
            text = (
                f"<start_of_turn>user\n{_picture_first(turn)}<end_of_turn>\n<start_of_turn>model\n"
            )
            laid.append(Piece(text, learnt=False))
        else:
            laid.append(Piece(f"{turn.text}<end_of_turn>\n<eos>", learnt=True))
    return laid


def encode(sample: Sample, tokenizer: Tokenizer, picture_tokens: int, max_length: int) -> Encoded:
    """Turns a sample into ids and labels.

    Args:
        sample: the conversation.
        tokenizer: one with Gemma's special tokens.
        picture_tokens: positions that a picture takes.
        max_length: longer samples are cut at the end.

    Raises:
        InputError: the sample does not fit the template, or nothing to learn is left of it.
        TemplateMismatchError: the mask cannot be drawn exactly.
    """
    ids: list[int] = []
    labels: list[int] = []
    laid = pieces(sample)
    for piece in laid:
        piece_ids = _with_picture(piece.text, tokenizer, picture_tokens)
        ids += piece_ids
        labels += piece_ids if piece.learnt else [IGNORE_INDEX] * len(piece_ids)
    whole = _with_picture("".join(piece.text for piece in laid), tokenizer, picture_tokens)
    if whole != ids:
        raise TemplateMismatchError("its text tokenizes differently in pieces and as a whole")
    ids, labels = ids[:max_length], labels[:max_length]
    if all(label == IGNORE_INDEX for label in labels[1:]):
        raise InputError(f"no answer is left within model.max_length={max_length}")
    if ids.count(IMAGE_TOKEN_INDEX) % picture_tokens:
        raise InputError(f"its picture does not fit into model.max_length={max_length}")
    return Encoded(tuple(ids), tuple(labels), len(whole) > max_length)


def _check_turns(sample: Sample) -> None:
    speakers = [turn.speaker for turn in sample.turns]
    if speakers != ["human", "gpt"] * (len(speakers) // 2) or not speakers:
        raise InputError(f"its turns are {', '.join(speakers)}: human and gpt must alternate")
    placeholders = sum(turn.text.count(PLACEHOLDER) for turn in sample.turns)
    pictures = int(sample.picture is not None)
    if placeholders != pictures:
        raise InputError(f"it has {placeholders} {PLACEHOLDER} and {pictures} pictures")
    if any(PLACEHOLDER in turn.text for turn in sample.turns if turn.speaker == "gpt"):
        raise InputError(f"an answer holds {PLACEHOLDER}")


def _picture_first(turn: Turn) -> str:
    if PLACEHOLDER not in turn.text:
        return turn.text
    return f"{PLACEHOLDER}\n{turn.text.replace(PLACEHOLDER, '').strip()}"


def _with_picture(text: str, tokenizer: Tokenizer, picture_tokens: int) -> list[int]:
    before, placeholder, after = text.partition(PLACEHOLDER)
    ids = _plain(before, tokenizer)
    if placeholder:
        ids += [IMAGE_TOKEN_INDEX] * picture_tokens + _plain(after, tokenizer)
    return ids


def _plain(text: str, tokenizer: Tokenizer) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids) if text else []
