"""Where the pictures stand among the tokens of a sample.

Shapes: B samples, L tokens of the padded sequence, P pictures, N tokens of one picture, D width
of the language model.
"""

from torch import Tensor

from hpcjobs.run.errors import InputError

IMAGE_TOKEN_INDEX = -200
"""Stands at every position that a picture token takes: N times a picture."""


def check_placeholders(input_ids_BL: Tensor, pictures: int, picture_tokens: int) -> None:
    """Refuses a batch whose placeholders and pictures do not belong together.

    Costs one synchronisation with the card; a silent shift would give every later sample of the
    batch another sample's picture.

    Args:
        input_ids_BL: token ids with expanded placeholders.
        pictures: P.
        picture_tokens: N.

    Raises:
        InputError: a sample holds part of a picture, or the batch more or fewer than P.
    """
    counts: list[int] = (input_ids_BL == IMAGE_TOKEN_INDEX).sum(dim=1).tolist()
    for sample, count in enumerate(counts):
        if count % picture_tokens:
            raise InputError(
                f"sample {sample} of the batch has {count} picture positions, no multiple of "
                f"{picture_tokens}: a picture was cut, raise model.max_length or drop the sample"
            )
    if sum(counts) != pictures * picture_tokens:
        raise InputError(
            f"the batch has places for {sum(counts) // picture_tokens} pictures but holds "
            f"{pictures}: every <image> in a sample needs exactly one picture"
        )


def place_pictures(text_BLD: Tensor, is_picture_BL: Tensor, tokens_PND: Tensor) -> Tensor:
    """Puts the picture tokens, in order, where the placeholders stand.

    Args:
        text_BLD: embedded tokens; what stands at the placeholders is replaced.
        is_picture_BL: true at the placeholders, P * N of them.
        tokens_PND: picture tokens.

    Returns:
        [B, L, D] in the dtype of ``text_BLD``.
    """
    return text_BLD.masked_scatter(is_picture_BL.unsqueeze(-1), tokens_PND.to(text_BLD.dtype))


def join_unused(text_BLD: Tensor, tokens_PND: Tensor) -> Tensor:
    """Adds picture tokens times zero: same values, but their projectors are in the graph.

    ZeRO's reduction waits for a gradient of every trainable parameter on every rank; a rank whose
    samples have no picture gives one of zeros.
    """
    # Zero first, then the sum: in fp16 a sum may overflow, and zero times infinity is NaN.
    return text_BLD + (0 * tokens_PND).sum().to(text_BLD.dtype)
