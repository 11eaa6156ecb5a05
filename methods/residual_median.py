"""Residual-SSL with a prior that needs no training: the voxelwise median image of the normals."""

from __future__ import annotations

from typing import ClassVar, Literal

from voxbench.methods.base import Options
from voxbench.methods.residual import Residual, ResidualOptions


class ResidualMedianOptions(ResidualOptions):
    """Those of `residual`, less the choice that the name stands for."""

    prior: Literal["median-image"] = "median-image"


class ResidualMedian(Residual):
    """`residual` with `prior=median-image`, as a row of its own beside it."""

    Options: ClassVar[type[Options]] = ResidualMedianOptions
    name: ClassVar[str] = "residual-median"
    about: ClassVar[str] = "residual-SSL against the median image of normals: a prior without training"
    variant: ClassVar[bool] = True
