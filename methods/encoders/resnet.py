"""The common encoder: MONAI's 3D ResNet (He et al., CVPR 2016), with a sparse mode for SparK."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from monai.networks.nets import resnet as monai_resnet
from pydantic import Field
from torch import Tensor, nn

from voxbench.methods import base
from voxbench.methods.parts.recompute import Recomputing
from voxbench.methods.parts.sparse import Masks, masked_batch_norm, masks_for
from voxbench.methods.parts.stem import convolve

# Blocks a layer: He et al. 2016, table 1; ResNet-10 as in MONAI's `resnet10`.
_LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}

Width = Annotated[int, Field(ge=1)]


class ResNetOptions(base.Options):
    """The defaults are the seed paper's encoder: total stride 32, so that 64^3 ends at 2^3."""

    depth: Literal[10, 18, 34, 50] = 18
    widths: tuple[Width, Width, Width, Width] = (
        64,
        128,
        256,
        512,
    )  # of the four layers; depth 50 has four times as many
    stem_kernel: Literal[3, 5, 7] = 7
    stem_stride: Literal[1, 2] = 2
    max_pool: bool = True  # False halves the total stride: for volumes of 32^3 and less


class ResNet(Recomputing, base.Encoder):
    """A level for each resolution: the stem where max-pooling follows it, then the four layers.

    Shortcuts that change size are 1^3 convolutions with batch norm (type B): MONAI's type A cuts the
    gradient.
    """

    Options: ClassVar[type[base.Options]] = ResNetOptions
    name: ClassVar[str] = "resnet"
    about: ClassVar[str] = "3D ResNet 10/18/34/50 of MONAI, widths and stem settable (He et al., CVPR 2016)"

    def __init__(self, options: ResNetOptions, in_channels: int) -> None:
        super().__init__()
        bottleneck = options.depth >= 50
        self.max_pool = options.max_pool
        self.net = monai_resnet.ResNet(
            block="bottleneck" if bottleneck else "basic",
            layers=list(_LAYERS[options.depth]),
            block_inplanes=list(options.widths),
            spatial_dims=3,
            n_input_channels=in_channels,
            conv1_t_size=options.stem_kernel,
            conv1_t_stride=options.stem_stride,
            no_max_pool=not options.max_pool,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        layers = tuple(width * (4 if bottleneck else 1) for width in options.widths)
        first = options.stem_stride * (2 if options.max_pool else 1)
        strides = tuple(first * 2**level for level in range(4))
        self.widths = (options.widths[0], *layers) if options.max_pool else layers
        self.strides = (options.stem_stride, *strides) if options.max_pool else strides

    def layers(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The stem, and the four layers of blocks."""
        net = self.net
        return ((net.conv1, net.bn1), (net.layer1,), (net.layer2,), (net.layer3,), (net.layer4,))

    def pyramid(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, ...]:
        """Feature maps, fine to coarse; see `Encoder.pyramid`."""
        masks = None if visible is None else masks_for(visible, x.shape[2:], self.strides)
        if masks is not None:
            x = x * masks[tuple(x.shape[2:])].to(x.dtype)
        finest, x = self.recomputed(self._stem, x, masks)
        levels = [finest] if self.max_pool else []
        for layer in (self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4):
            for block in layer:
                x = self.recomputed(block if masks is None else partial(_masked_block, block, masks), x)
            levels.append(x)
        return tuple(levels)

    def _stem(self, x: Tensor, masks: Masks | None) -> tuple[Tensor, Tensor]:
        """Its feature map, and what of it the first layer takes."""
        x = self.net.act(_normed(partial(convolve, self.net.conv1), self.net.bn1, x, masks))
        if not self.max_pool:
            return x, x
        pooled = self.net.maxpool(x)  # masked places are 0 and visible ones >= 0 after the ReLU: nothing leaks in
        return x, pooled if masks is None else pooled * masks[tuple(pooled.shape[2:])].to(x.dtype)


def _normed(conv: Callable[[Tensor], Tensor], norm: nn.BatchNorm3d, x: Tensor, masks: Masks | None) -> Tensor:
    out = conv(x)
    if masks is None:
        normed: Tensor = norm(out)
        return normed
    return masked_batch_norm(norm, out, masks[tuple(out.shape[2:])])


def _masked_block(block: Any, masks: Masks, x: Tensor) -> Tensor:
    """A MONAI basic or bottleneck block, masked again after each of its convolutions."""
    out = block.act(_normed(block.conv1, block.bn1, x, masks))
    out = _normed(block.conv2, block.bn2, out, masks)
    if isinstance(block, monai_resnet.ResNetBottleneck):
        out = _normed(block.conv3, block.bn3, block.act(out), masks)
    shortcut = x if block.downsample is None else _normed(block.downsample[0], block.downsample[1], x, masks)
    result: Tensor = block.act(out + shortcut)
    return result
