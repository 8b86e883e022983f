"""The ConvNeXt trunk that sees the high-resolution picture.

Architecture: Liu et al., "A ConvNet for the 2020s" (2022). Names and order of the layers are
those of timm's ``convnext_*`` models, because MGM's checkpoints carry OpenCLIP's trunk, and that
is timm's: the stem and the four stages, without the final norm and the head.

Shapes: P pictures, H side of a picture in pixels, W width of a stage, A widths of all stages
together, S side of a feature map.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpcjobs.run.model_config import AuxDims
from hpcjobs.train.mgm.random_init import init_fan_in

_EPS = 1e-6
_EXPANSION = 4


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a feature map in channels-first layout."""

    def forward(self, x_PWSS: Tensor) -> Tensor:
        """Normalises every position by itself: [P, W, S, S] to the same shape."""
        return super().forward(x_PWSS.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7 convolution, then a two-layer perceptron at every position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, _EXPANSION * width),
                act=nn.GELU(),
                fc2=nn.Linear(_EXPANSION * width, width),
            )
        )
        # Training from scratch starts this layer scale at 1e-6, which would mute a random block.
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x_PWSS: Tensor) -> Tensor:
        """Adds the block's residual: [P, W, S, S] to the same shape."""
        rows_PSSW = self.norm(self.conv_dw(x_PWSS).permute(0, 2, 3, 1))
        residual_PSSW: Tensor = self.gamma * self.mlp(rows_PSSW)
        return x_PWSS + residual_PSSW.permute(0, 3, 1, 2)


class ConvNextStage(nn.Module):
    """Blocks of one width; every stage but the first halves the feature map on entry."""

    def __init__(self, width_in: int, width: int, depth: int, *, halve: bool) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if halve:
            self.downsample = nn.Sequential(
                ChannelNorm(width_in, eps=_EPS), nn.Conv2d(width_in, width, 2, stride=2)
            )
        self.blocks = nn.Sequential(*(ConvNextBlock(width) for _ in range(depth)))

    def forward(self, x_PWSS: Tensor) -> Tensor:
        """Runs the stage: [P, width_in, S, S] to [P, width, S, S], or S / 2 where it halves."""
        out_PWSS: Tensor = self.blocks(self.downsample(x_PWSS))
        return out_PWSS


class ConvNextTower(nn.Module):
    """Stem and four stages; the stages' outputs are stacked at the first stage's resolution.

    MGM-2B: widths 192, 384, 768, 1536 and depths 3, 3, 27, 3 (OpenCLIP's
    ``convnext_large_d_320``), 768 px pictures: 2880 channels on a 192 x 192 map.
    """

    def __init__(self, dims: AuxDims) -> None:
        super().__init__()
        first = dims.widths[0]
        self.vision_stem = nn.Sequential(
            nn.Conv2d(3, first, kernel_size=4, stride=4), ChannelNorm(first, eps=_EPS)
        )
        widths_in = (first, *dims.widths)
        self.vision_stages = nn.ModuleList(
            ConvNextStage(widths_in[i], width, depth, halve=i > 0)
            for i, (width, depth) in enumerate(zip(dims.widths, dims.depths, strict=True))
        )
        init_fan_in(self)

    def forward(self, pictures_P3HH: Tensor) -> Tensor:
        """Returns the features of all four stages.

        Args:
            pictures_P3HH: normalised pictures, H a multiple of 32.

        Returns:
            [P, A, H/4, H/4] in the tower's dtype; stages 1 to 3 bilinearly up-sampled in fp32.
        """
        maps = self.stage_maps(pictures_P3HH)
        size = maps[0].shape[-2:]
        return torch.cat([maps[0], *(_upsample(m, size) for m in maps[1:])], dim=1)

    def stage_maps(self, pictures_P3HH: Tensor) -> list[Tensor]:
        """Returns the four stages' outputs as they come, at strides 4, 8, 16 and 32."""
        dtype = next(self.parameters()).dtype
        x_PWSS: Tensor = self.vision_stem(pictures_P3HH.to(dtype))
        maps = []
        for stage in self.vision_stages:
            x_PWSS = stage(x_PWSS)
            maps.append(x_PWSS)
        return maps


def _upsample(map_PWSS: Tensor, size: torch.Size) -> Tensor:
    wide = F.interpolate(map_PWSS.float(), size=size, mode="bilinear", align_corners=False)
    return wide.to(map_PWSS.dtype)
