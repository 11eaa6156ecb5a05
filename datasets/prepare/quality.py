"""Whether a registered head, and each of its sinuses, may be cropped: numbers first, then thresholds, then reasons.

Every threshold stands here and in docs/prepare.md, with the values measured on real heads and on spoilt copies of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxbench.datasets.prepare.limits import Limits
from voxbench.datasets.prepare.pyramid import Pyramid, Target, information
from voxbench.datasets.prepare.register import Registration
from voxbench.datasets.prepare.volume import Matrix, Volume, inside_scan, nearest_rotation, rotation_angle

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")

SINUS_RADII_MM = (14.0, 18.0, 18.0)  # of an ellipsoid about as large as an adult maxillary sinus
LATTICE_MM = 3.0
NEAR_MM = 34.0  # half a cube around the sinus in which tissue is looked for
MIN_EXPECTED = 60  # points of tissue that a sector of the reference must have to be judged


@dataclass(frozen=True)
class HeadFigures:
    """How well the reference lies on a head."""

    information: float  # nats of mutual information, reference with scan
    covered: float  # share of the reference head inside the scan
    stretches: tuple[float, float, float]  # principal stretches, large to small
    turn: float  # degrees between the head and what the affine states
    mirrored: bool  # negative determinant


@dataclass(frozen=True)
class SideFigures:
    """What lies around one sinus."""

    centre: tuple[float, float, float]  # world mm
    inside: float  # share of the sinus inside the scan
    covered: float  # share of its surroundings inside the scan
    tissue: float  # share of expected tissue found there
    sectors: dict[str, float]  # the same in front, behind, lateral, medial, below, above, where judged
    likeness: float  # nats of mutual information with the reference around this sinus alone
    agreement: float  # mm between two registrations


def head_figures(registration: Registration) -> HeadFigures:
    """Figures of the whole head."""
    linear = registration.transform[:3, :3]
    stretches = np.linalg.svd(linear, compute_uv=False)
    return HeadFigures(
        information=registration.information,
        covered=registration.covered,
        stretches=(float(stretches[0]), float(stretches[1]), float(stretches[2])),
        turn=rotation_angle(nearest_rotation(linear)),
        mirrored=bool(np.linalg.det(linear) <= 0),
    )


def apply(transform: Matrix, points: Matrix) -> Matrix:
    """Move world points [N, 3]."""
    return np.asarray(points @ transform[:3, :3].T + transform[:3, 3])


def sinus_points(centre: Matrix) -> Matrix:
    """A lattice that fills the sinus of the reference, world mm [N, 3]."""
    axes = [np.arange(-r, r + 1e-9, LATTICE_MM) for r in SINUS_RADII_MM]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(lattice[np.sum((lattice / SINUS_RADII_MM) ** 2, axis=1) <= 1] + centre)


def surroundings(target: Target, centre: Matrix, side: Side) -> tuple[Matrix, dict[str, npt.NDArray[np.bool_]]]:
    """Points of reference tissue around a sinus, world mm [N, 3], and which sector(s) each lies in."""
    axis = np.arange(-NEAR_MM, NEAR_MM + 1e-9, LATTICE_MM)
    lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lattice = lattice[np.sum((lattice / SINUS_RADII_MM) ** 2, axis=1) > 1.2]
    values, inside = target.pyramid.fine.sample(lattice + centre)
    kept = lattice[inside & (values > target.pyramid.threshold)]
    out = kept * np.array([-1.0 if side == "left" else 1.0, 1.0, 1.0])  # x grows to the outside
    reach = out / np.array(SINUS_RADII_MM)
    main = np.argmax(np.abs(reach), axis=1)
    sectors = {
        name: (main == axis_of) & (np.sign(reach[:, axis_of]) == sign)
        for name, axis_of, sign in (
            ("lateral", 0, 1), ("medial", 0, -1), ("front", 1, 1), ("behind", 1, -1), ("above", 2, 1), ("below", 2, -1),
        )
    }  # fmt: skip
    sectors["lower"] = out[:, 2] < -LATTICE_MM / 2  # a scan cut through the sinus and filled up with zeros lacks these
    return kept + centre, sectors


def side_figures(
    target: Target,
    scan: Volume,
    pyramid: Pyramid,
    found: Registration,
    centre: Matrix,
    side: Side,
) -> SideFigures:
    """Figures of one sinus; `centre` in the reference's mm."""
    transform = found.transform
    points, sectors = surroundings(target, centre, side)
    values, inside = pyramid.fine.sample(apply(transform, points))
    tissue = values > pyramid.threshold
    judged = {name: inside & at for name, at in sectors.items()}
    sinus = apply(transform, sinus_points(centre))
    here = apply(transform, centre[None])[0]
    return SideFigures(
        centre=(float(here[0]), float(here[1]), float(here[2])),
        inside=float(np.mean(inside_scan(scan, sinus, filled=True) & pyramid.fine.sample(sinus)[1])),
        covered=float(inside.mean()),
        tissue=float(tissue[inside].mean()) if inside.any() else 0.0,
        sectors={name: float(tissue[at].mean()) for name, at in judged.items() if at.sum() >= MIN_EXPECTED},
        likeness=local_information(target, pyramid, transform, centre),
        agreement=found.apart[SIDES.index(side)],
    )


