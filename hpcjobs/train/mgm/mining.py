"""Patch info mining: every low-resolution patch looks closer, at its own part of the picture.

Li et al., "Mini-Gemini: Mining the Potential of Multi-modality Vision Language Models" (2024),
section 3.2: the CLIP patch is the query of an attention over the high-resolution features that
cover the same square of the picture, and nothing else.

Shapes: P pictures, G side of the low-resolution grid, N = G * G patches, C CLIP width, A channels
of the high-resolution map, S its side, M = S / G, K = M * M high-resolution positions a patch.
"""

from torch import Tensor, nn


def split_patches(highres_PASS: Tensor, grid: int) -> Tensor:
    """Cuts a feature map into the squares that the patches of a ``grid`` x ``grid`` raster cover.

    Args:
        highres_PASS: feature map; S is a multiple of ``grid``.
        grid: patches along one side, G.

    Returns:
        [P, N, K, A]: patches row by row, and inside each its positions row by row.
    """
    pictures, channels, side, _ = highres_PASS.shape
    inner = side // grid
    cut = highres_PASS.reshape(pictures, channels, grid, inner, grid, inner)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(pictures, grid**2, inner**2, channels)


def mine(
    lowres_PNC: Tensor, highres_PASS: Tensor, query: nn.Module, key: nn.Module, value: nn.Module
) -> Tensor:
    """Attends from each patch to the high-resolution features of its own square.

    ``softmax(q k^T / sqrt(C)) v`` with one query a patch, so K weights that sum to one.

    Args:
        lowres_PNC: CLIP patch features.
        highres_PASS: ConvNeXt features, S a multiple of the patch grid.
        query: maps C to C.
        key: maps A to C.
        value: maps A to C.

    Returns:
        [P, N, C], what was found for each patch.
    """
    squares_PNKA = split_patches(highres_PASS, int(lowres_PNC.shape[1] ** 0.5))
    query_PN1C = query(lowres_PNC).unsqueeze(2)
    key_PNKC, value_PNKC = key(squares_PNKA), value(squares_PNKA)
    # Scaling the key before the product keeps fp16 scores in range, and bf16 equal to MGM's.
    scores_PN1K = query_PN1C @ (key_PNKC / key_PNKC.shape[-1] ** 0.5).transpose(-1, -2)
    found_PN1C: Tensor = scores_PN1K.nan_to_num().softmax(dim=-1) @ value_PNKC
    return found_PN1C.squeeze(2)


def mining_projector(channels_in: int, channels_out: int) -> nn.Sequential:
    """Returns one of the ``vlm_uni_*`` projectors: a layer norm, then a linear layer."""
    return nn.Sequential(nn.LayerNorm(channels_in), nn.Linear(channels_in, channels_out))
