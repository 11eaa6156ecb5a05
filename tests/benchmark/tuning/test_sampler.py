"""Which settings are tried."""

from __future__ import annotations

from typing import Any

import pytest

from voxbench.benchmark.tuning.sampler import STARTUP, proposed
from voxbench.benchmark.tuning.space import DECAY, Parameter
from voxbench.benchmark.tuning.trials import Trial, best
from voxbench.methods.base import Choice, Range

SPACE = (
    Parameter(name="pretrain.lr", span=Range(low=1e-4, high=1e-2, log=True), default=1e-3),
    Parameter(name="pretrain.weight_decay", span=DECAY, default=0.0),
    Parameter(name="pretrain.volumes", span=Range(low=320, high=5120, log=True, whole=True), default=1280),
    Parameter(name="loss", span=Choice(("l1", "l2")), default="bce"),
)


def trial(number: int, settings: dict[str, Any], auprc: float | None) -> Trial:
    return Trial(method="m", number=number, settings=settings, auprc=auprc)


def searched(trials: int, seed: int = 0) -> list[Trial]:
    """A search whose score rises with the learning rate; every fourth trial fails."""
    found: list[Trial] = []
    for number in range(trials):
        settings = proposed(SPACE, "m", found, seed)
        found.append(trial(number, settings, None if number % 4 == 3 else 100 * settings["pretrain.lr"]))
    return found


def test_the_first_trial_is_the_default_also_where_it_lies_outside() -> None:
    assert proposed(SPACE, "m", [], 0) == {
        "pretrain.lr": 1e-3,
        "pretrain.weight_decay": 0.0,
        "pretrain.volumes": 1280,
        "loss": "bce",
    }


def test_the_same_seed_and_trials_give_the_same_proposals() -> None:
    first = searched(12)
    assert first == searched(12)
    assert [one.settings for one in first[1:]] != [one.settings for one in searched(12, seed=1)[1:]]
    assert len({tuple(one.settings.values()) for one in first}) == 12


def test_proposals_stay_within_the_space_and_are_short() -> None:
    for one in searched(16)[1:]:
        assert 1e-4 <= one.settings["pretrain.lr"] <= 1e-2
        assert 320 <= one.settings["pretrain.volumes"] <= 5120
        assert isinstance(one.settings["pretrain.volumes"], int)
        assert one.settings["loss"] in ("bce", "l1", "l2")
        assert len(f"{one.settings['pretrain.lr']:e}".rstrip("0").split("e")[0].rstrip("0").replace(".", "")) <= 3


def test_it_learns_from_its_trials() -> None:
    rates = [one.settings["pretrain.lr"] for one in searched(40)]
    assert sum(rates[-15:]) / 15 > 2 * sum(rates[1 : STARTUP + 1]) / STARTUP


def test_the_default_stands_unless_something_is_better() -> None:
    trials = [trial(0, {}, 0.7), trial(1, {}, None), trial(2, {}, 0.7)]
    found = best(trials)
    assert found is not None
    assert found.number == 0
    assert best(trials[1:2]) is None


@pytest.mark.parametrize("score", [0.71, 0.9])
def test_the_best_is_chosen(score: float) -> None:
    found = best([trial(0, {}, 0.7), trial(1, {}, score), trial(2, {}, 0.705)])
    assert found is not None
    assert found.number == 1
