"""Thresholds beyond which a sinus is refused; what real heads had is in docs/prepare.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Thresholds of refusal."""

    information: float = 0.46  # nats
    scale: tuple[float, float] = (0.70, 1.25)  # principal stretches of reference -> head
    stretch_ratio: float = 1.35  # largest over smallest principal stretch
    turn: float = 120.0  # degrees against the affine
    agreement: float = 8.0  # mm between two independent registrations, at the sinus
    inside: float = 0.85  # share of the sinus inside the scan
    tissue: float = 0.50  # share of the reference's tissue around the sinus, where scanned, that is tissue there too
    sector: float = 0.55  # the same in each direction
    likeness: float = 0.53  # nats of mutual information around the sinus alone
