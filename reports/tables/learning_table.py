"""What each stage learnt, a row a stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

from voxbench.reports.judging.learning import Learning
from voxbench.reports.judging.words import signed
from voxbench.reports.tables.table import Entry, Table, csv_text

SHAPES = ("rankme", "alignment", "uniformity")


def learning_tables(found: Sequence[Learning]) -> list[Table]:
    """What tells whether each stage learnt, and the shape of its representation where that is known."""
    shaped = [one for one in found if not math.isnan(one.shape["rankme"])]
    return [*([_verdicts(found)] if found else []), *([_shapes(shaped)] if shaped else [])]


def _verdicts(found: Sequence[Learning]) -> Table:
    return Table(
        title="Did each stage learn?",
        columns=("Stage", "Learnt", "Loss", "Collapse", "Probe", "Difference"),
        rows=tuple(_verdict(one) for one in found),
        notes=(
            "Learnt: the smoothed loss fell by more than its noise, embeddings did not collapse, and the probe's "
            "interval lies above zero, each where it is known. Probe: AUPRC, out of fold between patients, of logistic "
            "regression on frozen features of labelled training volumes, before → after the stage; the difference has "
            "the 95 % interval of the patient bootstrap. These labels select nothing and are not counted as spent.",
        ),
    )


def _shapes(found: Sequence[Learning]) -> Table:
    return Table(
        title="Features before → after each stage",
        columns=("Stage", "RankMe", "Alignment", "Uniformity"),
        rows=tuple(
            (
                Entry(_name(one)),
                Entry(_change(one.initial_shape["rankme"], one.shape["rankme"], 1)),
                *(Entry(_change(one.initial_shape[name], one.shape[name], 2)) for name in SHAPES[1:]),
            )
            for one in found
        ),
        notes=(
            "RankMe: the effective rank of the encoder's features, the higher the more directions are in use (Garrido "
            "et al., ICML 2023). Alignment: mean squared distance of two views of a volume on the unit sphere; "
            "uniformity: how evenly volumes cover it, the lower the more evenly (Wang and Isola, ICML 2020).",
        ),
    )


def _verdict(one: Learning) -> tuple[Entry, ...]:
    # A prior stage trains no encoder: of it the loss alone tells.
    verdict = "not shown" if one.doubts else "not by a probe" if one.unseen else "yes" if one.told else "–"
    probed = not math.isnan(one.probe)
    apart = f"{signed(one.probe - one.initial)} ({signed(one.low)} to {signed(one.high)})" if probed else "–"
    return (
        Entry(_name(one)),
        Entry(verdict, bold=verdict == "yes", faint=verdict == "–"),
        Entry(_change(one.first_loss, one.last_loss)),
        Entry("–" if math.isnan(one.collapse) else f"{one.collapse:.2f}"),
        Entry(_change(one.initial, one.probe)),
        Entry(apart),
    )


def _name(one: Learning) -> str:
    name = one.method if one.method == one.stage else f"{one.method}: {one.stage}"
    return name if one.runs == 1 else f"{name} ({one.runs} runs)"


def _change(before: float, after: float, digits: int = 3) -> str:
    if math.isnan(before) or math.isnan(after):
        return "–"
    return f"{before:.{digits}f} → {after:.{digits}f}".replace("-", "−")


LEARNING_CSV = (
    *("dataset", "method", "stage", "n_runs", "first_loss", "last_loss", "n_loss_fell", "n_collapsed", "collapse"),
    *("probe_initial", "probe", "low", "high"),
    *(f"{name}{which}" for name in SHAPES for which in ("_initial", "")),
    "learnt",
)


def learning_csv(found: Sequence[tuple[str, Learning]]) -> str:
    """All digits; `found` are (dataset, stage)."""
    rows = [
        [
            *(dataset, one.method, one.stage, one.runs, one.first_loss, one.last_loss, one.fell, one.collapsed),
            *(one.collapse, one.initial, one.probe, one.low, one.high),
            *(value for name in SHAPES for value in (one.initial_shape[name], one.shape[name])),
            not one.doubts,
        ]
        for dataset, one in found
    ]
    return csv_text(LEARNING_CSV, rows)
