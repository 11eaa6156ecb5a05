"""Masked execution of a dense encoder: what a sparse convolution would compute, with dense kernels.

SparK (Tian et al., ICLR 2023, section 3.1) treats masked places as absent. A convolution over zeros does the
same if the output is masked again (zeros stay zeros, and no visible place ever sees a masked voxel) and if
batch statistics are taken over the visible places only. Masks are passed from call to call; no module
remembers one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxbench.methods.parts.whole_batch import follow, summed

Size = tuple[int, ...]
Masks = Mapping[Size, Tensor]  # spatial size of a feature map -> its mask, float [B, 1, d, h, w]


def grid(size: Sequence[int], stride: int) -> Size:
    """The spatial size of a volume of `size` after a total downsampling of `stride`: partial cells count."""
    return tuple(-(-n // stride) for n in size)


def spread(mask: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """Every place of `mask` [B, 1, d, h, w] repeated `factor` times along each axis, cut to `size`."""
    for axis, length in enumerate(size, start=2):
        mask = mask.repeat_interleave(factor, dim=axis).narrow(axis, 0, length)
    return mask


def masks_for(visible: Tensor, size: Sequence[int], strides: Sequence[int]) -> dict[Size, Tensor]:
    """`visible`, bool [B, 1, d, h, w] at one of the strides, at the resolution of the volume and of every level.

    `size` is the volume's. A place of a coarser level is visible where any place under it is. Feature maps of equal
    size have equal masks, so a mask is found by its size. Raises ValueError if `visible` has the size of no level.
    """
    levels = {stride: grid(size, stride) for stride in (1, *strides)}
    patch = next((s for s, level in sorted(levels.items(), reverse=True) if tuple(visible.shape[2:]) == level), None)
    if patch is None:
        raise ValueError(f"the mask has size {tuple(visible.shape[2:])}, the levels have {[*levels.values()]}")
    return {level: _at(visible, patch, stride, level).float() for stride, level in levels.items()}


def _at(visible: Tensor, patch: int, stride: int, size: Size) -> Tensor:
    """The mask of patches of `patch` voxels at a level of `stride`, whose spatial size is `size`."""
    if stride <= patch:
        return spread(visible, patch // stride, size)
    factor = stride // patch
    return functional.max_pool3d(visible.float(), factor, ceil_mode=True) > 0


def masked_batch_norm(norm: nn.BatchNorm3d, x: Tensor, mask: Tensor) -> Tensor:
    """`norm` with statistics over the visible places of x [B, C, d, h, w] only; zero at masked places.

    In training, running statistics move as `norm` itself would move them if it were given the visible voxels
    alone; in evaluation they are used as they are. `mask` is float [B, 1, d, h, w], 1 = visible.
    """
    if not norm.training:
        normed: Tensor = norm(x)
        return normed * mask.to(x.dtype)
    values = x.to(torch.promote_types(x.dtype, torch.float32))  # sums in bfloat16 would lose digits
    over, channels = (0, 2, 3, 4), (1, -1, 1, 1, 1)
    sums = summed(torch.cat([(values * mask).sum(over), mask.sum()[None]]))
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()  # [C], []
    centred = (values - mean.view(channels)) * mask
    variance = summed(centred.square().sum(over)) / count  # [C]
    follow(norm, mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return (centred * scale.view(channels) + norm.bias.view(channels) * mask).to(x.dtype)
