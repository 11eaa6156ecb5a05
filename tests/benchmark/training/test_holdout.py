"""Volumes that a stage is not trained on: whole patients, drawn by the seed."""

from __future__ import annotations

import pytest

from voxbench.benchmark.training.holdout import divided
from voxbench.datasets.base import Item

ITEMS = tuple(Item(volume=f"v{i}", patient=f"p{i // 2}") for i in range(40))  # two of each patient


@pytest.mark.parametrize(("share", "patients"), [(0.2, 4), (0.01, 1), (0.5, 10)])
def test_patients_are_held_out_whole(share: float, patients: int) -> None:
    members = tuple(range(3, 40))  # of the first patient one volume
    train, held_out = divided(ITEMS, members, share, 5)
    assert sorted(train + held_out) == list(members)
    assert not {ITEMS[i].patient for i in train} & {ITEMS[i].patient for i in held_out}
    assert len({ITEMS[i].patient for i in held_out}) == patients
    assert divided(ITEMS, members, share, 5) == (train, held_out)
    assert divided(ITEMS, members, share, 6) != (train, held_out)


def test_none_where_none_is_asked_for_or_too_few_would_be_left() -> None:
    assert divided(ITEMS, (1, 2, 3), 0.0, 0) == ((1, 2, 3), ())
    assert divided(ITEMS, (0, 1), 0.5, 0) == ((0, 1), ())  # one patient
    assert divided(ITEMS, (0, 2), 0.5, 0) == ((0, 2), ())  # one volume would be left
