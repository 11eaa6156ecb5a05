"""The embedded phantom: deterministic, labelled as it says, and nothing but the finding tells the label."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from voxbench.datasets.base import DatasetError, Item
from voxbench.datasets.sinus.anatomy import ellipsoid, soft
from voxbench.datasets.sinus.findings import SHARES, wall_point
from voxbench.datasets.sinus.phantom import SinusPhantom, SinusPhantomOptions, picture


def make(**changes: float) -> SinusPhantom:
    return SinusPhantom(SinusPhantomOptions.model_validate(changes))


@pytest.fixture(scope="module")
def phantom() -> SinusPhantom:
    return make(patients=40, pool_patients=5)


@pytest.fixture(scope="module")
def labelled(phantom: SinusPhantom) -> list[Item]:
    return [item for item in phantom.items() if item.label is not None]


@pytest.fixture(scope="module")
def volumes(phantom: SinusPhantom, labelled: list[Item]) -> np.ndarray:
    return np.stack([phantom.read(item)[0] for item in labelled])


def read_bytes(volume: str) -> bytes:
    phantom = make(patients=40, pool_patients=5)
    return phantom.read(next(item for item in phantom.items() if item.volume == volume)).tobytes()


def test_default_cohort_is_the_documented_one() -> None:
    items = make().items()
    labelled = [item for item in items if item.label is not None]
    pool = [item for item in items if item.label is None]
    assert (len(labelled), len(pool)) == (400, 600)
    assert len({item.volume for item in items}) == len(items)
    assert not {item.patient for item in labelled} & {item.patient for item in pool}
    assert all(item.finding is None for item in pool)
    assert Counter(Counter(item.patient for item in items).values()) == {2: 500}


def test_volumes_do_not_depend_on_order_or_process(labelled: list[Item], volumes: np.ndarray) -> None:
    phantom = make(patients=40, pool_patients=5)
    for index in (7, 3, 0):
        assert phantom.read(labelled[index])[0].tobytes() == volumes[index].tobytes()
    names = [item.volume for item in labelled[:3]]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(read_bytes, names)) == [volume.tobytes() for volume in volumes[:3]]


def test_more_patients_leave_the_first_as_they_are(phantom: SinusPhantom, labelled: list[Item]) -> None:
    larger = make(patients=60, pool_patients=0)
    assert list(larger.items()[: len(labelled)]) == labelled
    assert np.array_equal(larger.read(labelled[5]), phantom.read(labelled[5]))


@pytest.mark.parametrize("size", [32, 48, 64])
def test_shape_range_and_type(size: int) -> None:
    phantom = make(patients=2, pool_patients=1, size=size)
    for item in phantom.items():
        volume = phantom.read(item)
        assert volume.shape == phantom.shape == (1, size, size, size)
        assert volume.dtype == np.float32
        assert np.isfinite(volume).all()
        assert volume.min() == 0.0
        assert volume.max() == 1.0


def test_size_changes_the_grid_and_not_the_anatomy() -> None:
    coarse, fine = make(patients=3, noise=0), make(patients=3, size=64, noise=0)
    for item in coarse.items()[:6]:
        pooled = fine.read(item)[0].reshape(32, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
        assert np.corrcoef(pooled.ravel(), coarse.read(item).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("patients", [50, 200, 1000])
def test_prevalence_holds_for_any_seed_and_size(seed: int, patients: int) -> None:
    items = make(seed=seed, patients=patients, pool_patients=0).items()
    assert np.mean([item.label or 0 for item in items]) == pytest.approx(0.54, abs=0.03)


def test_findings_have_their_frequencies_and_agree_with_labels() -> None:
    items = make(patients=2000, pool_patients=0).items()
    assert {(item.finding == "normal", item.label) for item in items} == {(True, 0), (False, 1)}
    counts = Counter(item.finding for item in items if item.label == 1)
    for finding, share in SHARES.items():
        assert counts[finding] / counts.total() == pytest.approx(share, abs=0.03)


def test_sides_of_a_patient_share_findings_more_often_than_chance() -> None:
    items = make(patients=2000, pool_patients=0).items()
    left, right = items[0::2], items[1::2]
    assert all(
        a.patient == b.patient and (a.side, b.side) == ("left", "right") for a, b in zip(left, right, strict=True)
    )
    assert np.corrcoef([a.label or 0 for a in left], [b.label or 0 for b in right])[0, 1] > 0.25
    kinds = [(a.finding, b.finding) for a, b in zip(left, right, strict=True) if a.label and b.label]
    by_chance = sum(share**2 for share in SHARES.values())
    assert np.mean([a == b for a, b in kinds]) > by_chance + 0.15


def test_sides_of_a_patient_look_alike(volumes: np.ndarray) -> None:
    correlation = np.corrcoef(volumes.reshape(len(volumes), -1))
    within = np.array([correlation[i, i + 1] for i in range(0, len(volumes), 2)])
    between = np.array([correlation[i, (i + 3) % len(volumes)] for i in range(0, len(volumes), 2)])
    assert within.mean() > between.mean() + 0.05


def test_no_two_volumes_are_near_duplicates(volumes: np.ndarray) -> None:
    correlation = np.corrcoef(volumes.reshape(len(volumes), -1))
    assert (correlation - np.eye(len(volumes))).max() < 0.99


def test_mask_is_empty_only_where_nothing_was_found(phantom: SinusPhantom, labelled: list[Item]) -> None:
    for item in labelled:
        mask = phantom.lesion_mask(item)
        assert mask is not None
        assert mask.shape == phantom.shape[1:]
        assert mask.any() == (item.label == 1), item
    assert phantom.lesion_mask(phantom.items()[-1]) is None


def test_a_finding_changes_the_volume_where_its_mask_is() -> None:
    phantom = make(patients=20, pool_patients=0, noise=0)
    for item in phantom.items():
        change = np.abs(phantom.read(item) - phantom.read_without_finding(item))[0]
        mask = phantom.lesion_mask(item)
        assert mask is not None
        if item.label == 0:
            assert change.max() == 0.0
        else:
            assert change[mask].mean() > 5 * change[~mask].mean(), item


def test_only_the_finding_knows_the_label(phantom: SinusPhantom, labelled: list[Item]) -> None:
    """Without findings, the classes are one population: summaries differ no more than by chance."""
    healthy = np.stack([phantom.read_without_finding(item)[0] for item in labelled])
    label = np.array([item.label for item in labelled])
    summaries = [healthy.mean((1, 2, 3)), healthy.std((1, 2, 3)), *np.moveaxis(healthy, 0, -1).mean((0, 1))]
    summaries += [np.abs(np.diff(healthy, axis=a)).mean((1, 2, 3)) for a in (1, 2, 3)]
    rng = np.random.default_rng(0)

    def largest(labels: np.ndarray) -> float:
        return max(abs(float(np.corrcoef(summary, labels)[0, 1])) for summary in summaries)

    # Both sides of a patient move together: they are one draw of the null distribution.
    shuffled = [label.reshape(-1, 2)[rng.permutation(len(label) // 2)].ravel() for _ in range(200)]
    assert largest(label) < np.quantile([largest(labels) for labels in shuffled], 0.99)


def test_every_option_changes_the_fingerprint() -> None:
    other = {
        "patients": 9,
        "pool_patients": 9,
        "size": 48,
        "seed": 9,
        "extent": 0.9,
        "noise": 0.9,
        "jitter": 0.9,
    }
    assert set(other) == set(SinusPhantomOptions.model_fields)
    prints = {make(**{key: value}).fingerprint() for key, value in other.items()} | {make().fingerprint()}
    assert len(prints) == len(other) + 1
    assert make().fingerprint() == make(size=32).fingerprint()


@pytest.mark.parametrize("key", ["seed", "extent", "noise", "jitter"])
def test_every_knob_changes_a_volume(key: str) -> None:
    base, moved = make(patients=4, pool_patients=0), make(patients=4, pool_patients=0, **{key: 2})
    assert any(not np.array_equal(base.read(item), moved.read(item)) for item in base.items())


@pytest.mark.parametrize("volume", ["P0040-left", "U0005-left", "P0001-middle", "scan.nii.gz"])
def test_unknown_volume_is_refused(phantom: SinusPhantom, volume: str) -> None:
    with pytest.raises(DatasetError, match="take items from items"):
        phantom.read(Item(volume=volume, patient="P0001"))


@pytest.mark.parametrize("bad", [{"patients": 0}, {"size": 8}, {"noise": -1}, {"colour": 1}])
def test_bad_options_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        make(**bad)


def test_wall_point_lies_on_the_wall() -> None:
    axis = np.linspace(-10, 10, 41, dtype=np.float32)
    grid = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = ellipsoid(grid, (0.0, 0.0, 0.0), (6.0, 6.0, 6.0))
    towards = np.array([0.6, 0.0, -0.8])
    assert wall_point(ball, grid, towards) == pytest.approx(6.0 * towards, abs=0.6)


def test_soft_edges_keep_the_volume_of_a_ball() -> None:
    axis = np.arange(-12, 12, dtype=np.float32) + 0.3
    ball = ellipsoid(np.meshgrid(axis, axis, axis, indexing="ij"), (0, 0, 0), (8, 8, 8))
    assert soft(ball, 1.0).sum() == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.01)


def test_picture_is_written(tmp_path: Path) -> None:
    picture(tmp_path / "phantom.png", size=32)
    assert (tmp_path / "phantom.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
