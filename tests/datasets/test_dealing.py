"""Every fold tests every class wherever that is possible at all, however uneven the patients."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from voxbench.datasets import splits
from voxbench.datasets.base import DatasetError, Item
from voxbench.datasets.dealing import dealt
from voxbench.datasets.splits import Fold, cross_validation, fraction_of, nested_order

Cohort = list[list[int]]  # for each patient the labels of his volumes

ONE_CROP_OR_TWENTY = st.sampled_from([1, 1, 1, 2, 3, 20])


def items_of(cohort: Cohort) -> list[Item]:
    return [
        Item(volume=f"p{p}-{k}", patient=f"P{p}", label=label)
        for p, labels in enumerate(cohort)
        for k, label in enumerate(labels)
    ]


@st.composite
def single(draw: st.DrawFn) -> tuple[Cohort, int]:
    """Patients of one class each, at least as many a class as there are folds, and the number of folds."""
    folds, classes = draw(st.integers(3, 5)), draw(st.integers(2, 4))
    sizes = st.lists(ONE_CROP_OR_TWENTY, min_size=folds, max_size=folds + 3)
    cohort = [[label] * size for label in range(classes) for size in draw(sizes)]
    return draw(st.permutations(cohort)), folds


@st.composite
def several(draw: st.DrawFn) -> tuple[Cohort, int]:
    """Some patients carry a second class on top."""
    cohort, folds = draw(single())
    second = st.lists(st.none() | st.integers(0, 1), min_size=len(cohort), max_size=len(cohort))
    return [
        labels if more is None else [*labels, more] for labels, more in zip(cohort, draw(second), strict=True)
    ], folds


def check(items: list[Item], folds: list[Fold]) -> None:
    classes = {item.label for item in items}
    tested: list[int] = []
    for fold in folds:
        parts = (fold.train, fold.val, fold.test)
        assert sorted(i for part in parts for i in part) == list(range(len(items)))
        people = [{items[i].patient for i in part} for part in parts]
        assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
        for part in parts:
            assert {items[i].label for i in part} == classes
        tested += fold.test
    assert sorted(tested) == list(range(len(items)))


@settings(max_examples=60, deadline=None)
@given(given_=single(), seed=st.integers(0, 2**40))
def test_each_part_of_each_fold_has_each_class(given_: tuple[Cohort, int], seed: int) -> None:
    cohort, folds = given_
    items = items_of(cohort)
    found = cross_validation(items, folds, 0.2, seed)
    check(items, found)
    assert found == cross_validation(items, folds, 0.2, seed)


@settings(max_examples=60, deadline=None)
@given(given_=several(), seed=st.integers(0, 2**40))
def test_so_it_is_where_patients_carry_several_classes(given_: tuple[Cohort, int], seed: int) -> None:
    cohort, folds = given_
    items = items_of(cohort)
    for number, fold in enumerate(cross_validation(items, folds, 0.2, seed)):
        classes = {item.label for item in items}
        assert {items[i].label for i in fold.test} == classes == {items[i].label for i in fold.train}, number
        assert fold.val


@settings(max_examples=60, deadline=None)
@given(given_=several(), seed=st.integers(0, 2**40))
def test_dealing_is_by_patients_and_does_not_know_their_order(given_: tuple[Cohort, int], seed: int) -> None:
    cohort, folds = given_
    patients = {f"P{p}": Counter(labels) for p, labels in enumerate(cohort)}
    fold_of = dealt(patients, folds, seed)
    assert fold_of is not None and fold_of.keys() == patients.keys()
    for fold, label in product(range(folds), range(max(map(max, cohort)) + 1)):
        assert any(fold_of[name] == fold for name, labels in patients.items() if label in labels)
    assert dealt(dict(reversed(patients.items())), folds, seed) == fold_of
    heads = Counter(fold_of.values())
    assert max(heads.values()) - min(heads.values()) <= len(patients) // 2


def possible(carried: list[set[int]], folds: int) -> bool:
    """Every assignment is tried."""
    classes = set().union(*carried)
    return any(
        all(
            {c for who, f in zip(carried, fold_of, strict=True) if f == fold for c in who} == classes
            for fold in range(folds)
        )
        for fold_of in product(range(folds), repeat=len(carried))
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=4, max_size=7), st.integers(2, 3), st.integers(0, 99))
def test_it_is_found_exactly_where_it_is_possible(carried: list[set[int]], folds: int, seed: int) -> None:
    patients = {f"P{p}": Counter(labels) for p, labels in enumerate(carried)}
    assert (dealt(patients, folds, seed) is not None) == possible(carried, folds)


def test_many_folds_and_classes_are_no_matter() -> None:
    patients = {f"P{p}": Counter([p % 11]) for p in range(11 * 120)}
    fold_of = dealt(patients, 120, 1)
    assert fold_of is not None and set(Counter(fold_of.values()).values()) == {11}


NINE = [[0] * 3, [1, 0], [0], [1, 1, 0], [0, 1], [1] * 20, [0], [1] * 3, [0]]


def test_nine_patients_of_uneven_size_are_mended_where_no_draw_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One patient of 20 crops, five with the finding, three folds."""
    items = items_of(NINE)

    def first_draw(seed: int) -> list[frozenset[int]]:
        return next(splits._drawn_tests(items, range(len(items)), 3, seed))

    bad = [seed for seed in range(15) if any({items[i].label for i in test} != {0, 1} for test in first_draw(seed))]
    assert bad, "StratifiedGroupKFold leaves a test part without a class for some seeds"
    for seed in bad:
        check(items, cross_validation(items, 3, 0.2, seed))
    monkeypatch.setattr(splits, "DRAWS", 0)  # the constructed split alone
    check(items, cross_validation(items, 3, 0.2, bad[0]))


