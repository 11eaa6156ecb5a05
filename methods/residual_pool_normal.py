"""Residual-SSL whose autoencoder learns the unlabelled pool and the labelled normals together."""

from __future__ import annotations

from typing import ClassVar, Literal

from voxbench.methods.base import Options
from voxbench.methods.residual import Residual, ResidualOptions


class ResidualPoolNormalOptions(ResidualOptions):
    """Those of `residual`, less the choice that the name stands for."""

    prior_cohort: Literal["pool+normal"] = "pool+normal"


class ResidualPoolNormal(Residual):
    """`residual` with `prior_cohort=pool+normal`, as a row of its own beside it."""

    Options: ClassVar[type[Options]] = ResidualPoolNormalOptions
    name: ClassVar[str] = "residual-pool-normal"
    about: ClassVar[str] = "residual-SSL whose autoencoder learns the unlabelled pool and the normals"
    variant: ClassVar[bool] = True
