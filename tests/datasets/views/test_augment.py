from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from voxbench.datasets.base import DatasetError
from voxbench.datasets.views.augment import Params, Policy, Strengths
from voxbench.datasets.views.policies import DEFAULTS, policies


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def volumes(batch: int = 4, side: int = 16) -> Tensor:
    return torch.rand(batch, 1, side, side, side, generator=rng(7))


def params(batch: int = 1, **changes: Any) -> Params:
    """Parameters that do nothing, but for `changes`."""
    still = Policy("none", Strengths(probability=0)).sample(batch, rng())
    return Params(**{**vars(still), **changes})


APPLY = Policy("none", Strengths()).apply


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_same_parameters_give_the_same_bits(name: str) -> None:
    policy, x = policies()[name], volumes(12)
    before = x.clone()
    drawn = policy.sample(12, rng(3))
    first, target = policy.apply(x, drawn, target=x)
    again, target_again = policy.apply(x, policy.sample(12, rng(3)), target=x)
    assert torch.equal(first, again)
    assert target is not None
    assert target_again is not None
    assert torch.equal(target, target_again)
    assert torch.equal(x, before), "the input is not written to"
    for made in (first, target):
        assert made.shape == x.shape
        assert made.min() >= 0
        assert made.max() <= 1


def test_none_changes_nothing_and_the_others_change_most_volumes() -> None:
    x = volumes(40, side=8)
    for name, policy in policies().items():
        out, _ = policy.apply(x, policy.sample(40, rng(1)))
        changed = int((out != x).flatten(1).any(dim=1).sum())
        low, high = {"none": (0, 0), "finetune": (40, 40), "geometric": (28, 40), "contrastive": (38, 40)}[name]
        assert low <= changed <= high, (name, changed)


def test_two_draws_from_one_generator_differ() -> None:
    policy, x, generator = policies()["contrastive"], volumes(), rng()
    one, _ = policy.apply(x, policy.sample(4, generator))
    two, _ = policy.apply(x, policy.sample(4, generator))
    assert not torch.allclose(one, two, atol=0.01)


def test_only_the_cpu_generator_is_used() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    policy = policies()["contrastive"]
    policy.apply(volumes(), policy.sample(4, rng()))
    assert torch.equal(state, torch.get_rng_state())


def test_left_right_flip_is_exact_and_along_the_first_axis() -> None:
    for side in (16, 21):
        x = volumes(2, side)
        out, target = APPLY(x, params(2, flip=torch.tensor([[True, False, False]] * 2)), target=x)
        assert torch.equal(out, x.flip(2))
        assert target is not None
        assert torch.equal(target, x.flip(2))


@pytest.mark.parametrize("name", ["contrastive", "geometric", "finetune"])
def test_only_left_and_right_are_exchanged_by_default(name: str) -> None:
    flips = policies()[name].sample(400, rng()).flip
    assert flips[:, 0].any()
    assert not flips[:, 1:].any()
    named = policies({name: {"flip_axes": ("x", "z")}})[name].sample(400, rng()).flip
    assert torch.equal(named[:, 0], flips[:, 0]), "other draws stay as they are"
    assert named[:, 2].any()
    assert not named[:, 1].any()


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 16, 20)])
def test_rotation_and_scale_agree_with_scipy(shape: tuple[int, int, int]) -> None:
    x = ndimage.gaussian_filter(torch.rand(shape, generator=rng(2)).numpy(), 1.5)
    angle, scale = math.radians(20), 1.2
    turn = torch.tensor([[0.0, 0.0, angle]])
    out, _ = APPLY(torch.from_numpy(x)[None, None], params(angles=turn, scale=torch.tensor([scale])))
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).double().numpy() / scale
    centre = (torch.tensor(shape).double().numpy() - 1) / 2
    expected = ndimage.affine_transform(x, matrix, centre - matrix @ centre, order=1, mode="nearest")
    torch.testing.assert_close(out[0, 0], torch.from_numpy(expected), atol=2e-5, rtol=0)


