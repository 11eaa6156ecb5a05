"""Tables of what is compared: intervals and ranks, pairs of methods, label efficiency, recall by finding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from voxbench.reports.analysis import Analysis, Comparison, Efficiency
from voxbench.reports.grid import Cell
from voxbench.reports.run_folder import Units, percent
from voxbench.reports.stats.classification import classification
from voxbench.reports.stats.recall import Share, weighted_share
from voxbench.reports.table import Entry, Table, csv_text
from voxbench.reports.words import interval, p_value, signed

ESTIMATE_CSV = (
    "dataset",
    "method",
    "fraction",
    "auprc_mean",
    "auprc_std",
    "n_cells",
    "low",
    "high",
    "rank",
    "tied",
)
COMPARISON_CSV = (
    "dataset",
    "fraction",
    "first",
    "second",
    "n_pairs",
    "difference",
    "low",
    "high",
    "p_bootstrap",
    "p_bootstrap_holm",
    "p_t",
    "p_t_holm",
    "probability_of_improvement",
    "separable",
)


def interval_table(analysis: Analysis) -> Table:
    """Methods x fractions: the shared rank, the mean and its 95 % interval."""
    grid = analysis.grid
    rows = []
    for method in grid.methods:
        entries = [Entry(method)]
        for fraction in grid.fractions:
            estimate = analysis.estimates[method, fraction]
            rank = analysis.ranks[fraction].get(method)
            if rank is None:
                entries.append(Entry("no score", faint=True))
            else:
                entries.append(Entry(f"{rank}. {interval(estimate.mean, estimate.low, estimate.high)}"))
        rows.append(tuple(entries))
    return Table(
        title=f"Rank, AUPRC and its 95 % interval on {grid.name}",
        columns=("Method", *map(percent, grid.fractions)),
        rows=tuple(rows),
        notes=(
            "Methods that cannot be separated share a rank: it is 1 + the number of methods that are "
            "separably better. "
            f"Interval: {len(analysis.weights)} resamples of {len(analysis.patients)} patients (BCa); "
            f"it speaks of "
            "other patients, not of another training.",
        ),
    )


def comparison_table(analysis: Analysis, fraction: float) -> Table:
    """All pairs at a fraction, the clearest first."""
    pairs = sorted(
        (one if one.difference >= 0 else analysis.between(one.second, one.first, fraction) or one
         for one in analysis.comparisons[fraction]),
        key=lambda one: (not one.separable, -one.difference),
    )  # fmt: skip
    return Table(
        title=f"Pairs of methods at {percent(fraction)} of the labels",
        columns=("Pair", "Difference", "p bootstrap", "p t-test", "P(better)", "Separable"),
        rows=tuple(_pair(one) for one in pairs),
        notes=(
            "Both p values are Holm-corrected over the pairs of this fraction: paired patient "
            "bootstrap, and corrected "
            "resampled t-test of Nadeau and Bengio. Separable: both below 0.05. P(better): share of "
            "folds and seeds in "
            "which the first is ahead.",
        ),
    )


def _pair(one: Comparison) -> tuple[Entry, ...]:
    return (
        Entry(f"{one.first} − {one.second}"),
        Entry(f"{signed(one.difference)} ({signed(one.low)} to {signed(one.high)})"),
        Entry(p_value(one.p_bootstrap_holm)),
        Entry(p_value(one.p_t_holm)),
        Entry(f"{one.improvement:.2f}"),
        Entry("yes" if one.separable else "no", bold=one.separable, faint=not one.separable),
    )


def efficiency_table(analysis: Analysis) -> Table | None:
    """Labels that the baseline needs; None where there is no baseline or one fraction only."""
    if not analysis.efficiency or analysis.grid.baseline is None:
        return None
    smallest = percent(analysis.grid.fractions[0])
    return Table(
        title=f"Labels that {analysis.grid.baseline} needs to match a method at {smallest}",
        columns=("Method", f"Labels at {smallest}", f"{analysis.grid.baseline} needs", "95 % interval"),
        rows=tuple(
            (
                Entry(one.method),
                Entry(f"{one.method_labels:.0f}"),
                Entry(labels_needed(one, one.labels)),
                Entry(f"{labels_needed(one, one.low)} to {labels_needed(one, one.high)}"),
            )
            for one in analysis.efficiency
        ),
        notes=(
            "Read off the baseline's learning curve, straight between its points in the logarithm of "
            "labels spent; the "
            "interval is the percentile interval of the same patient bootstrap.",
        ),
    )


def labels_needed(one: Efficiency, labels: float) -> str:
    """A number of labels in words."""
    if math.isnan(labels):
        return "–"
    if math.isinf(labels):
        return f"more than {one.most:.0f}"
    if labels <= one.least:
        return f"at most {one.least:.0f}"
    return f"{labels:.0f}"


def recall_table(analysis: Analysis, fraction: float) -> Table | None:
    """Share of each finding called positive at the validation-chosen threshold; None where findings are not
    known."""
    shares = {m: _recalls(analysis, m, fraction) for m in analysis.grid.methods}
    findings = sorted({finding for per_method in shares.values() for finding in per_method})
    if not findings:
        return None
    counts = {f: max(s[f].n_patients for s in shares.values() if f in s) for f in findings}
    rows = []
    for method, per_finding in shares.items():
        if per_finding:
            rows.append((Entry(method), *(_share(per_finding.get(f)) for f in findings)))
    return Table(
        title=f"Recall by finding at {percent(fraction)} of the labels",
        columns=("Method", *(f"{f} (n = {counts[f]})" for f in findings)),
        rows=tuple(rows),
        notes=(
            "Share of positive units with this finding that the method calls positive at the threshold "
            "chosen on "
            "validation, over all folds and seeds, with the 95 % interval of the patient bootstrap; n: "
            "patients.",
        ),
    )


def _share(share: Share | None) -> Entry:
    return Entry("–", faint=True) if share is None else Entry(interval(share.value, share.low, share.high, digits=2))


def _recalls(analysis: Analysis, method: str, fraction: float) -> Mapping[str, Share]:
    found: dict[str, list[tuple[bool, int]]] = {}
    for cell in analysis.grid.ok(method, fraction):
        units = _binary(cell)
        if units is None or np.isnan(units.thresholds).any():
            continue
        called = units.scores[:, 0] >= units.thresholds
        patients = analysis.patient_index(cell)
        for finding, label, hit, patient in zip(units.findings, units.labels, called, patients, strict=True):
            if finding and label == 1:
                found.setdefault(finding, []).append((bool(hit), int(patient)))
    return {
        finding: weighted_share(np.array([hit for hit, _ in hits]), np.array([p for _, p in hits]), analysis.weights)
        for finding, hits in found.items()
    }


def _binary(cell: Cell) -> Units | None:
    return cell.units if cell.units is not None and cell.units.scores.shape[1] == 1 else None


def secondary_table(analysis: Analysis, fraction: float) -> Table:
    """AUROC, Brier score and, where thresholds are known, balanced accuracy and F1: means over folds x
    seeds."""
    names = {"auroc": "AUROC", "balanced_accuracy": "Balanced accuracy", "f1": "F1", "brier": "Brier"}
    rows = []
    for method in analysis.grid.methods:
        cells = [
            vars(classification(cell.units.labels, cell.units.scores, cell.units.thresholds))
            for cell in analysis.grid.ok(method, fraction)
            if cell.units
        ]
        if cells:
            columns = [[cell[name] for cell in cells if not math.isnan(cell[name])] for name in names]
            texts = [f"{np.mean(values):.3f}" if values else "–" for values in columns]
            rows.append((Entry(method), *map(Entry, texts)))
    return Table(
        title=f"Other metrics at {percent(fraction)} of the labels",
        columns=("Method", *names.values()),
        rows=tuple(rows),
        notes=("Means over folds and seeds, thresholds chosen on validation. Brier: lower is better.",),
    )


def estimates_csv(analyses: Sequence[Analysis]) -> str:
    """Intervals and ranks with all digits."""
    rows = []
    for a in analyses:
        for (method, fraction), e in a.estimates.items():
            place = [a.grid.name, method, fraction, e.summary.mean, e.summary.std, e.summary.n, e.low, e.high]
            rows.append([*place, a.ranks[fraction].get(method), method in a.tied[fraction]])
    return csv_text(ESTIMATE_CSV, rows)


def comparisons_csv(analyses: Sequence[Analysis]) -> str:
    """All pairs with all digits."""
    rows = []
    for a in analyses:
        for fraction, pairs in a.comparisons.items():
            for c in pairs:
                tested = [c.p_bootstrap, c.p_bootstrap_holm, c.p_t, c.p_t_holm, c.improvement, c.separable]
                place = [a.grid.name, fraction, c.first, c.second, c.n_pairs, c.difference, c.low, c.high]
                rows.append([*place, *tested])
    return csv_text(COMPARISON_CSV, rows)
