"""The mathematics of yardsticks against independent statements of it: solids, scikit-learn's PCA, folds by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from voxbench.methods.parts import logistic
from voxbench.methods.parts.geometry import NUMBERS, shape_numbers
from voxbench.methods.parts.inner import inner_folds
from voxbench.methods.parts.principal import Components

Mask = npt.NDArray[np.bool_]


def numbers(mask: Mask) -> dict[str, float]:
    return dict(zip(NUMBERS, shape_numbers(mask).tolist(), strict=True))


def ellipsoid(*semi_axes: float) -> Mask:
    grid = np.indices((64, 64, 64)) - 32
    scaled = grid / np.array(semi_axes).reshape(3, 1, 1, 1)
    mask: Mask = (scaled**2).sum(axis=0) <= 1
    return mask


def box(*sides: int) -> Mask:
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[5 : 5 + sides[0], 6 : 6 + sides[1], 7 : 7 + sides[2]] = True
    return mask


def test_there_are_seventeen() -> None:
    assert len(NUMBERS) == len(set(NUMBERS)) == 17


@pytest.mark.parametrize("radius", [8.0, 12.0, 20.0])
def test_of_a_ball(radius: float) -> None:
    found = numbers(ellipsoid(radius, radius, radius))
    assert found["volume"] == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02)
    assert found["surface"] == pytest.approx(4 * math.pi * radius**2, rel=0.03)
    assert found["sphericity"] == pytest.approx(1, abs=0.03)
    assert found["surface_to_volume"] == pytest.approx(3 / radius, rel=0.04)
    assert found["depth_max"] == pytest.approx(radius, abs=0.8)
    assert found["depth_mean"] == pytest.approx(radius / 4, rel=0.12)  # the mean of r - |x| over a ball
    for axis in ("axis_1", "axis_2", "axis_3"):
        assert found[axis] == pytest.approx(radius, rel=0.01)
    assert found["elongation"] == pytest.approx(1, abs=0.01)
    assert found["filling"] == pytest.approx(found["volume"] / (2 * radius + 1) ** 3)
    assert found["largest_piece"] == 1


def test_of_an_ellipsoid_however_it_is_turned() -> None:
    found = numbers(ellipsoid(20, 12, 6))
    assert [found[f"axis_{i}"] for i in (1, 2, 3)] == pytest.approx([20, 12, 6], rel=0.02)
    assert found["elongation"] == pytest.approx(12 / 20, rel=0.02)
    assert found["flatness"] == pytest.approx(6 / 20, rel=0.03)
    turned = numbers(ellipsoid(20, 12, 6).transpose(2, 0, 1))
    apart = {name for name in NUMBERS if not math.isclose(found[name], turned[name], rel_tol=1e-5)}
    assert apart == {"extent_x", "extent_y", "extent_z"}


def test_of_a_box() -> None:
    found = numbers(box(20, 16, 10))
    assert found["volume"] == 3200
    assert found["surface"] == pytest.approx(2 * (20 * 16 + 20 * 10 + 16 * 10), rel=0.12)  # its edges are rounded off
    assert [found[f"extent_{axis}"] for axis in "xyz"] == [20, 16, 10]
    assert found["filling"] == 1
    # A box of side s has a variance of s^2 / 12 along it, a full ellipsoid of semi-axis a one of a^2 / 5.
    assert found["axis_1"] == pytest.approx(20 * math.sqrt(5 / 12), rel=1e-6)
    assert found["depth_max"] == 4.5  # its middle lies between two voxels
    assert numbers(box(30, 30, 8))["depth_mean"] == pytest.approx(8 / 4, rel=0.2)  # of a plate a quarter of its width


def test_a_mask_that_touches_the_border_is_closed_there() -> None:
    inside, cut = box(12, 12, 12), np.ones((12, 12, 12), dtype=bool)
    assert numbers(cut) == pytest.approx(numbers(inside))


def test_pieces_and_single_voxels_and_nothing() -> None:
    two = box(6, 6, 6)
    two[20:24, 20:23, 20:23] = True
    assert numbers(two)["largest_piece"] == pytest.approx(216 / (216 + 36))
    single = numbers(box(1, 1, 1))
    assert np.isfinite(list(single.values())).all()
    assert single["volume"] == 1
    assert not any(numbers(np.zeros((8, 8, 8), dtype=bool)).values())


def rows(n: int, features: int, seed: int = 0) -> Tensor:
    """Rows with an offset, that vary the more the earlier the feature."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(5 + rng.normal(size=(n, features)) * 0.9 ** np.arange(features)).float()


def of_batches(data: Tensor, batch: int, count: int) -> Components:
    def again() -> Iterator[Tensor]:
        return iter(data.split(batch))

    return Components(again, count, seed=1)


@pytest.mark.parametrize("batch", [1, 16, 200])
def test_components_are_those_of_scikit_learn(batch: int) -> None:
    data = rows(200, 60)
    known = PCA(8, svd_solver="full").fit(data.double().numpy())
    found = of_batches(data, batch, 8)
    assert found.variances.numpy() == pytest.approx(known.explained_variance_, rel=0.01)
    overlap = np.abs(found.directions.double().numpy().T @ known.components_.T)
    assert np.diag(overlap)[:5] == pytest.approx(np.ones(5), abs=0.02)
    ours, theirs = found.of(data).numpy(), known.transform(data.double().numpy())
    assert np.abs(ours[:, 0]) == pytest.approx(np.abs(theirs[:, 0]), abs=0.05)


def test_there_are_no_more_components_than_rows_or_features_allow() -> None:
    assert of_batches(rows(5, 60), 2, 30).directions.shape == (60, 4)
    assert of_batches(rows(50, 3), 20, 30).directions.shape == (3, 3)
    with pytest.raises(ValueError, match="at least two"):
        of_batches(rows(1, 3), 1, 30)


def test_no_patient_is_on_both_sides_of_an_inner_fold() -> None:
    labels, patients = np.array([0, 0, 1, 1, 0, 1] * 6), np.arange(36) // 2
    folds = inner_folds(labels, patients, seed=0)
    assert len(folds) == 5
    for train, held_out in folds:
        assert not set(patients[train]) & set(patients[held_out])
        assert set(labels[train]) == {0, 1}
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(36))


def test_the_regularisation_is_what_the_features_ask_for() -> None:
    rng = np.random.default_rng(0)
    labels, patients = np.arange(80) % 2, np.arange(80)
    everywhere = rng.normal(size=(80, 40)) + labels[:, None]
    shared = 10 * rng.normal(size=80)
    in_a_small_difference = np.stack([shared, shared + labels], axis=1)
    chosen = [logistic.logistic(x, labels, patients, 0)[-1].C for x in (everywhere, in_a_small_difference)]
    assert chosen[0] == logistic.STRENGTHS[0]
    assert chosen[1] >= 1


def test_it_is_scikit_learns_on_standardised_features() -> None:
    rng = np.random.default_rng(1)
    labels, patients = np.arange(60) % 3, np.arange(60)
    x = rng.normal(size=(60, 5)) * [1, 10, 100, 1, 1] + labels[:, None]
    found = logistic.logistic(x, labels, patients, 0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    known = LogisticRegression(C=found[-1].C, class_weight="balanced", max_iter=10000, tol=1e-8).fit(z, labels)
    assert found.predict_proba(x) == pytest.approx(known.predict_proba(z), abs=5e-3)
