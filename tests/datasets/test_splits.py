"""Splits between patients, and nested fractions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxbench.datasets.base import DatasetError, Item
from voxbench.datasets.splits import cross_validation, fraction_of, nested_order, official_fold


def cohort(patients: int, positive_share: float = 0.5, sides: int = 2, pool: int = 0) -> list[Item]:
    """Patients with `sides` volumes each; the first share of patients have one positive side."""
    items = [Item(volume=f"u{i}", patient=f"U{i}") for i in range(pool)]
    for p in range(patients):
        for s in range(sides):
            label = int(p < positive_share * patients and s == 0)
            items.append(Item(volume=f"p{p}-{s}", patient=f"P{p}", label=label))
    return items


def patients_of(items: list[Item], members: tuple[int, ...] | list[int]) -> set[str]:
    return {items[i].patient for i in members}


@settings(max_examples=25, deadline=None)
@given(patients=st.integers(20, 60), share=st.floats(0.3, 0.8), folds=st.integers(2, 5), seed=st.integers(0, 2**40))
def test_patients_are_in_one_part_and_tested_once(patients: int, share: float, folds: int, seed: int) -> None:
    items = cohort(patients, share, pool=7)
    parts = cross_validation(items, folds, 0.2, seed)
    tested: list[int] = []
    for fold in parts:
        train, val, test = (patients_of(items, part) for part in (fold.train, fold.val, fold.test))
        assert not train & val and not train & test and not val & test
        assert train and val and test
        assert not any(items[i].label is None for i in (*fold.train, *fold.val, *fold.test))
        assert len(fold.train) + len(fold.val) + len(fold.test) == 2 * patients
        tested += fold.test
    assert sorted(tested) == [i for i, item in enumerate(items) if item.label is not None]


def test_parts_have_about_the_classes_of_the_whole() -> None:
    items = cohort(120, 0.5)
    for fold in cross_validation(items, 5, 0.2, 3):
        for part in (fold.train, fold.val, fold.test):
            share = sum(items[i].label == 1 for i in part) / len(part)
            assert abs(share - 0.25) < 0.08


@pytest.mark.parametrize("seed", range(40))
def test_validation_has_a_rare_class_too(seed: int) -> None:
    """Five patients with an anomaly among 65, five folds: one to test, one to select, three to learn from."""
    items = cohort(65, 5 / 65)
    for fold in cross_validation(items, 5, 0.2, seed):
        for part in (fold.train, fold.val, fold.test):
            assert {items[i].label for i in part} == {0, 1}
        assert not patients_of(items, fold.train) & patients_of(items, fold.val)


def test_same_seed_same_split_and_another_seed_another() -> None:
    items = cohort(40)
    assert cross_validation(items, 3, 0.2, 1) == cross_validation(items, 3, 0.2, 1)
    assert cross_validation(items, 3, 0.2, 1) != cross_validation(items, 3, 0.2, 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), small=st.floats(0.05, 0.5), large=st.floats(0.5, 1.0))
def test_fractions_are_nested_whole_patients_and_near_their_size(seed: int, small: float, large: float) -> None:
    items = cohort(80)
    members = list(range(len(items)))
    few, many = fraction_of(items, members, small, seed), fraction_of(items, members, large, seed)
    assert set(few) <= set(many)
    for chosen, share in ((few, small), (many, large)):
        assert abs(len(chosen) - share * len(members)) <= 2
        assert {i for i in members if items[i].patient in patients_of(items, chosen)} == set(chosen)


def test_ten_percent_has_both_classes() -> None:
    items = cohort(100)
    for seed in range(30):
        labels = [items[i].label for i in fraction_of(items, list(range(200)), 0.1, seed)]
        assert 3 <= sum(1 for label in labels if label) <= 7


def test_least_gives_each_class_its_share_and_keeps_patients_whole() -> None:
    items = cohort(100)
    chosen = fraction_of(items, list(range(200)), 0.02, 5, least=10)
    labels = [items[i].label for i in chosen]
    assert labels.count(0) >= 10 and labels.count(1) >= 10
    assert len(chosen) < 60
    everything = fraction_of(items, list(range(200)), 0.02, 5, least=1000)
    assert len(everything) == 200


def test_order_does_not_depend_on_the_order_of_items() -> None:
    items = cohort(30)
    forward = [items[i].patient for i in nested_order(items, 9)]
    backward = [items[::-1][i].patient for i in nested_order(items[::-1], 9)]
    assert forward == backward


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([Item(volume="a", patient="A")], "no volume has a label"),
        ([Item(volume=str(i), patient=str(i), label=1) for i in range(9)], "one class"),
        (cohort(9, 0.2), r"class '(ill|well)' has \d: use fewer folds, add patients, or mend the label"),
    ],
)
def test_too_little_data_is_said_plainly(items: list[Item], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        cross_validation(items, 3, 0.2, 0, ("well", "ill"))


def test_official_split_needs_all_parts() -> None:
    items = [Item(volume=p, patient=p, label=0, split=p) for p in ("train", "test")]  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="'val'"):
        official_fold(items)
