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
    """Reads a ``tokenizer.json``; limits and padding that it asks for are switched off.

    Raises:
        InputError: it cannot be read, or lacks one of Gemma's special tokens.
    """
    if not path.is_file():
        raise InputError(f"tokenizer {path} does not exist: write model.tokenizer=FILE")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"tokenizer {path} cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    missing = [token for token in SPECIAL_TOKENS if not _is_one_token(token, tokenizer)]
    if missing:
        raise InputError(
            f"tokenizer {path} lacks {', '.join(missing)}, which the template needs as single "
            f"tokens: use the model's own tokenizer.json"
        )
    return tokenizer


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that fills batches; ``load_tokenizer`` has checked that there is one."""
    return int(tokenizer.token_to_id("<pad>") or 0)


def pieces(sample: Sample) -> list[Piece]:
    r"""Lays a conversation out in MGM's Gemma template, the picture first in its turn.

    ``<start_of_turn>user\\n<image>\\n{q}<end_of_turn>\\n<start_of_turn>model\\n{a}<end_of_turn>\\n<eos>``;
    the answer with its ``<end_of_turn>\\n<eos>`` is learnt.

    Raises:
        InputError: the turns do not alternate, one is empty or holds a token of the template,
            or picture and placeholders do not match.
    """
    _check_turns(sample)
    _check_texts(sample)
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
    # MGM trains on the whole text's tokens and counts its mask off in pieces; where the two
    # differ the mask is off by some tokens, and MGM blanks the sample or learns the wrong ones.
    if _with_picture("".join(piece.text for piece in laid), tokenizer, picture_tokens) != ids:
        raise TemplateMismatchError(
            "it tokenizes differently in pieces and as a whole, as where an answer starts with "
            "a line break that joins the template's: remove it"
        )
    return _cut(ids, labels, max_length)


def _cut(ids: list[int], labels: list[int], max_length: int) -> Encoded:
    kept_ids, kept_labels = ids[:max_length], labels[:max_length]
    # Position 0 is never predicted, so a label there would not count.
    if all(label == IGNORE_INDEX for label in kept_labels[1:]):
        raise InputError(f"no answer is left within model.max_length={max_length}")
    if kept_ids.count(IMAGE_TOKEN_INDEX) != ids.count(IMAGE_TOKEN_INDEX):
        raise InputError(f"its picture does not fit into model.max_length={max_length}")
    return Encoded(tuple(kept_ids), tuple(kept_labels), len(ids) > max_length)


def _check_turns(sample: Sample) -> None:
    speakers = [turn.speaker for turn in sample.turns]
    if speakers != ["human", "gpt"] * (len(speakers) // 2) or not speakers:
        raise InputError(
            f"its turns are {', '.join(speakers) or 'none'}: human and gpt must alternate, the "
            f"last an answer"
        )
    placeholders = sum(turn.text.count(PLACEHOLDER) for turn in sample.turns)
    pictures = int(sample.picture is not None)
    if placeholders != pictures:
        raise InputError(f"it has {placeholders} {PLACEHOLDER} and {pictures} pictures")


def _check_texts(sample: Sample) -> None:
    for number, turn in enumerate(sample.turns, start=1):
        if not turn.text.strip():
            raise InputError(f"its turn {number} is empty")
        if turn.speaker == "gpt" and PLACEHOLDER in turn.text:
            raise InputError(f"its answer in turn {number} holds {PLACEHOLDER}")
        # As text it would become the control token, and end the turn where its writer says.
        for token in SPECIAL_TOKENS:
            if token in turn.text:
                raise InputError(f"its turn {number} holds {token}, a word of the template")


def _picture_first(turn: Turn) -> str:
    if PLACEHOLDER not in turn.text:
        return turn.text
    return f"{PLACEHOLDER}\n{turn.text.replace(PLACEHOLDER, '').strip()}".strip()


def _with_picture(text: str, tokenizer: Tokenizer, picture_tokens: int) -> list[int]:
    before, placeholder, after = text.partition(PLACEHOLDER)
    ids = _plain(before, tokenizer)
    if placeholder:
        ids += [IMAGE_TOKEN_INDEX] * picture_tokens + _plain(after, tokenizer)
    return ids


def _plain(text: str, tokenizer: Tokenizer) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids) if text else []


def _is_one_token(token: str, tokenizer: Tokenizer) -> bool:
    number = tokenizer.token_to_id(token)
    return number is not None and _plain(token, tokenizer) == [number]
