"""The common encoder: MONAI's forward bit for bit without a mask, sparse semantics with one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet as monai_resnet
from pydantic import ValidationError
from torch import Tensor, nn

from voxbench.methods.encoders.resnet import ResNet, ResNetOptions
from voxbench.methods.parts.sparse import masked_batch_norm

Volumes = Callable[..., Tensor]
MakeEncoder = Callable[..., ResNet]

KINDS = [
    {},
    {"stem_kernel": 7, "max_pool": True},
    {"depth": 18, "stem_kernel": 5, "stem_stride": 1, "max_pool": True},
    {"depth": 34},
    {"depth": 50, "max_pool": True, "stem_stride": 1},
    {"depth": 50},
]
VISIBLE = torch.tensor([[1, 0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1, 0, 1]], dtype=torch.bool).view(2, 1, 2, 2, 2)


def through_monai(net: monai_resnet.ResNet, x: Tensor) -> list[Tensor]:
    """The feature maps that MONAI's own modules give, in the order of its forward."""
    x = net.act(net.bn1(net.conv1(x)))
    levels = []
    if not net.no_max_pool:
        levels.append(x.clone())
        x = net.maxpool(x)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        levels.append(x.clone())
    return levels


def size_for(encoder: ResNet) -> int:
    """An edge with two places at the coarsest level."""
    return 2 * encoder.strides[-1]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_without_a_mask_it_is_monai(
    encoder: MakeEncoder, volumes: Volumes, options: dict[str, object], training: bool
) -> None:
    torch.manual_seed(3)
    ours = encoder(**options).train(training).double()  # channels last adds up in another order
    torch.manual_seed(3)
    depth = int(str(options.get("depth", 10)))
    theirs = monai_resnet.ResNet(
        "bottleneck" if depth == 50 else "basic",
        {10: [1] * 4, 18: [2] * 4, 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}[depth],
        [4, 8, 16, 32],
        n_input_channels=1,
        conv1_t_size=options.get("stem_kernel", 3),
        conv1_t_stride=options.get("stem_stride", 2),
        no_max_pool=not options.get("max_pool", False),
        bias_downsample=False,
        feed_forward=False,
    )
    theirs.train(training).double()
    x = volumes(2, 1, *[size_for(ours)] * 3).double()
    with torch.no_grad():
        expected = through_monai(theirs, x)
        got = ours.pyramid(x)
        assert len(got) == len(ours.widths) == len(ours.strides)
        for ours_level, theirs_level in zip(got, expected, strict=True):
            torch.testing.assert_close(ours_level, theirs_level, rtol=1e-9, atol=1e-9)
        if not training:
            torch.testing.assert_close(ours(x), theirs(x))


def test_the_paper_encoder_has_the_keys_of_monais_resnet18() -> None:
    ours = ResNet(ResNetOptions(), 1).net.state_dict()
    theirs = monai_resnet.resnet18(
        n_input_channels=1, feed_forward=False, conv1_t_stride=2, shortcut_type="B", bias_downsample=False
    ).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("size", [(32, 32, 32), (28, 28, 28), (20, 33, 47)], ids=str)
