"""Residual-SSL without a label: its autoencoder learns the whole unlabelled pool, which is mostly normal."""

from __future__ import annotations

from typing import ClassVar, Literal

from voxbench.methods.base import Options
from voxbench.methods.residual import Residual, ResidualOptions


class ResidualPoolOptions(ResidualOptions):
    """Those of `residual`, less the choice that the name stands for."""

    prior_cohort: Literal["pool"] = "pool"


class ResidualPool(Residual):
    """`residual` with `prior_cohort=pool`, as a row of its own beside it."""

    Options: ClassVar[type[Options]] = ResidualPoolOptions
    name: ClassVar[str] = "residual-pool"
    about: ClassVar[str] = "residual-SSL whose autoencoder learns the unlabelled pool, and spends no label"
    variant: ClassVar[bool] = True
