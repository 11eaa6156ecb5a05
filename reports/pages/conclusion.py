"""The conclusion in words, drawn from the statistics and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from voxbench.reports.judging.against import against, by
from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.learning import Learning, learning
from voxbench.reports.judging.remarks import unevenness
from voxbench.reports.judging.words import counted, interval, listed, signed
from voxbench.reports.pages.evaluations import said_of_orders, said_of_probes
from voxbench.reports.reading.results import percent
from voxbench.reports.stats.power import smallest_difference
from voxbench.reports.tables.comparison_tables import labels_needed


def conclude(analysis: Analysis, further: Sequence[Analysis] = ()) -> tuple[str, ...]:
    """Sentences, the answer first, then what supports it, then what limits it; `further` are other evaluations."""
    grid = analysis.grid
    scored = [f for f in grid.fractions if analysis.best(f) is not None]
    if not scored:
        return (f"There is no result on {grid.name}: {_states(analysis)}.", *_limits(analysis))
    if len(grid.methods) == 1:
        return (_alone(analysis, scored[0]), *_limits(analysis))
    return (
        _answer(analysis, scored[0]),
        *_power(analysis, scored[0]),
        *_patients_only(analysis, scored[0]),
        *_worth(analysis, scored[0]),
        *(sentence for fraction in scored for sentence in _measured(analysis, fraction)),
        *_efficiency(analysis),
        *_elsewhere(analysis, scored),
        *said_of_orders([analysis, *further]),
        *said_of_probes([analysis, *further]),
        *_limits(analysis),
    )


def _with(analysis: Analysis, fraction: float) -> str:
    shared, planned = len(analysis.grid.shared(fraction).replicates), len(analysis.grid.replicates)
    some = f" ({shared} of {planned} pairs of fold and seed)" if shared < planned else ""
    return f"With {percent(fraction)} of the labels{some}"


def _auprc(analysis: Analysis, method: str, fraction: float) -> str:
    one = analysis.estimates[method, fraction]
    return f"AUPRC {interval(one.mean, one.low, one.high)}"


def _alone(analysis: Analysis, fraction: float) -> str:
    method = analysis.grid.methods[0]
    return (
        f"{_with(analysis, fraction)}, {method} has {_auprc(analysis, method, fraction)} on {analysis.grid.name}, "
        f"where no skill gives {analysis.grid.no_skill:.3f}. It is the only method of this run, so nothing is compared."
    )


def _answer(analysis: Analysis, fraction: float) -> str:
    best = analysis.best(fraction)
    assert best is not None
    given = _with(analysis, fraction)
    ranked = list(analysis.ranks[fraction])
    tied = [m for m in ranked if m in analysis.tied[fraction] and m != best]
    worse = [m for m in ranked if m not in analysis.tied[fraction]]
    name = _named(analysis, best)
    lead = f"{name} has the highest mean, {_auprc(analysis, best, fraction)}"
    if len(ranked) == 1:
        what = "scores enough to compare" if analysis.grid.shared(fraction).left_out else "a score"
        return f"{given}, only {name} has {what}, {_auprc(analysis, best, fraction)}: nothing is compared."
    if not any(analysis.beats_chance(m, fraction) for m in analysis.scored(fraction)):
        return (
            f"{given}, no method is separable from no skill ({analysis.grid.no_skill:.3f}): {lead}, "
            "and no method lies further above it than chance would have the best of them."
        )
    if not tied:
        return f"{given}, {name} is separably better than {listed(worse)}: {_auprc(analysis, best, fraction)}."
    if not worse:
        return f"{given}, the methods are not separable: {lead}, but this run cannot tell it from the others."
    return f"{given}, {lead}, but it is not separable from {listed(tied)}; it is separably better than {listed(worse)}."


def _patients_only(analysis: Analysis, fraction: float) -> tuple[str, ...]:
    """Leads that other patients would confirm but, as far as the replicates tell, another training might
    not."""
    best = analysis.best(fraction)
    assert best is not None
    pairs = [analysis.between(best, m, fraction) for m in analysis.ranks[fraction] if m != best]
    half = [one for one in pairs if one is not None and one.holds_for_patients and not one.separable]
    if not half:
        return ()
    count = max(one.n_pairs for one in half)
    led = listed([one.second for one in half])
    return (
        f"As trained here, {best} would lead {led} on other patients too (bootstrap); what "
        f"{counted(count, 'replicate')} cannot show is that another training would agree. "
        f"More folds{'' if analysis.grid.seeds_share_splits else ' or seeds'} can.",
    )


def _power(analysis: Analysis, fraction: float) -> tuple[str, ...]:
    """Where nothing was separable: how large a difference would have been."""
    pairs = analysis.comparisons[fraction]
    count = sum(map(len, analysis.comparisons.values()))
    seen = [smallest_difference(one.error, one.t_error, one.t_df, count) for one in pairs]
    known = [difference for difference in seen if not math.isnan(difference)]
    if not known or any(one.separable for one in pairs):
        return ()
    least = float(np.median(known))
    reach = f"Here a true difference of about {least:.2f} in AUPRC" if least < 1 else "Here no difference in AUPRC"
    return (f"{reach} would have been separable four times in five (80 % power): of less, nothing is known.",)


def _worth(analysis: Analysis, fraction: float) -> tuple[str, ...]:
    """Is pretraining worth it: every method against the baseline."""
    baseline = analysis.grid.baseline
    if baseline is None:
        return ()
    said = against(analysis, baseline, fraction)
    return (f"Against {baseline} (no pretraining), {said}.",) if said else ()


def _measured(analysis: Analysis, fraction: float) -> tuple[str, ...]:
    """Is a network worth it: every method against the best yardstick."""
    grid = analysis.grid
    methods = [m for m in grid.methods if m not in grid.yardsticks]
    if not grid.yardsticks or not methods:
        return ()
    means = {m: analysis.estimates[m, fraction].mean for m in grid.yardsticks if m in analysis.scored(fraction)}
    if not means:
        return (f"At {percent(fraction)} no yardstick has a score that the methods could be measured against.",)
    best = max(means, key=lambda m: means[m])
    pairs = [one for m in methods if (one := analysis.between(m, best, fraction)) is not None]
    above = [one for one in pairs if one.separable and one.difference > 0]
    rest = [by(one, ends=True) for one in pairs if one not in above]
    parts = [f"not separably above it: {'; '.join(rest)}"] if rest else []
    if above:
        parts.append(f"separably above it: {'; '.join(by(one, ends=True) for one in above)}")
    found = f"At {percent(fraction)} the best yardstick is {best}, {_auprc(analysis, best, fraction)}"
    return (". ".join([found, *(f"{part[0].upper()}{part[1:]}" for part in parts)]) + ".",)


def _named(analysis: Analysis, method: str) -> str:
    return f"{method} (a yardstick)" if method in analysis.grid.yardsticks else method


def _efficiency(analysis: Analysis) -> tuple[str, ...]:
    best = analysis.best(analysis.grid.fractions[0])
    for one in analysis.efficiency:
        if one.method == best and one.labels > one.least and not math.isnan(one.labels):
            needs, low, high = (labels_needed(one, labels) for labels in (one.labels, one.low, one.high))
            return (
                f"{analysis.grid.baseline} needs {needs} labels (95 % interval {low} to {high}) for "
                f"what {best} does "
                f"with {one.method_labels:.0f}.",
            )
    return ()


def _elsewhere(analysis: Analysis, scored: list[float]) -> tuple[str, ...]:
    """The other fractions, a clause each."""
    clauses = []
    for fraction in scored[1:]:
        best = analysis.best(fraction)
        assert best is not None
        others = [m for m in analysis.ranks[fraction] if m in analysis.tied[fraction] and m != best]
        what = f"not separable from {listed(others)}" if others else "separably ahead of all others"
        if len(analysis.ranks[fraction]) == 1:
            what = "the only one with scores enough to compare"
        elif len(others) + 1 == len(analysis.ranks[fraction]):
            what = "not separable from any other"
        clauses.append(f"at {percent(fraction)} {_named(analysis, best)} is highest and {what}")
    text = "; ".join(clauses)
    return (f"{text[0].upper()}{text[1:]}.",) if text else ()


def _limits(analysis: Analysis) -> tuple[str, ...]:
    grid = analysis.grid
    limits = []
    if grid.dataset.get("is_phantom"):
        limits.append("The volumes are a phantom: nothing about patients follows from this.")
    if max((len(grid.shared(f).replicates) for f in grid.fractions), default=0) == 1 < len(grid.methods):
        limits.append(
            "One fold and one seed are compared: how much another training would change is unknown, so nothing can be "
            "separated."
        )
    if len(grid.folds) == 1 < len(grid.seeds) and any(len(pairs) for pairs in analysis.comparisons.values()):
        limits.append(
            "One split: what is separable here speaks of other test patients, and of other seeds and draws of labels "
            "from this training part, not of other training patients."
        )
    limits += _learnt(analysis)
    low = _no_better_than_chance(analysis)
    if low:
        limits.append(f"Not separable from no skill ({grid.no_skill:.3f}): {'; '.join(low)}.")
    worse = [
        f"{method} at {percent(fraction)}"
        for (method, fraction), one in analysis.estimates.items()
        if one.high < grid.prevalence
    ]
    if worse:
        limits.append(
            f"Below no skill with its whole interval, so see whether labels are turned round: {listed(worse)}."
        )
    spent = _unequal_labels(analysis)
    if spent:
        limits.append(spent)
    if grid.troubled() and grid.scored:
        limits += [f"Not every cell has a score: {_states(analysis)}.", *unevenness(grid, grid.fractions)]
    return tuple(limits)


def _learnt(analysis: Analysis) -> list[str]:
    """Stages that did not learn, and those of which a linear probe does not see that they did."""
    found = learning(analysis.grid)
    doubted = [f"{_stage(one)} ({'; '.join(filter(None, (*one.doubts, one.unseen)))})" for one in found if one.doubts]
    unseen = [one for one in found if one.unseen and not one.doubts]
    said = [f"Not shown to have learnt: {', '.join(doubted)}."] if doubted else []
    if unseen:
        named = [f"{_stage(one)} ({'; '.join(filter(None, (one.unseen, _gains(analysis, one))))})" for one in unseen]
        said.append(f"What these learnt is not in what a linear probe sees: {', '.join(named)}.")
    return said


def _gains(analysis: Analysis, one: Learning) -> str:
    """Fractions at which the method, fine-tuned, is ahead of no pretraining: that too shows that it learnt."""
    grid = analysis.grid
    if grid.evaluation != "finetune" or not grid.baseline:
        return ""
    pairs = {f: analysis.between(one.method, grid.baseline, f) for f in grid.fractions}
    ahead = [
        f"{signed(pair.difference)} ({signed(pair.low)} to {signed(pair.high)}) at {percent(fraction)}"
        for fraction, pair in pairs.items()
        if pair is not None and pair.low > 0
    ]
    return f"fine-tuned, against {grid.baseline}, {listed(ahead)}" if ahead else ""


def _no_better_than_chance(analysis: Analysis) -> list[str]:
    grid = analysis.grid
    found = []
    for place, fraction in enumerate(f for f in grid.fractions if analysis.ranks[f]):
        scored = analysis.scored(fraction)
        methods = [m for m in scored if not analysis.beats_chance(m, fraction)]
        said = place == 0 and len(methods) == len(scored) > 1  # by the first sentence
        if methods and not said:
            found.append(f"{listed(methods)} at {percent(fraction)}")
    return found


def _unequal_labels(analysis: Analysis) -> str:
    """Where one method spent more labels than another at the same fraction, the scores are not on equal
    terms."""
    for fraction in analysis.grid.fractions:
        spent: dict[str, float] = {}
        for method in analysis.grid.methods:
            counts = [c.row.n_labels_spent for c in analysis.grid.ok(method, fraction) if c.row is not None]
            known = [count for count in counts if not math.isnan(count)]
            if known:
                spent[method] = sum(known) / len(known)
        if spent and max(spent.values()) > 1.01 * min(spent.values()) + 0.5:
            most, least = (pick(spent, key=lambda m: spent[m]) for pick in (max, min))
            return (
                f"The methods did not spend the same labels: at {percent(fraction)} {most} spent "
                f"{spent[most]:.0f}, "
                f"{least} {spent[least]:.0f}."
            )
    return ""


def _stage(one: Learning) -> str:
    return one.method if one.method == one.stage else f"{one.stage} of {one.method}"


def _states(analysis: Analysis) -> str:
    states = [cell.state for cell in analysis.grid.troubled()]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return f"{listed(counts)} of {counted(len(analysis.grid.cells), 'cell')}"
