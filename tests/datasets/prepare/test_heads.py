"""Real heads: where the sinuses are found, and what is refused. Skipped where the heads are absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from voxbench.datasets.prepare.command import PrepareOptions
from voxbench.datasets.prepare.limits import Limits
from voxbench.datasets.prepare.pyramid import Target, make_pyramid, make_target
from voxbench.datasets.prepare.quality import (
    SIDES,
    apply,
    head_figures,
    judge_head,
    judge_side,
    side_figures,
)
from voxbench.datasets.prepare.register import PEAKS, SCALES, STEP_MM, Registration, compete, register
from voxbench.datasets.prepare.starts import distinct, quarter_orientations, starts
from voxbench.datasets.prepare.volume import Matrix, Volume, read_volume, to_grid

from . import heads
from .heads import CENTROIDS, HEADS

pytestmark = pytest.mark.skipif(not heads.REFERENCE.is_file(), reason=heads.WHY_ABSENT)


Laid = Callable[[str], Registration]


@cache
def target() -> Target:
    return make_target(to_grid(read_volume(heads.REFERENCE), 2.0))


def lay(volume: Volume) -> Registration:
    return register(target(), make_pyramid(to_grid(volume, 2.0)), CENTROIDS, seed=0)


@pytest.fixture(scope="module")
def laid(prepared: PrepareOptions) -> Laid:
    """The registration of a head, made once; that of the T2 (with a lesion planted) is taken from `bench prepare`."""

    @cache
    def make(name: str) -> Registration:
        return recorded(prepared, name) if name == "t2" else lay(HEADS[name].read())

    return make


def recorded(prepared: PrepareOptions, name: str) -> Registration:
    """What `bench prepare` found."""
    shape = list(HEADS[name].read().data.shape)
    records = [json.loads(path.read_text()) for path in (prepared.out / "heads").glob("*.json")]
    found = next(record["position"] for record in records if record["shape"] == shape)
    return Registration(np.array(found["transform"]), found["information"], found["covered"], tuple(found["apart"]))


def refusals(volume: Volume, found: Registration) -> list[list[str]]:
    """Reasons for left and right."""
    whole = judge_head(head_figures(found), Limits())
    pyramid = make_pyramid(to_grid(volume, 2.0))
    figures = [side_figures(target(), volume, pyramid, found, c, s) for c, s in zip(CENTROIDS, SIDES, strict=True)]
    return [whole + judge_side(side, Limits()) for side in figures]


def distances(found: Registration, known: Matrix) -> Matrix:
    return np.asarray(np.linalg.norm(apply(found.transform, CENTROIDS) - known, axis=1))


@pytest.mark.parametrize("name", HEADS)
def test_five_heads_within_10_mm(name: str, laid: Laid) -> None:
    """Left to left, right to right, also where the sinus is cut and the centroid is that of its visible part."""
    assert distances(laid(name), np.array(HEADS[name].centroids)).max() < 10


@pytest.mark.parametrize("name", HEADS)
def test_defaced_and_cut_heads_are_refused_and_no_other(name: str, laid: Laid) -> None:
    reasons = refusals(HEADS[name].read(), laid(name))
    if name == "flair":  # its publisher defaced it
        assert all("in front of" in " ".join(side) for side in reasons), reasons
    elif name == "colin27":  # its lower edge runs through the sinus floor
        assert all("inside the scan" in side[0] for side in reasons), reasons
    else:
        assert reasons == [[], []]


def test_patient_on_the_side_is_found_and_left_stays_left() -> None:
    volume = heads.thick(HEADS["colin27"].read(), 2)
    degrees = (10.0, 80.0, 0.0)
    turned = heads.turned(volume, degrees)
    scan, centre = make_pyramid(to_grid(turned, 2.0)), target().points.mean(axis=0)
    begin = starts(target(), scan, quarter_orientations(), step=STEP_MM, scales=SCALES, peaks=PEAKS)
    _, transform = compete(target(), scan, distinct(begin, 4, centre), fine=1, seed=0)
    found = Registration(transform, 0.6, 0.9, (0.0, 0.0))
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    assert distances(found, np.array(HEADS["colin27"].centroids) @ turn.T).max() < 10
    assert head_figures(found).turn == pytest.approx(80, abs=6)


def test_upside_down_is_refused_since_an_axis_may_be_mirrored(laid: Laid) -> None:
    turn = np.diag([-1.0, 1.0, -1.0, 1.0])
    found = Registration(turn @ laid("t2").transform, 0.6, 0.9, (0.0, 0.0))
    assert any("left and right are not certain" in reason for reason in judge_head(head_figures(found), Limits()))


@pytest.mark.parametrize("name", ["t2", "ct"])
def test_defaced_and_stripped_and_cut_heads_are_refused(name: str, laid: Laid) -> None:
    """The spoilt copies are judged where the whole head lies: what is refused is the spoiling, not a bad fit."""
    volume, found = HEADS[name].read(), laid(name)
    centre = np.mean(HEADS[name].centroids, axis=0)
    assert all("tissue" in " ".join(r) for r in refusals(heads.defaced(volume, centre), found))
    assert all("tissue" in " ".join(r) for r in refusals(heads.stripped(volume, found.transform), found))
    assert all("inside the scan" in " ".join(r) for r in refusals(heads.cut_below(volume, centre), found))
    assert all("inside the scan" in " ".join(r) for r in refusals(heads.blanked_below(volume, centre), found))


def test_same_seed_same_transform(prepared: PrepareOptions, laid: Laid) -> None:
    """The same scan twice, by `bench prepare` and by hand."""
    np.testing.assert_array_equal(recorded(prepared, "ct").transform, laid("ct").transform)