def local_information(target: Target, pyramid: Pyramid, transform: Matrix, centre: Matrix) -> float:
    """Mutual information (nats) of reference and scan in the cube around one sinus, tissue and air."""
    near = np.all(np.abs(target.points - centre) <= NEAR_MM, axis=1)
    return information(target.points[near], target.values[near], pyramid.middle, transform)[0]


def judge_head(figures: HeadFigures, limits: Limits) -> list[str]:
    """Why the whole head must be refused; empty = it may be taken."""
    reasons = []
    low, high = limits.scale
    if figures.information < limits.information:
        reasons.append(
            f"registration failed: {figures.information:.2f} nats of mutual information with the reference, "
            f"at least {limits.information:.2f} are needed"
        )
    if figures.mirrored or figures.stretches[2] < low or figures.stretches[0] > high:
        shown = ", ".join(f"{s:.2f}" for s in figures.stretches)
        reasons.append(f"registration failed: stretches {shown} are no head's (allowed {low:.2f} to {high:.2f})")
    elif figures.stretches[0] / figures.stretches[2] > limits.stretch_ratio:
        reasons.append(
            f"registration failed: the head is {figures.stretches[0] / figures.stretches[2]:.2f} times as long "
            f"in one direction as in another, compared with the reference (allowed {limits.stretch_ratio:.2f})"
        )
    if figures.turn > limits.turn:
        reasons.append(
            f"the head is turned by {figures.turn:.0f} degrees against the affine, which an axis stored the wrong way "
            "round would look like too: left and right are not certain; correct the affine, or raise --max-turn"
        )
    return reasons


def judge_side(figures: SideFigures, limits: Limits) -> list[str]:
    """Why one sinus must be refused; empty = it may be taken."""
    reasons = []
    if figures.inside < limits.inside:
        reasons.append(
            f"only {figures.inside:.0%} of the sinus lies inside the scan (at least {limits.inside:.0%} are needed)"
        )
    if figures.likeness < limits.likeness:
        reasons.append(
            f"around the sinus, scan and reference share {figures.likeness:.2f} nats (at least {limits.likeness:.2f}): "
            "misplaced, or a blurred or removed face?"
        )
    if figures.agreement > limits.agreement:
        reasons.append(
            f"two registrations place the sinus {figures.agreement:.0f} mm apart (allowed {limits.agreement:.0f})"
        )
    if figures.tissue < limits.tissue:
        reasons.append(
            f"only {figures.tissue:.0%} of the tissue around the sinus is there (at least {limits.tissue:.0%}): "
            "defaced or skull-stripped?"
        )
    thin = [f"{share:.0%} {WHERE[name]}" for name, share in figures.sectors.items() if share < limits.sector]
    if thin:
        reasons.append(
            f"too little of the tissue is there ({', '.join(thin)} the sinus; at least {limits.sector:.0%}): "
            "defaced, skull-stripped or cut off?"
        )
    return reasons


WHERE = {
    "lateral": "lateral to", "medial": "medial to", "front": "in front of",
    "behind": "behind", "lower": "beside the lower half of", "above": "above", "below": "below",
}  # fmt: skip


def as_record(figures: HeadFigures | SideFigures) -> dict[str, object]:
    """Figures as JSON, rounded to what they are worth."""

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return round(value, 4)
        if isinstance(value, tuple):
            return [rounded(v) for v in value]
        return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {key: rounded(value) for key, value in asdict(figures).items()}