def test_widths_and_strides_tell_the_truth(
    encoder: MakeEncoder, options: dict[str, object], size: tuple[int, int, int]
) -> None:
    one = encoder(in_channels=2, **options).eval()
    with torch.no_grad():
        levels = one.pyramid(torch.zeros(1, 2, *size))
        assert one(torch.zeros(1, 2, *size)).shape == (1, one.widths[-1])
    for level, width, stride in zip(levels, one.widths, one.strides, strict=True):
        assert level.shape == (1, width, *(-(-n // stride) for n in size))


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_visible_depends_on_a_masked_voxel(
    encoder: MakeEncoder, volumes: Volumes, options: dict[str, object], training: bool
) -> None:
    one = encoder(**options).train(training)
    patch = one.strides[-1]
    x = volumes(2, 1, *[size_for(one)] * 3)
    covered = VISIBLE
    for axis in (2, 3, 4):
        covered = covered.repeat_interleave(patch, axis)
    other = torch.where(covered, x, 1.0 - x)
    assert not torch.equal(x, other)
    with torch.no_grad():
        for a, b in zip(one.pyramid(x, VISIBLE), one.pyramid(other, VISIBLE), strict=True):
            assert torch.equal(a, b)
            factor = a.shape[-1] // 2
            here = VISIBLE.repeat_interleave(factor, 2).repeat_interleave(factor, 3).repeat_interleave(factor, 4)
            assert not a[~here.expand_as(a)].any()
            assert a[here.expand_as(a)].any()


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("size", [64, 52], ids=str)
def test_a_fine_mask_hides_its_voxels_at_every_level(
    encoder: MakeEncoder, volumes: Volumes, options: dict[str, object], size: int
) -> None:
    """A coarse place is visible where any voxel under it is, by numpy; no feature depends on a masked voxel."""
    one = encoder(**options).train()
    x, patch = volumes(2, 1, size, size, size), one.strides[-3]
    cells = -(-size // patch)
    visible = torch.rand(2, 1, cells, cells, cells, generator=torch.Generator().manual_seed(1)) < 0.1
    covered = visible
    for axis in (2, 3, 4):
        covered = covered.repeat_interleave(patch, axis)
    covered = covered[..., :size, :size, :size]
    with torch.no_grad():
        levels = zip(
            one.pyramid(x, visible), one.pyramid(torch.where(covered, x, 1 - x), visible), one.strides, strict=True
        )
        for a, b, stride in levels:
            assert torch.equal(a, b)
            wide = a.shape[-1] * stride
            padded = np.zeros((2, wide, wide, wide), dtype=bool)
            padded[:, :size, :size, :size] = covered[:, 0].numpy()
            here = torch.from_numpy(
                padded.reshape(2, *[n for _ in range(3) for n in (a.shape[-1], stride)]).any(axis=(2, 4, 6))
            )[:, None]
            assert not a[~here.expand_as(a)].any()
            assert a[here.expand_as(a)].any()


def test_no_gradient_reaches_a_masked_voxel(encoder: MakeEncoder, volumes: Volumes) -> None:
    x = volumes(2, 1, 28, 28, 28).requires_grad_()  # the last patches are cut: 28 = 16 + 12
    sum(level.square().sum() for level in encoder().pyramid(x, VISIBLE)).backward()
    assert x.grad is not None
    for volume, mask in zip(x.grad[:, 0], VISIBLE[:, 0], strict=True):
        for place in np.ndindex(2, 2, 2):
            patch = volume[tuple(slice(16 * i, 16 * i + 16) for i in place)]
            assert bool(patch.abs().sum() > 0) == bool(mask[place])


def test_all_visible_is_dense(encoder: MakeEncoder, volumes: Volumes) -> None:
    x, everything = volumes(2, 1, 32, 32, 32).double(), torch.ones(2, 1, 2, 2, 2, dtype=torch.bool)
    dense, sparse = encoder(depth=50).double(), encoder(depth=50).double()
    sparse.load_state_dict(dense.state_dict())
    for a, b in zip(dense.pyramid(x), sparse.pyramid(x, everything), strict=True):
        torch.testing.assert_close(a, b)
    for (key, a), b in zip(dense.state_dict().items(), sparse.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def visible_rows(x: Tensor) -> Tensor:
    """bool [B, d, h, w]: which places of the feature map are visible."""
    return torch.from_numpy(np.kron(VISIBLE[:, 0].numpy(), np.ones((1, *[x.shape[-1] // 2] * 3)))).bool()


class Gathered(nn.Module):
    """A norm or a pooling of SparK's paper: visible voxels are gathered, and scattered back into zeros."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.BatchNorm3d):
            self.layer = nn.BatchNorm1d(layer.num_features)
            self.layer.load_state_dict(layer.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = x if isinstance(self.layer, nn.BatchNorm1d) else self.layer(x)
        rows = x.movedim(1, -1)[visible_rows(x)]
        out = torch.zeros_like(x).movedim(1, -1)
        out[visible_rows(x)] = self.layer(rows) if isinstance(self.layer, nn.BatchNorm1d) else rows
        return out.movedim(-1, 1)


def gathered(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm3d, nn.MaxPool3d)):
            setattr(module, name, Gathered(child))
        else:
            gathered(child)
    return module


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_sparse_is_monai_with_norms_and_pooling_over_gathered_voxels(
    encoder: MakeEncoder, volumes: Volumes, options: dict[str, object]
) -> None:
    """Every convolution is followed by a norm, so this masks again after each of them."""
    ours = encoder(**options).double()
    theirs = gathered(deepcopy(ours.net)).double()
    x = volumes(2, 1, *[size_for(ours)] * 3).double()
    shown = x * visible_rows(x)[:, None]
    with torch.no_grad():
        for a, b in zip(ours.pyramid(x, VISIBLE), through_monai(theirs, shown), strict=True):
            torch.testing.assert_close(a, b)
    for (key, a), b in zip(ours.net.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def test_a_mask_is_not_remembered(encoder: MakeEncoder, volumes: Volumes) -> None:
    one, x = encoder().eval(), volumes(2, 1, 32, 32, 32)
    with torch.no_grad():
        before = one(x)
        one.pyramid(x, VISIBLE)
        assert torch.equal(one(x), before)


def test_batch_statistics_are_those_of_visible_voxels(encoder: MakeEncoder, volumes: Volumes) -> None:
    """The stem's running statistics after one masked step, by numpy from the visible voxels."""
    one, x = encoder(), volumes(2, 1, 32, 32, 32)
    with torch.no_grad():
        one.pyramid(x, VISIBLE)
        shown = x * VISIBLE.repeat_interleave(16, 2).repeat_interleave(16, 3).repeat_interleave(16, 4)
        features = one.net.conv1(shown).numpy()
    places = np.kron(VISIBLE[:, 0].numpy(), np.ones((1, 8, 8, 8))).astype(bool)
    rows = np.moveaxis(features, 1, -1)[places].astype(np.float64)  # [visible voxels, channels]
    assert len(rows) == 6 * 8**3
    norm = one.net.bn1
    np.testing.assert_allclose(norm.running_mean, 0.1 * rows.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(norm.running_var, 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    assert int(norm.num_batches_tracked) == 1


def test_masked_batch_norm_is_batch_norm_of_the_visible_rows() -> None:
    """Values, running statistics and gradients equal torch's own on the gathered voxels."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, 4, 4, 4, generator=g, requires_grad=True)
    mask = torch.rand(3, 1, 4, 4, 4, generator=g) < 0.4
    weights = torch.randn(x.shape, generator=g)
    ours, theirs = nn.BatchNorm3d(5), nn.BatchNorm1d(5)
    for norm in (ours, theirs):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(2))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(3))
    rows = mask[:, 0]
    masked = masked_batch_norm(ours, x, mask.float())
    (masked * weights).sum().backward()
    assert x.grad is not None
    gradient, x.grad = x.grad, None
    gathered = theirs(x.movedim(1, -1)[rows])
    (gathered * weights.movedim(1, -1)[rows]).sum().backward()
    torch.testing.assert_close(masked.movedim(1, -1)[rows], gathered)
    torch.testing.assert_close(gradient, x.grad, rtol=1e-4, atol=1e-6)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    assert not masked.movedim(1, -1)[~rows].any()


def test_a_mask_of_the_wrong_size_is_refused(encoder: MakeEncoder) -> None:
    with pytest.raises(ValueError, match="the mask has size"):
        encoder().pyramid(torch.zeros(2, 1, 48, 48, 48), VISIBLE)


@pytest.mark.parametrize(
    "wrong",
    [{"depth": 20}, {"widths": (1, 2, 3)}, {"widths": (0, 1, 2, 3)}, {"stem_kernel": 4}, {"width": 1}],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ResNetOptions.model_validate(wrong)
