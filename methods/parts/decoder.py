"""The light U-Net decoder that the residual method and SparK put on the common encoder.

SparK (Tian et al., ICLR 2023, section 3.2) and the seed paper (Bhattacharya et al., 2024) both upsample from
the coarsest level and take in the encoder's finer levels on the way. Here a level is taken in by a 1^3
projection and addition, and the last step to full resolution is a sub-pixel convolution: convolving at full
resolution costs more than the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.utils import pixelshuffle
from torch import Tensor, nn

from voxbench.methods.parts.recompute import Recomputing


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` voxels of x [B, C, d, h, w] along each axis: upsampling overshoots odd sizes."""
    depth, height, width = size
    return x[..., :depth, :height, :width]


class SubpixelHead(nn.Module):
    """[B, in, d, h, w] -> [B, out, factor d, factor h, factor w]: a convolution, then a reshape.

    Sub-pixel convolution, Shi et al., CVPR 2016.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int, kernel: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv3d(in_channels, out_channels * factor**3, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        maps: Tensor = pixelshuffle(self.conv(x), spatial_dims=3, scale_factor=self.factor)
        return maps


class UNetDecoder(Recomputing):
    """The pyramid that `Encoder.pyramid` gives -> a map at the volume's resolution, without activation.

    Decoder channels are the encoder's at each level, 512 at most (SparK's decoder has 512 in the seed paper).
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], out_channels: int, most: int = 512) -> None:
        super().__init__()
        inner = [min(width, most) for width in widths]
        self.lateral = nn.ModuleList(nn.Conv3d(w, d, 1) for w, d in zip(widths, inner, strict=True))
        self.up, self.smooth = nn.ModuleList(), nn.ModuleList()  # [level i + 1 -> level i]
        for (fine, coarse), (near, far) in zip(pairwise(inner), pairwise(strides), strict=True):
            factor = far // near
            self.up.append(nn.ConvTranspose3d(coarse, fine, kernel_size=factor, stride=factor))
            self.smooth.append(
                nn.Sequential(
                    nn.Conv3d(fine, fine, 3, padding=1, bias=False),
                    nn.BatchNorm3d(fine),
                    nn.ReLU(inplace=True),
                )
            )
        self.head = SubpixelHead(inner[0], out_channels, strides[0])

    def forward(self, pyramid: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """`size` is the volume's [D, H, W]; -> [B, out_channels, D, H, W]."""
        x: Tensor = self.lateral[-1](pyramid[-1])
        for level in reversed(range(len(self.up))):
            x = self.recomputed(self._finer, level, x, pyramid[level])
        return crop(self.head(x), size)

    def _finer(self, level: int, x: Tensor, features: Tensor) -> Tensor:
        """From the map of the next coarser level and the encoder's at this one to the map of this one."""
        skip: Tensor = self.lateral[level](features)
        finer: Tensor = self.smooth[level](crop(self.up[level](x), skip.shape[2:]) + skip)
        return finer
