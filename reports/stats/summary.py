"""Mean and standard deviation over replicates (folds x seeds)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """`std` is the sample standard deviation (n - 1 below the line); NaN for fewer than two replicates."""

    mean: float
    std: float
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Of finite values; no value at all gives NaN and n = 0."""
    if not values:
        return Summary(math.nan, math.nan, 0)
    return Summary(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))
