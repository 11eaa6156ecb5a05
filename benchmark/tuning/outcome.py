"""What a search comes to: the best trial of each method, and a preset that has its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from voxbench.benchmark.settings.config import Config, Tuned, TunedMethod
from voxbench.benchmark.settings.presets import merge, presets, read_preset
from voxbench.benchmark.tuning.sampler import STARTUP
from voxbench.benchmark.tuning.search import Search
from voxbench.benchmark.tuning.space import configured
from voxbench.benchmark.tuning.trials import Trial, best
from voxbench.reports.reading.results import percent

FILE = "tuned.yaml"
_PLUGINS = ("dataset", "encoder")  # another name takes all options along


def outcome(search: Search, trials: int) -> Tuned:
    """What the first `trials` of each method have found."""
    protocol = search.config.protocol
    return Tuned(
        data=search.bank.fingerprint,
        dataset=search.config.dataset.name,
        fraction=protocol.fractions[0],
        folds=search.folds,
        of_folds=1 if search.dataset.has_official_split else protocol.folds,
        seeds=protocol.seeds,
        search_seed=search.seed,
        sampler=f"the default, then random to {STARTUP} with a score, then TPE (Optuna)",
        methods={method: _of_method(search.history(method, trials)) for method in search.spaces},
    )


def _of_method(trials: Sequence[Trial]) -> TunedMethod:
    found = best(trials)
    return TunedMethod(
        trials=len(trials),
        failed=sum(trial.auprc is None for trial in trials),
        auprc=None if found is None else found.auprc,
        default_auprc=trials[0].auprc,
        seconds=round(sum(trial.seconds for trial in trials), 1),
        chosen={} if found is None or found.number == 0 else found.settings,
    )


def preset_text(tuned: Tuned, preset: str, base: Config, config: Config) -> str:
    """``tuned.yaml``: what was chosen, over the preset that was searched from.

    `base` is that preset as it is, `config` the one that the search was asked to start from.
    """
    chosen = {name: own.chosen for name, own in tuned.methods.items() if own.chosen}
    changes = _changes(_plain(base), _plain(configured(config, chosen)))
    told = yaml.safe_dump({**changes, "tuned": tuned.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
    if preset in presets():
        return f"{_heading(tuned, preset)}extends: {preset}\n{told}"
    whole = merge(read_preset(preset), yaml.safe_load(told))
    return _heading(tuned, preset) + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


def _heading(tuned: Tuned, preset: str) -> str:
    most = max(own.trials for own in tuned.methods.values())
    folds, seeds = (", ".join(map(str, numbers)) for numbers in (tuned.folds, tuned.seeds))
    lines = (
        f"Chosen by `bench tune`: {most} trials a method, the first of them {preset!r} as it is; search seed "
        f"{tuned.search_seed}.",
        f"Judged by AUPRC on the validation part of fold {folds} of {tuned.of_folds}, seed {seeds}, at "
        f"{percent(tuned.fraction)} of the labels",
        f"of {tuned.dataset} (fingerprint {tuned.data[:12]}); the test patients of these folds were not read.",
        "Command: bench run --preset THIS FILE",
    )
    return "".join(f"# {line}\n" for line in lines)


def _plain(config: Config) -> dict[str, Any]:
    """A configuration as YAML has it, less what a search sets for itself."""
    data = config.model_dump(mode="json", exclude={"sources", "tuned"})
    for kind in ("fractions", "seeds", "evaluate"):
        del data["protocol"][kind]
    own = {name: {kind: keys for kind, keys in kinds.items() if keys} for name, kinds in data["recipes"].items()}
    return {**data, "recipes": own}


def _changes(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """What must be laid over `base` to have `over`."""
    found: dict[str, Any] = {}
    for key, value in over.items():
        old = base.get(key)
        if key in _PLUGINS and value["name"] != old["name"]:  # type: ignore[index]  # both always have one
            found[key] = {name: own for name, own in value.items() if own is not None}
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = _changes(old, value)
            found |= {key: inner} if inner else {}
        elif value != old:
            found[key] = value
    return found
