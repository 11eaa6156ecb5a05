"""Which labels are classes, and in which order, by the rules of docs/data.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from voxbench.datasets.tables.words import plain, says_unknown

NORMAL_WORDS = ("normal", "healthy", "control", "negative", "none", "no", "false")


def class_order(labels: Sequence[str], options: Any) -> tuple[str, ...]:
    """Classes in order; raises ValueError where the rules do not decide."""
    if options.classes:
        if len(set(options.classes)) < max(2, len(options.classes)):
            raise ValueError(f"dataset.classes={','.join(options.classes)}: name two or more, each once")
        return tuple(as_written(name, set(labels) - set(options.classes)) for name in options.classes)
    if len(labels) < 2:
        found = f"the only label is {labels[0]}" if labels else "no row has a label"
        raise ValueError(f"{found}; a benchmark needs labelled volumes of at least two classes")
    folded = {label.casefold(): label for label in labels}
    if len(folded) < len(labels):
        raise ValueError(f"labels {', '.join(labels)} differ in capitals only; write each in one way")
    if len({plain(label) for label in labels}) < len(labels):
        raise ValueError(f"labels {', '.join(labels)} differ in blanks and underscores only; write each in one way")
    if len({label if _number(label) is None else _number(label) for label in labels}) < len(labels):
        raise ValueError(f"labels {', '.join(labels)} are partly one number; write each in one way")
    if options.positive is not None:
        positive = as_written(options.positive, labels)
        if positive not in labels or len(labels) != 2:
            raise ValueError(
                f"dataset.positive={options.positive}, but the labels are {', '.join(labels)}; "
                "it names one of two labels (for more, set dataset.classes)"
            )
        return (*(label for label in labels if label != positive), positive)
    if are_numbers(labels):
        return tuple(str(index) for index in range(len(labels)))
    normal = [folded[word] for word in NORMAL_WORDS if word in folded]
    if len(normal) == 1:
        return (*normal, *(label for label in labels if label != normal[0]))
    raise ValueError(
        f"which of the labels {', '.join(labels)} is positive? Set dataset.classes={','.join(labels)} "
        "in your order (of two, the negative one first)"
    )


def as_written(name: str, labels: Iterable[str]) -> str:
    """The label that an option means: 02 and 2.0 where the option says 2; else the name itself."""
    known = set(labels)
    same_number = [label for label in known if _number(label) is not None and _number(label) == _number(name)]
    return same_number[0] if name not in known and len(same_number) == 1 else name


def no_labels(labels: Iterable[str], options: Any) -> frozenset[str]:
    """Words in the column `label` that are no class: they stand for a missing value, and no option names them.

    `none` is the normal class, unless the other labels are 0 and 1 or have a word for normal of their own.
    """
    found = {label for label in labels if says_unknown(label) and label not in options.classes}
    rest = {label for label in labels if label not in found and plain(label) != "none"}
    if (
        not options.classes
        and len(rest) > 1
        and (are_numbers(rest) or {plain(label) for label in rest} & set(NORMAL_WORDS))
    ):
        found |= {label for label in labels if plain(label) == "none"}
    return frozenset(found)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether the labels are 0, 1, 2, ..."""
    given = set(labels)
    return given == {str(index) for index in range(len(given))}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
