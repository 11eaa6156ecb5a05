"""Closer looks at a method at a fraction: other metrics, recall by finding, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from voxbench.reports.judging.analysis import Analysis
from voxbench.reports.judging.words import interval
from voxbench.reports.reading.results import Units, percent
from voxbench.reports.stats.calibration import Reliability, reliability
from voxbench.reports.stats.classification import classification
from voxbench.reports.stats.recall import Share, weighted_share
from voxbench.reports.tables.naming import legend, named
from voxbench.reports.tables.table import Entry, Table

METRICS = {"auroc": "AUROC", "balanced_accuracy": "Balanced accuracy", "f1": "F1", "brier": "Brier"}


def units_of(analysis: Analysis, method: str, fraction: float) -> list[Units]:
    """The scored units, a cell each."""
    return [cell.units for cell in analysis.grid.ok(method, fraction) if cell.units is not None]


def uncalled(analysis: Analysis) -> str:
    """A sentence where predictions.csv does not tell the class that was called; empty where it does."""
    cells = [cell for cell in analysis.grid.scored if cell.units is not None]
    lacking = sum(cell.units is not None and cell.units.predicted is None for cell in cells)
    if not lacking:
        return ""
    return (
        f"predictions.csv does not tell which class was called in {lacking} of {len(cells)} scored cells (column "
        "predicted, which older folders lack), so balanced accuracy, F1 and recall by finding are not given for them; "
        "the same `bench run` again writes it, without training what is there."
    )


def weighted(analysis: Analysis) -> str:
    """A sentence where scores hold the class weights of training; empty where they are probabilities."""
    if not analysis.grid.scores_weighted:
        return ""
    return (
        "The scores of this older folder still hold the class weights of training, so they are no probabilities: Brier "
        "score and calibration cannot be had from them. Run it again in another folder for these."
    )


def other_metrics(analysis: Analysis, method: str, fraction: float) -> Mapping[str, float]:
    """Each of METRICS as the mean over folds and seeds; NaN where a cell of the method does not have it."""
    cells = [vars(classification(u.labels, u.scores, u.predicted)) for u in units_of(analysis, method, fraction)]
    means = {name: float(np.mean([cell[name] for cell in cells])) if cells else math.nan for name in METRICS}
    return means | ({"brier": math.nan} if analysis.grid.scores_weighted else {})


def metrics_table(analysis: Analysis, fraction: float) -> Table:
    """AUROC, balanced accuracy, F1, Brier score and calibration error of a method a row."""
    grid = analysis.grid
    rows = []
    for method in grid.methods:
        if grid.ok(method, fraction):
            values = other_metrics(analysis, method, fraction).values()
            numbers = [Entry("–" if math.isnan(value) else f"{value:.3f}") for value in values]
            rows.append((named(grid, method), *numbers, _calibration(method_reliability(analysis, method, fraction))))
    return Table(
        title=f"Other metrics at {percent(fraction)} of the labels",
        columns=("Method", *METRICS.values(), "Calibration error"),
        rows=tuple(rows),
        notes=(
            f"Means over folds and seeds. {_decided(analysis)} Brier score and calibration error: lower is better. In "
            "brackets: the error that perfectly calibrated probabilities would show on so few volumes.",
            *legend(grid),
        ),
    )


def _calibration(curve: Reliability | None) -> Entry:
    return Entry("–" if curve is None else f"{curve.expected_error:.3f} ({curve.if_perfect:.3f})")


def _decided(analysis: Analysis) -> str:
    if len(analysis.grid.classes) > 2:
        return f"Macro means over the classes, one-vs-rest; a class is called {_threshold(analysis)}."
    return f"Balanced accuracy and F1: the positive class is called {_threshold(analysis)}."


def _threshold(analysis: Analysis) -> str:
    """From which probability on a class is called."""
    if analysis.grid.scores_weighted:
        return "as the run called it"
    if len(analysis.grid.classes) > 2:
        return "where its probability stands highest above its share of the training labels"
    share = "from its share of the training labels on"
    if not any(cell.row is not None and cell.row.n_val_labels > 0 for cell in analysis.grid.scored):
        return share
    others = f", by yardsticks {share}" if analysis.grid.yardsticks else ""
    return f"from the threshold on that was chosen on validation{others}"


def recalls(analysis: Analysis, method: str, fraction: float) -> Mapping[str, Share]:
    """By finding, the share of positive units called positive; empty where finding or class called is not known."""
    hits: dict[str, list[bool]] = {}
    patients: dict[str, list[int]] = {}
    for cell in analysis.grid.ok(method, fraction):
        units = cell.units
        if units is None or units.scores.shape[1] > 1 or units.predicted is None:
            return {}
        index = analysis.patient_index(cell)
        for i in np.flatnonzero(units.labels == 1):
            if finding := units.findings[i]:
                hits.setdefault(finding, []).append(bool(units.predicted[i] == 1))
                patients.setdefault(finding, []).append(int(index[i]))
    return {f: weighted_share(np.array(hits[f]), np.array(patients[f]), analysis.weights) for f in sorted(hits)}


def recall_table(analysis: Analysis, fraction: float) -> Table | None:
    """Share of each finding called positive; None where findings, or the class called, are not known."""
    shares = {m: found for m in analysis.grid.methods if (found := recalls(analysis, m, fraction))}
    findings = sorted({finding for found in shares.values() for finding in found})
    if not findings:
        return None
    counts = {f: max(found[f].n_patients for found in shares.values() if f in found) for f in findings}
    return Table(
        title=f"Recall by finding at {percent(fraction)} of the labels",
        columns=("Method", *(f"{f} (n = {counts[f]})" for f in findings)),
        rows=tuple((named(analysis.grid, m), *(_share(found.get(f)) for f in findings)) for m, found in shares.items()),
        notes=(
            f"Share of positive units with this finding that the method calls positive, {_threshold(analysis)}, "
            "over all folds and seeds, with its 95 % interval (Wilson); n: patients.",
            *legend(analysis.grid),
        ),
    )


def _share(share: Share | None) -> Entry:
    return Entry("–", faint=True) if share is None else Entry(interval(share.value, share.low, share.high, digits=2))


def method_reliability(analysis: Analysis, method: str, fraction: float) -> Reliability | None:
    """Over the units of all folds and seeds; of several classes one-vs-rest, all pooled. None without a score."""
    units = units_of(analysis, method, fraction)
    if not units or analysis.grid.scores_weighted:
        return None
    labels = np.concatenate([one.labels for one in units])
    scores = np.concatenate([one.scores for one in units])  # [n, 1 or classes]
    _, numbers = np.unique([volume for one in units for volume in one.volumes], return_inverse=True)
    return reliability(labels, scores, numbers)