def test_the_fast_path_along_the_axes_equals_the_general_one() -> None:
    # Of axes that differ, one that gets smaller is interpolated twice when the volume is also turned.
    policy = policies({"contrastive": {"rotation": 0, "crop_stretch": [1, 1]}})["contrastive"]
    drawn = policy.sample(12, rng(5))
    x = ndimage.gaussian_filter(volumes(12).numpy(), (0, 0, 1, 1, 1))
    still = {"brightness": torch.zeros(12), "blur": torch.zeros(12), "noise": torch.zeros(12)}
    still |= {"contrast": torch.ones(12), "gamma": torch.ones(12)}
    fast, _ = APPLY(torch.from_numpy(x), Params(**{**vars(drawn), **still}))
    tiny = torch.full((12, 3), 1e-7)  # off the axes by nothing that matters
    general, _ = APPLY(torch.from_numpy(x), Params(**{**vars(drawn), **still, "angles": tiny}))
    torch.testing.assert_close(fast, general, atol=1e-5, rtol=0)


def test_blur_is_a_gaussian_of_each_volumes_own_sigma() -> None:
    x = torch.zeros(2, 1, 32, 32, 32)
    x[:, :, 16, 16, 16] = 1
    out, _ = APPLY(x, params(2, blur=torch.tensor([1.0, 2.0]) / 32))
    for row, sigma in enumerate((1.0, 2.0)):
        expected = ndimage.gaussian_filter(x[row, 0].numpy(), sigma, truncate=8, mode="nearest")
        torch.testing.assert_close(out[row, 0], torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_target_moves_with_the_input_but_keeps_its_intensity() -> None:
    strong = policies()["contrastive"]
    x = volumes(6)
    drawn = strong.sample(6, rng(9))
    _, target = strong.apply(x, drawn, target=x)
    calm = {"brightness": torch.zeros(6), "blur": torch.zeros(6), "noise": torch.zeros(6)}
    calm |= {"contrast": torch.ones(6), "gamma": torch.ones(6)}
    moved, _ = strong.apply(x, Params(**{**vars(drawn), **calm}))
    assert target is not None
    assert torch.equal(moved, target)


def test_a_target_is_clamped() -> None:
    _, target = APPLY(volumes(1), params(1), target=3 * volumes(1) - 1)
    assert target is not None
    assert (target.min(), target.max()) == (0, 1)


def test_strengths_are_met() -> None:
    half = {
        "probability": 0.5,
        "affine_probability": 0.4,
        "intensity_probability": 0,
        "scale": (0.8, 1.2),
        "rotation": 10,
    }
    drawn = policies({"finetune": half})["finetune"].sample(4000, rng())
    changed = drawn.rotated | drawn.aligned | (drawn.blur > 0) | (drawn.noise > 0)
    # half of the volumes, and of those all but the ones that drew none of the four
    assert abs(float(changed.float().mean()) - 0.5 * (1 - 0.6 * 0.6 * 0.8 * 0.8)) < 0.03
    assert drawn.angles.abs().max() <= math.radians(10)
    assert drawn.scale.min() >= 0.8
    assert drawn.scale.max() <= 1.2
    assert policies()["finetune"].sample(4000, rng()).rotated.all()  # by default no volume is left as it is
    crops = policies()["contrastive"].sample(4000, rng()).crop_size
    kept = crops.prod(dim=1)
    assert kept.min() > 0.38
    assert 0.6 < kept.mean() < 0.8


def test_mirror_images_are_those_that_training_shows() -> None:
    assert policies()["finetune"].mirrors == ((), (2,))
    assert policies()["none"].mirrors == ((),)
    both = policies({"finetune": {"flip_axes": ("x", "z")}})["finetune"]
    assert both.mirrors == ((), (2,), (4,), (2, 4))
    assert policies({"finetune": {"flip_probability": 0}})["finetune"].mirrors == ((),)


def test_a_crop_stays_inside_the_volume() -> None:
    drawn = policies()["contrastive"].sample(500, rng())
    reach = drawn.crop_centre.abs() + drawn.crop_size
    assert reach.max() <= 1 + 1e-6


def test_settings_are_checked_all_at_once() -> None:
    bad: dict[str, dict[str, Any]] = {
        "contrastiv": {},
        "finetune": {"blurr": 1, "rotation": -3, "scale": (2, 1)},
    }
    with pytest.raises(DatasetError) as raised:
        policies(bad)
    text = str(raised.value)
    assert "augmentation.contrastiv: there is no such policy; did you mean contrastive?" in text
    assert "augmentation.finetune.blurr: there is no such key; did you mean blur?" in text
    assert "augmentation.finetune.rotation" in text
    assert "give (lowest, highest)" in text


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="parameters of 2 volumes"):
        APPLY(volumes(3), params(2))
    with pytest.raises(ValueError, match="does not lie on volumes"):
        APPLY(volumes(2, 8), params(2), target=volumes(2, 16))
