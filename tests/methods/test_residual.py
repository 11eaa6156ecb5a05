"""Residual-SSL: the autoencoder's size, the residual's scale and zero, the filter, the losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import median_filter as scipy_median
from torch import Tensor, nn

from voxbench.datasets.views.policies import policies
from voxbench.methods.base import Batch, MethodError
from voxbench.methods.encoders.resnet import ResNet
from voxbench.methods.parts.autoencoder import Autoencoder
from voxbench.methods.parts.median import median_filter
from voxbench.methods.parts.median_image import MedianImage
from voxbench.methods.residual import Residual, ResidualOptions
from voxbench.methods.residual_median import ResidualMedian
from voxbench.methods.residual_pool import ResidualPool
from voxbench.methods.residual_pool_normal import ResidualPoolNormal

Volumes = Callable[..., Tensor]
MakeEncoder = Callable[..., ResNet]
SHAPE = (1, 32, 32, 32)


class Fixed(nn.Module):
    """An "autoencoder" that adds a known map to every volume."""

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


def with_residual(encoder: ResNet, residual: Tensor, **options: object) -> Residual:
    """The method, its autoencoder off by exactly `residual`."""
    shape = (1, *residual.shape[-3:])
    method = Residual(encoder, ResidualOptions.model_validate(options), shape)
    method.prior.redraw = Fixed(residual)  # type: ignore[assignment]
    return method


def test_the_autoencoder_has_the_papers_size() -> None:
    """2.74 M parameters at 64^3 with 16-32-64, 5^3 and a latent vector of 512."""
    model = Autoencoder((1, 64, 64, 64), (16, 32, 64), 5, 4, 512)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2.74e6, rel=0.01)
    assert model.encode.in_features == 2048
    assert model.encode.out_features == 512


@pytest.mark.parametrize("shape", [(1, 28, 28, 28), (2, 20, 33, 47), (1, 64, 64, 64), (1, 5, 8, 9)], ids=str)
def test_the_autoencoder_takes_any_size_through_a_bottleneck(
    volumes: Volumes, shape: tuple[int, int, int, int]
) -> None:
    model, x = Autoencoder(shape, (4, 8, 8), 3, 4, 512), volumes(2, *shape)
    assert model(x).shape == x.shape
    assert model.encode.out_features <= max(1, model.encode.in_features // 4)


def test_a_perfect_autoencoder_leaves_exactly_nothing(encoder: MakeEncoder, volumes: Volumes) -> None:
    x = volumes(2, *SHAPE)
    for rescale in ("normals", "volume"):
        method = with_residual(encoder(), torch.zeros(SHAPE), rescale=rescale)
        if rescale == "normals":
            method.prior.finish([x])
        assert not method.prior.target(x).any()
        method.prior.scale.copy_(torch.tensor([0.01, 0.3]))  # as measured on another autoencoder's residuals
        assert not method.prior.target(x).any()


def test_the_scale_is_fixed_by_the_normals(encoder: MakeEncoder, volumes: Volumes) -> None:
    """1st and 99th percentile of |x - CAE(x)| over all voxels of all batches, whatever volumes come later."""
    normals, later = volumes(6, *SHAPE, seed=1), volumes(2, *SHAPE, seed=2)
    method = Residual(encoder(), ResidualOptions(median=0), SHAPE)
    prior, autoencoder = method.prior, method.stages()[0]
    assert autoencoder.finish is not None
    autoencoder.finish(iter([normals[:4], normals[4:]]))
    prior.redraw.eval()
    with torch.no_grad():
        residuals = (normals - prior.redraw(normals)).abs().numpy()
        residual = (later - prior.redraw(later)).abs()
    low, high = np.percentile(residuals, [1, 99])
    np.testing.assert_allclose(prior.scale, [low, high], atol=2 / 8192)
    low, high = prior.scale
    expected = ((residual - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(prior.target(later), expected)
    torch.testing.assert_close(prior.target(later[:1]), expected[:1])  # not a matter of the batch
    assert "scale" in autoencoder.module.state_dict()


def test_the_papers_rescale_stretches_each_volume(encoder: MakeEncoder, volumes: Volumes) -> None:
    faint = 0.01 * volumes(1, *SHAPE)[0]
    method = with_residual(encoder(), faint, rescale="volume", median=0)
    assert method.stages()[0].finish is None
    target = method.prior.target(torch.zeros(1, *SHAPE))
    low, high = np.percentile(faint, [1, 99])
    expected = np.clip((faint.numpy() - low) / (high - low), 0, 1)
    np.testing.assert_allclose(target[0], expected, rtol=1e-3, atol=1e-3)
    fixed = with_residual(encoder(), faint, median=0)
    fixed.prior.scale.copy_(torch.tensor([0.0, 0.5]))
    assert float(fixed.prior.target(torch.zeros(1, *SHAPE)).max()) < 0.03  # the fixed scale leaves it faint


def test_the_autoencoder_is_measured_on_volumes_held_out(encoder: MakeEncoder) -> None:
    stage = Residual(encoder(), ResidualOptions(), SHAPE).stages()[0]
    assert stage.held_out == 0.2
    assert Residual(encoder(), ResidualOptions(held_out=0), SHAPE).stages()[0].held_out == 0
    assert Residual(encoder(), ResidualOptions(rescale="volume"), SHAPE).stages()[0].held_out == 0


@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_the_median_image_is_numpys_and_knows_the_others(volumes: Volumes, count: int) -> None:
    x = volumes(count, 2, 5, 6, 7).half().float()
    x[0] = x[1]  # ties
    model = MedianImage((2, 5, 6, 7))
    model.learn(iter([x[: count // 2], x[count // 2 :]]))
    np.testing.assert_allclose(model.image, np.median(x.numpy(), axis=0), atol=1e-6)
    assert torch.equal(model(x), model.image.expand_as(x))
    for i, without in enumerate(model.without(x)):
        others = torch.cat([x[:i], x[i + 1 :]])
        assert torch.equal(without, others.median(dim=0).values)  # torch's is the lower median


def test_the_median_image_is_a_prior_without_training(encoder: MakeEncoder, volumes: Volumes) -> None:
    normals, later = volumes(5, *SHAPE, seed=1).half().float(), volumes(2, *SHAPE, seed=2)
    method = Residual(encoder(), ResidualOptions(prior="median-image", median=0), SHAPE)
    stage = method.stages()[0]
    assert (stage.name, stage.loss, stage.held_out) == ("median-image", None, 0.0)
    assert not [p for p in stage.module.parameters() if p.requires_grad]
    with pytest.raises(MethodError, match="not finished"):
        method.prior.target(later)
    assert stage.finish is not None
    stage.finish([normals[:3], normals[3:]])
    apart = [(x - torch.cat([normals[:i], normals[i + 1 :]]).median(0).values).abs() for i, x in enumerate(normals)]
    low, high = np.percentile(torch.stack(apart), [1, 99])
    np.testing.assert_allclose(method.prior.scale, [low, high], atol=2 / 8192)
    left = (later - normals.median(0).values).abs()
    torch.testing.assert_close(method.prior.target(later), ((left - low) / (high - low)).clamp(0, 1), atol=2e-3, rtol=0)
    again = Residual(encoder(), ResidualOptions(prior="median-image", median=0), SHAPE)
    again.stages()[0].module.load_state_dict(stage.module.state_dict())
    assert torch.equal(again.prior.target(later), method.prior.target(later))


@pytest.mark.parametrize(
    ("prior_cohort", "cohort"), [("normal", "normal"), ("pool", "all"), ("pool+normal", "all+normal")]
)
def test_whom_the_prior_learns_from(encoder: MakeEncoder, prior_cohort: str, cohort: str) -> None:
    for prior in ("autoencoder", "median-image"):
        options = ResidualOptions.model_validate({"prior": prior, "prior_cohort": prior_cohort})
        first, second = Residual(encoder(), options, SHAPE).stages()
        assert (first.cohort, second.cohort) == (cohort, "all")


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        (ResidualPool, {"prior_cohort": "pool"}),
        (ResidualPoolNormal, {"prior_cohort": "pool+normal"}),
        (ResidualMedian, {"prior": "median-image"}),
    ],
)
def test_a_variant_is_residual_but_for_what_its_name_says(kind: type[Residual], chosen: dict[str, str]) -> None:
    assert kind.variant and not Residual.variant
    assert kind.Options().model_dump() == {**ResidualOptions().model_dump(), **chosen}
    with pytest.raises(ValidationError):
        kind.Options.model_validate(dict.fromkeys(chosen, "normal"))


def test_targets_before_the_autoencoder_is_finished_are_refused(encoder: MakeEncoder, volumes: Volumes) -> None:
    method = Residual(encoder(), ResidualOptions(), SHAPE)
    with pytest.raises(MethodError, match="not finished"):
        method.prior.target(volumes(1, *SHAPE))
    with pytest.raises(MethodError, match="no normal volumes"):
        method.prior.measure([])


def test_targets_use_running_statistics_and_leave_the_mode_alone(encoder: MakeEncoder, volumes: Volumes) -> None:
    x = volumes(4, *SHAPE)
    method = Residual(encoder(), ResidualOptions(), SHAPE)
    method.prior.finish([x])
    state = {k: v.clone() for k, v in method.prior.state_dict().items()}
    together, alone = method.prior.target(x), method.prior.target(x[:1])
    torch.testing.assert_close(together[:1], alone)
    assert method.prior.redraw.training
    assert all(torch.equal(v, state[k]) for k, v in method.prior.state_dict().items())


@pytest.mark.parametrize("size", [0, 3, 5, 7])
def test_the_filter_is_scipys(volumes: Volumes, size: int) -> None:
    x = volumes(2, 2, 9, 12, 7)
    got = median_filter(x, size)
    for volume, filtered in zip(x.flatten(0, 1), got.flatten(0, 1), strict=True):
        expected = volume.numpy() if size == 0 else scipy_median(volume.numpy(), size, mode="nearest")
        np.testing.assert_array_equal(filtered, expected)


def test_an_even_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        median_filter(torch.zeros(1, 1, 4, 4, 4), 4)


def test_the_median_is_taken_of_the_rescaled_residual(encoder: MakeEncoder, volumes: Volumes) -> None:
    raw = volumes(1, *SHAPE)[0]
    method = with_residual(encoder(), raw, median=3)
    method.prior.scale.copy_(torch.tensor([0.1, 0.6]))
    expected = scipy_median(np.clip((raw[0].numpy() - 0.1) / 0.5, 0, 1), 3, mode="nearest")
    np.testing.assert_allclose(method.prior.target(torch.zeros(1, *SHAPE))[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["bce", "l1", "l2"])
def test_losses_by_numpy(encoder: MakeEncoder, volumes: Volumes, kind: str) -> None:
    method = Residual(encoder(), ResidualOptions.model_validate({"loss": kind}), SHAPE)
    x, target = volumes(2, *SHAPE, seed=1), volumes(2, *SHAPE, seed=2)
    with torch.no_grad():
        p = method.logits(x).sigmoid().double().numpy()
        loss = method.loss(Batch(views=(x,), target=target, rng=torch.Generator())).item()
    t = target.double().numpy()
    expected = {
        "bce": -(t * np.log(p) + (1 - t) * np.log(1 - p)),
        "l1": np.abs(p - t),
        "l2": (p - t) ** 2,
    }[kind]
    assert loss == pytest.approx(expected.mean(), rel=1e-4)


def test_the_autoencoder_learns_by_l1_from_normals_as_they_are_or_moved_a_little(
    encoder: MakeEncoder, volumes: Volumes
) -> None:
    offset = 0.25 * torch.ones(SHAPE)
    method = with_residual(encoder(), offset)
    first, second = method.stages()
    assert (first.cohort, first.budget) == ("normal", "prior")
    (plain,) = first.looks
    assert plain.augmentation == "none"
    (view,) = Residual(encoder(), ResidualOptions(augment=True), SHAPE).stages()[0].looks
    strengths = policies({view.augmentation: dict(view.strengths)})[view.augmentation].strengths
    assert strengths.rotation > 0 and strengths.scale != (1.0, 1.0) and strengths.affine_probability > 0
    assert strengths.flip_probability == strengths.intensity_probability == strengths.noise_probability == 0
    assert (second.cohort, second.augmentation, second.budget) == ("all", "geometric", "pretrain")
    batch = Batch(views=(volumes(2, *SHAPE),), target=None, rng=torch.Generator())
    assert first.loss(batch).item() == pytest.approx(0.25, rel=1e-5)


def test_the_second_stage_trains_encoder_and_decoder_only(encoder: MakeEncoder) -> None:
    method = Residual(encoder(), ResidualOptions(), SHAPE)
    trained = {id(p) for p in method.stages()[1].module.parameters()}
    assert trained == {id(p) for part in (method.encoder, method.decoder) for p in part.parameters()}


@pytest.mark.parametrize("wrong", [{"median": 4}, {"loss": "ssim"}, {"widths": ()}, {"median_size": 5}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ResidualOptions.model_validate(wrong)


def test_percentiles_must_rise(encoder: MakeEncoder) -> None:
    with pytest.raises(MethodError, match="percentiles must rise"):
        Residual(encoder(), ResidualOptions(percentiles=(99.0, 1.0)), SHAPE)
