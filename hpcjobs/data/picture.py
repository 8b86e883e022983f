"""Pictures as both towers want them: padded to a square, resized, normalised."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hpcjobs.run.errors import InputError

# CLIP's preprocessor_config.json; MGM requires ConvNeXt's to be the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BACKGROUND = tuple(int(mean * 255) for mean in CLIP_MEAN)


def picture_path(root: Path, name: str) -> Path:
    """Finds a picture below its root.

    Raises:
        InputError: the path leads out of the root, also by a link.
    """
    path = (root / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(root.resolve()):
        raise InputError(f"picture {name} is outside {root}")
    if not path.is_file():
        raise InputError(f"picture {name} is missing in {root}")
    return path


def load_picture(root: Path, name: str, size_px: int) -> Tensor:
    """Decodes a picture.

    Returns:
        [3, size_px, size_px] in float32, normalised.

    Raises:
        InputError: it is missing, broken, too large to be honest, or outside the root.
    """
    path = picture_path(root, name)
    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = _on_background(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"picture {name} cannot be decoded: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"picture {name} is refused: {error}") from error
    return to_tensor(picture, size_px)


def to_tensor(picture: Image.Image, size_px: int) -> Tensor:
    """Pads to a square on the mean colour, resizes bicubically and normalises: [3, S, S]."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    resized = square.resize((size_px, size_px), Image.Resampling.BICUBIC)
    values_SS3 = torch.from_numpy(np.array(resized, dtype=np.float32) / 255)
    normalised_SS3 = (values_SS3 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return normalised_SS3.permute(2, 0, 1).contiguous()


def _on_background(opened: Image.Image) -> Image.Image:
    if "A" not in opened.getbands() and "transparency" not in opened.info:
        return opened.convert("RGB")
    layered = opened.convert("RGBA")
    background = Image.new("RGBA", layered.size, (*BACKGROUND, 255))
    return Image.alpha_composite(background, layered).convert("RGB")
