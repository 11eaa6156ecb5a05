"""Which settings to try next: the default first, then a few at random, then by the Tree-structured Parzen Estimator
(Bergstra et al., NeurIPS 2011) of Optuna (Akiba et al., KDD 2019).

The study is made anew from the trials for each proposal and its sampler is seeded by the trial's number: nothing of
Optuna is kept on disk, and a search that was killed proposes what it would have proposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from voxbench.benchmark.settings.keys import derive_seed
from voxbench.benchmark.tuning.space import Parameter
from voxbench.benchmark.tuning.trials import Trial
from voxbench.methods.base import Choice

STARTUP = 5  # trials with a score, the default one of them, before the estimator has something to go by
DIGITS = 3  # of a number that is tried: who reads it should see all of it


def proposed(parameters: Sequence[Parameter], method: str, before: Sequence[Trial], seed: int) -> dict[str, Any]:
    """The settings of the trial after those `before`; the same for the same trials and seed."""
    if not before:
        return {parameter.name: parameter.default for parameter in parameters}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spans = {parameter.name: _distribution(parameter) for parameter in parameters}
    draw = derive_seed("tune", seed, method, len(before)) % 2**32
    sampler = optuna.samplers.TPESampler(seed=draw, n_startup_trials=STARTUP)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in before:
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL if trial.auprc is None else TrialState.COMPLETE,
                value=trial.auprc,
                params={name: _within(trial.settings[name], span) for name, span in spans.items()},
                distributions=spans,
            )
        )
    asked = study.ask(spans).params
    return {p.name: asked[p.name] if isinstance(p.span, Choice) else _rounded(asked[p.name]) for p in parameters}


def _distribution(parameter: Parameter) -> BaseDistribution:
    span = parameter.span
    if isinstance(span, Choice):
        values = span.values if parameter.default in span.values else (parameter.default, *span.values)
        return CategoricalDistribution(values)
    if span.whole:
        return IntDistribution(round(span.low), round(span.high), log=span.log)
    return FloatDistribution(span.low, span.high, log=span.log)


def _within(value: Any, span: BaseDistribution) -> Any:
    """The value, or the nearest that is searched: a default may lie outside, such as a weight decay of 0."""
    if isinstance(span, FloatDistribution | IntDistribution):
        return min(max(value, span.low), span.high)
    return value


def _rounded(value: float) -> float:
    """To `DIGITS` significant digits; an integer stays one."""
    return value if value == 0 else round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))
