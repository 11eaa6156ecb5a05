"""From what a stage asks for to how the loader makes it, and from what the loader draws to what a loss is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxbench.datasets.views.loader import Draw, Loader, Look
from voxbench.datasets.views.policies import policies
from voxbench.methods.base import Batch, Stage

Strengths = Mapping[str, Mapping[str, Any]]  # policy -> key -> value


def looks(augmentation: Strengths, stage: Stage) -> tuple[Look, ...]:
    """The views of a stage; a view's own strengths are laid over the configuration's."""
    made = []
    for view in stage.looks:
        own = {**augmentation.get(view.augmentation, {}), **view.strengths}
        made.append(Look(policy=policies({view.augmentation: own})[view.augmentation], size=view.size))
    return tuple(made)


def batch_of(draw: Draw, loader: Loader, progress: float = 0.0) -> Batch:
    """A loss's view of a draw."""
    patients = loader.patients
    return Batch(
        views=draw.views,
        target=draw.target,
        rng=draw.rng,
        clean=draw.clean,
        progress=progress,
        items=draw.rows,
        patients=tuple(patients[row] for row in draw.rows),
        size=len(loader.members),
    )
