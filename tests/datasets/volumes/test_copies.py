"""Copies are found however they were moved, and different people are not called copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.volumes.copies import BLOCKS, Copy, _candidates, find_copies
from voxbench.datasets.volumes.likeness import _Features
from voxbench.datasets.volumes.poses import FLIPS, draw_poses, posed
from voxbench.datasets.volumes.registration import edge_likeness, register

PATIENTS = 40
LIKENESS = 0.92


@pytest.fixture(scope="module")
def phantoms() -> torch.Tensor:
    data = SinusPhantom(SinusPhantom.Options(patients=PATIENTS, pool_patients=0, seed=3))
    return torch.from_numpy(np.stack([data.read(item)[0] for item in data.items()]))


def found(volumes: torch.Tensor, patients: Sequence[str]) -> list[Copy]:
    blocks = F.adaptive_avg_pool3d(volumes[:, None], BLOCKS)[:, 0]
    copies = find_copies(blocks, patients, lambda rows: volumes[list(rows)][:, None], volumes.shape[1:])
    return [copy for copy in copies if copy.likeness >= LIKENESS]


CHANGES: dict[str, Callable[[torch.Tensor, np.random.Generator], torch.Tensor]] = {
    "shifted": lambda v, rng: posed(v, draw_poses(len(v), rng, shift=0.1, extreme=True)),
    "shifted into black": lambda v, rng: posed(v, draw_poses(len(v), rng, shift=0.1, extreme=True), "zeros"),
    "turned": lambda v, rng: posed(v, draw_poses(len(v), rng, degrees=15, extreme=True)),
    "rescaled": lambda v, rng: posed(v, draw_poses(len(v), rng, scale=1.25, extreme=True)),
    "flipped": lambda v, rng: posed(v, draw_poses(len(v), rng, flips=True)),
    "brighter": lambda v, rng: v**0.6,
    "by a voxel": lambda v, rng: torch.roll(v, 1, dims=2),
}


def test_moved_copies_are_found_and_nobody_else(phantoms: torch.Tensor) -> None:
    rng = np.random.default_rng(0)
    origin, made = list(range(len(phantoms))), [phantoms]
    for number, change in enumerate(CHANGES.values()):  # of every volume one copy at most
        sources = range(number, len(phantoms), len(CHANGES))
        made.append(change(phantoms[list(sources)], rng))
        origin += sources
    people = [f"P{i // 2}" for i in range(len(phantoms))] + [f"copy {i}" for i in origin[len(phantoms) :]]
    got = {(copy.a, copy.b) for copy in found(torch.cat(made), people)}
    assert not {(a, b) for a, b in got if origin[a] // 2 != origin[b] // 2}, "different patients"
    caught = sum((origin[row], row) in got for row in range(len(phantoms), len(origin)))
    assert caught >= 0.95 * len(phantoms)


class OnALine:
    """Volumes that differ in one number, and more so turned round."""

    def __init__(self, places: torch.Tensor) -> None:
        self.places = places

    def of(self, rows: slice, flip: int, others: slice) -> torch.Tensor:
        return -((self.places[rows, None] - self.places[others]) ** 2) - 1e4 * flip


@pytest.mark.parametrize("turned", [False, True])
def test_a_pair_is_looked_at_if_either_is_near_the_other(turned: bool) -> None:
    """The copy lies apart from all, and its origin, the nearest to it, has a crowd that is nearer."""
    places = torch.cat([torch.linspace(0, 1, 400), torch.tensor([9.0])])
    origin, copy = 399, 400
    if turned:
        places, origin, copy = places.flip(0), 1, 0
    people = [str(i) for i in range(401)]
    looked_at = _looked_at(places, people)
    assert (min(origin, copy), max(origin, copy)) in looked_at
    assert len(set(looked_at)) == len(looked_at) < 5 * 401, "no pair twice"
    people[copy] = people[origin]
    assert (min(origin, copy), max(origin, copy)) not in _looked_at(places, people)


def _looked_at(places: torch.Tensor, people: Sequence[str]) -> list[tuple[int, int]]:
    return [
        (min(row, other), max(row, other))
        for rows, others, _ in _candidates(OnALine(places), people)  # type: ignore[arg-type]
        for row, line in zip(rows.tolist(), others.tolist(), strict=True)
        for other in line
    ]


def test_what_one_patient_has_twice_is_no_copy(phantoms: torch.Tensor) -> None:
    twice = torch.cat([phantoms[:6], phantoms[:3]])
    assert not found(twice, ["A", "B", "C", "D", "E", "F", "A", "B", "C"])
    assert [(copy.a, copy.b) for copy in found(twice, list("ABCDEFXBC"))] == [(0, 6)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_or_empty_volumes_have_no_copies(number: int) -> None:
    assert not found(torch.zeros(number, 20, 20, 20), [str(i) for i in range(number)])


def test_what_is_no_cube_and_has_few_voxels(phantoms: torch.Tensor) -> None:
    slabs = F.adaptive_avg_pool3d(phantoms[:24:2, None], (28, 28, 14))[:, 0]
    aspect = (1.0, 1.0, 0.5)
    turned = posed(slabs[:2], draw_poses(2, np.random.default_rng(1), degrees=12, extreme=True, aspect=aspect))
    got = found(torch.cat([slabs, turned]), [str(i) for i in range(14)])
    assert {(copy.a, copy.b) for copy in got if copy.b >= 12} == {(0, 12), (1, 13)}


def test_registration_brings_back_what_was_moved(phantoms: torch.Tensor) -> None:
    fixed = phantoms[:4]
    poses = draw_poses(4, np.random.default_rng(2), shift=0.05, degrees=8, scale=1.1)
    moved = posed(fixed, poses)
    back, reached = register(fixed, moved[:, None], 6)
    assert reached.min() > 0.9
    whole = torch.zeros(4, 4, 4)
    whole[:, :3], whole[:, 3, 3] = back[:, 0], 1
    there = poses @ whole  # to the moved volume's coordinates, and from there to the fixed one's
    assert torch.allclose(there[:, :, :3], torch.eye(3).expand(4, 3, 3), atol=0.03)
    assert there[:, :, 3].abs().max() < 0.03
    assert edge_likeness(fixed, moved, back[:, 0]).min() > LIKENESS
    assert edge_likeness(fixed, phantoms[20:24], back[:, 0]).max() < LIKENESS


@pytest.mark.parametrize("flip", FLIPS)
def test_features_of_a_mirror_image_are_rearranged(flip: tuple[int, ...]) -> None:
    blocks = torch.from_numpy(np.random.default_rng(4).random((3, BLOCKS, BLOCKS, BLOCKS), dtype=np.float32))
    mirrored = blocks.flip([axis + 1 for axis in flip])
    torch.testing.assert_close(_Features(blocks).rows(flip), _Features(mirrored).rows(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [16, 32])
def test_black_beyond_a_rim_is_no_edge_of_the_volume(phantoms: torch.Tensor, size: int) -> None:
    """Whichever of the two was cut off."""
    whole = F.adaptive_avg_pool3d(phantoms[:8, None], size)[:, 0]
    shifted = posed(phantoms[:8], draw_poses(8, np.random.default_rng(4), shift=0.1, extreme=True), "zeros")
    cut = F.adaptive_avg_pool3d(shifted[:, None], size)[:, 0]
    for fixed, moving in ((whole, cut), (cut, whole)):
        poses, _ = register(fixed, moving[:, None], 5)
        assert edge_likeness(fixed, moving, poses[:, 0]).min() > 0.93
