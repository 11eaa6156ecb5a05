"""Which of a stage's patients it is not trained on, because it asks for volumes that training has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxbench.datasets.base import Item

TRAINED_ON = 2  # volumes at least, as of any stage


def divided(
    items: Sequence[Item], members: Sequence[int], share: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`members` (positions in `items`) to train on, and those of about `share` of the patients, drawn by `seed`.

    One patient at least is held out; none where `share` is 0, or training would be left fewer than two volumes.
    """
    patients = list(dict.fromkeys(items[i].patient for i in members))
    count = max(1, round(share * len(patients))) if share > 0 else 0
    drawn = {patients[i] for i in np.random.default_rng(seed).permutation(len(patients))[:count]}
    train = tuple(i for i in members if items[i].patient not in drawn)
    if len(train) < TRAINED_ON:
        return tuple(members), ()
    return train, tuple(i for i in members if items[i].patient in drawn)
