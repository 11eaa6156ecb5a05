"""SparK: what is masked, what the encoder may see of it, and the loss on one patch by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from voxbench.methods.base import Batch, MethodError
from voxbench.methods.encoders.resnet import ResNet
from voxbench.methods.parts.patches import masked_patch_loss, normalise_patches
from voxbench.methods.spark import SparK, SparKOptions

Volumes = Callable[..., Tensor]
MakeEncoder = Callable[..., ResNet]
SHAPE = (1, 32, 32, 32)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def over_patches(visible: Tensor, patch: int = 16) -> Tensor:
    for axis in (2, 3, 4):
        visible = visible.repeat_interleave(patch, axis)
    return visible


@pytest.mark.parametrize(
    ("size", "ratio", "masked", "total"),
    [
        (32, 0.6, 38, 64),
        (64, 0.6, 38, 64),
        (48, 0.6, 130, 216),
        (28, 0.6, 38, 64),
        (32, 0.01, 1, 64),
        (32, 0.999, 63, 64),
        (4, 0.6, 5, 8),
    ],
)
def test_the_mask_ratio_is_exact_in_every_volume(
    encoder: MakeEncoder, size: int, ratio: float, masked: int, total: int
) -> None:
    shape = (1, size, size, size)
    method = SparK(encoder(), SparKOptions(mask_ratio=ratio), shape)
    visible = method.sample(torch.zeros(50, *shape), rng())
    assert visible.dtype == torch.bool
    assert visible[0].numel() == total
    assert (~visible).flatten(1).sum(1).tolist() == [masked] * 50
    assert len({tuple(v.flatten().tolist()) for v in visible}) > 5  # volumes do not share a mask
    share = (~visible).float().mean(0)
    assert float((share - masked / total).abs().max()) < 0.35  # and no patch is privileged
    assert torch.equal(visible, method.sample(torch.zeros(50, *shape), rng()))


@pytest.mark.parametrize(
    ("size", "patch"), [((32, 32, 32), 8), ((64, 64, 64), 16), ((28, 28, 28), 8), ((64, 20, 20), 16), ((6, 6, 6), 2)]
)
def test_the_patch_leaves_four_along_the_longest_axis(
    encoder: MakeEncoder, size: tuple[int, int, int], patch: int
) -> None:
    assert SparK(encoder(), SparKOptions(), (1, *size)).patch == patch


def test_a_single_patch_cannot_be_masked(encoder: MakeEncoder) -> None:
    with pytest.raises(MethodError, match="patches of 16 voxels leave one"):
        SparK(encoder(), SparKOptions(patch=16), (1, 16, 16, 16))


def test_a_patch_is_one_of_the_strides(encoder: MakeEncoder) -> None:
    with pytest.raises(MethodError, match=r"a patch of 5 voxels is none of the encoder's strides \(2, 4, 8, 16\)"):
        SparK(encoder(), SparKOptions(patch=5), SHAPE)


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_prediction_does_not_see_masked_voxels(encoder: MakeEncoder, volumes: Volumes, patch: int) -> None:
    method, x = SparK(encoder(), SparKOptions(patch=patch), SHAPE), volumes(2, *SHAPE)
    visible = method.sample(x, rng())
    other = torch.where(over_patches(visible, patch), x, 1 - x)
    with torch.no_grad():
        assert torch.equal(method.predict(x, visible), method.predict(other, visible))
        third = torch.where(over_patches(visible, patch), 1 - x, x)
        assert not torch.equal(method.predict(x, visible), method.predict(third, visible))


def test_every_mask_embedding_learns(encoder: MakeEncoder, volumes: Volumes) -> None:
    method = SparK(encoder(), SparKOptions(patch=16), SHAPE)
    assert [len(e) for e in method.mask_embeddings] == [4, 8, 16, 32]
    method.loss(Batch(views=(volumes(2, *SHAPE),), target=None, rng=rng())).backward()
    assert all(e.grad is not None and float(e.grad.abs().sum()) > 0 for e in method.mask_embeddings)


def test_patches_are_normalised_one_by_one(volumes: Volumes) -> None:
    x = volumes(2, 2, 28, 32, 20)
    target, mean, deviation = normalise_patches(x, 16)
    torch.testing.assert_close(target * deviation + mean, x)
    for place in np.ndindex(2, 2, 2):
        window = (0, slice(None), *(slice(16 * i, 16 * i + 16) for i in place))
        patch = x[window].double().numpy()  # cut at the border, both channels together
        expected = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
        np.testing.assert_allclose(target[window], expected, rtol=1e-3, atol=1e-4)


def test_a_constant_patch_has_target_zero() -> None:
    """As in a binary mask: empty, full, and one with a single voxel set."""
    x = torch.zeros(1, 1, 48, 16, 16)
    x[:, :, 16:32] = 1.0
    x[0, 0, 40, 8, 8] = 1.0
    target, _, deviation = normalise_patches(x, 16)
    assert not target[:, :, :32].any()
    assert (deviation[:, :, :32] == deviation[0, 0, 0, 0, 0]).all()
    assert target[:, :, 32:].square().mean().item() == pytest.approx(1.0, rel=0.01)
    assert target.isfinite().all()


def test_loss_by_hand_on_one_masked_patch(volumes: Volumes) -> None:
    prediction, target = volumes(1, *SHAPE, seed=1).requires_grad_(), volumes(1, *SHAPE, seed=2)
    visible = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    visible[0, 0, 1, 0, 1] = False
    loss = masked_patch_loss(prediction, target, visible, 16)
    window = (0, 0, slice(16, 32), slice(0, 16), slice(16, 32))
    difference = (prediction.detach()[window] - target[window]).double().numpy()
    assert loss.item() == pytest.approx((difference**2).mean(), rel=1e-5)
    loss.backward()
    assert prediction.grad is not None
    np.testing.assert_allclose(prediction.grad[window], 2 * difference / 16**3, rtol=1e-4, atol=1e-9)
    outside = prediction.grad.clone()
    outside[window] = 0
    assert not outside.any()


def test_the_whole_loss_by_numpy(encoder: MakeEncoder, volumes: Volumes) -> None:
    method, x = SparK(encoder(), SparKOptions(patch=16), SHAPE), volumes(3, *SHAPE)
    visible = method.sample(x, rng(4))
    with torch.no_grad():
        prediction = method.predict(x, visible).double().numpy()
        loss = method.loss(Batch(views=(x,), target=None, rng=rng(4))).item()
    errors = []
    for volume, i, j, k in zip(*np.nonzero(~visible[:, 0].numpy()), strict=True):
        window = (volume, 0, *(slice(16 * n, 16 * n + 16) for n in (i, j, k)))
        patch = x[window].double().numpy()
        normal = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
        errors.append(((prediction[window] - normal) ** 2).mean())
    assert len(errors) == 15
    assert loss == pytest.approx(np.mean(errors), rel=1e-4)


def test_reconstruction_keeps_what_was_visible(encoder: MakeEncoder, volumes: Volumes) -> None:
    method, x = SparK(encoder(), SparKOptions(), SHAPE), volumes(2, *SHAPE)
    with torch.no_grad():
        shown = method.reconstruct(x, rng(7))
    kept = over_patches(method.sample(x, rng(7)), method.patch)
    assert torch.equal(shown[kept], x[kept])
    assert not torch.equal(shown[~kept], x[~kept])


@pytest.mark.parametrize("size", [(64, 40, 12), (20, 33, 11), (33, 33, 33)])
def test_patches_at_an_edge_count_by_their_voxels(encoder: MakeEncoder, size: tuple[int, int, int]) -> None:
    """An independent statement: every voxel of a hidden patch counts once, wherever it lies."""
    volumes, patch = torch.rand(2, 1, *size, generator=rng()), 16
    target, mean, _ = normalise_patches(volumes, patch)
    corner = volumes[:, :, : min(patch, size[0]), : min(patch, size[1]), : min(patch, size[2])]
    torch.testing.assert_close(mean[:, 0, 0, 0, 0], corner.mean((1, 2, 3, 4)))
    method = SparK(encoder(), SparKOptions(patch=patch), (1, *size))
    visible = method.sample(volumes, rng(1))
    prediction = torch.rand(2, 1, *size, generator=rng(2))
    hidden = ~over_patches(visible, patch)[..., : size[0], : size[1], : size[2]]
    expected = (prediction - target).square()[hidden].mean()
    torch.testing.assert_close(masked_patch_loss(prediction, target, visible, patch), expected)
    assert torch.isfinite(method.loss(Batch(views=(volumes,), target=None, rng=rng(3))))