def test_a_first_draw_whose_validation_lacks_a_class_is_kept_as_before() -> None:
    """Another draw would give validation both classes; results made with this one stand."""
    items = items_of([[0]] * 5 + [[1, 1]] + [[1]] * 3)
    found = {seed: cross_validation(items, 2, 0.2, seed) for seed in range(40)}
    lacking = {seed for seed, folds in found.items() for f in folds if len({items[i].label for i in f.val}) < 2}
    assert 0 < len(lacking) < len(found)
    for seed, folds in found.items():
        splitter = StratifiedGroupKFold(n_splits=2, shuffle=True, random_state=seed)
        labels, patients = [item.label for item in items], [item.patient for item in items]
        assert [f.test for f in folds] == [tuple(test) for _, test in splitter.split(labels, labels, patients)]


def test_where_it_cannot_be_one_line_says_why() -> None:
    """Three patients of each class: the one with all of them fills a fold, and the other three do not fill two."""
    cohort = [[0, 1, 2], [0, 1], [0, 2], [1, 2]]
    with pytest.raises(DatasetError) as error:
        cross_validation(items_of(cohort), 3, 0.2, 0, ("a", "b", "c"))
    lines = str(error.value).splitlines()
    assert any(
        "3 patients of class" in line and "use fewer folds, merge classes, or add patients" in line for line in lines
    )


def test_every_class_with_too_few_patients_is_named() -> None:
    cohort = [[0]] * 6 + [[1]] * 2 + [[2]]
    with pytest.raises(
        DatasetError, match=r"5 patients a class .*, and class 'b' has 2, class 'c' has 1: use fewer folds"
    ):
        cross_validation(items_of(cohort), 5, 0.2, 0, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1], ("a", "b", "c"), r"class 'c' has no labelled volume: leave it out"),
        ([0, 1, 2], ("a", "b"), r"p2-0: label 2, and the 2 classes"),
        ([0, 1, -1], ("a", "b"), r"p2-0: label -1, and the 2 classes"),
    ],
)
def test_labels_and_classes_fit_each_other(labels: list[int], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        cross_validation(items_of([[label] for label in labels * 4]), 3, 0.2, 0, classes)


def test_two_patients_of_both_classes_leave_nobody_to_validate() -> None:
    with pytest.raises(DatasetError, match=r"none is left for the validation part of fold \d\): merge classes, or add"):
        cross_validation(items_of([[0, 1]] * 3), 2, 0.2, 0)


@settings(max_examples=60, deadline=None)
@given(given_=single(), seed=st.integers(0, 2**40), shares=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)))
def test_a_fraction_has_each_class_for_which_it_has_patients(
    given_: tuple[Cohort, int], seed: int, shares: tuple[float, float]
) -> None:
    items = items_of(given_[0])
    members = list(range(len(items)))
    few, many = (fraction_of(items, members, share, seed) for share in sorted(shares))
    assert set(few) <= set(many)
    people = len(given_[0])
    for chosen, share in ((few, min(shares)), (many, max(shares))):
        if round(share * people) >= len({item.label for item in items}):
            assert {items[i].label for i in chosen} == {item.label for item in items}


def test_a_fraction_that_has_each_class_is_not_touched() -> None:
    """It is the beginning of the order, up to the nearest end of a patient, as ever."""
    items = items_of([[0], [1]] * 30)
    for seed in range(20):
        order = nested_order(items, seed)
        assert set(fraction_of(items, range(60), 0.1, seed)) == set(order[:6])
