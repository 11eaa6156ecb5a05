"""The tables of a report, each made from a grid (and later its statistics)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from voxbench.reports.judging.remarks import unevenness
from voxbench.reports.judging.words import counted, listed
from voxbench.reports.reading.grid import Cell, Grid
from voxbench.reports.reading.results import percent
from voxbench.reports.reading.searches import DEFAULT
from voxbench.reports.stats.summary import summarise
from voxbench.reports.tables.table import Entry, Table, csv_text

TIED = "†"
INCOMPLETE = "‡"
ELSEWHERE = "§"


# AUPRC with 10 % of the labels: Bhattacharya et al., IJCARS 2024 (arXiv 2404.18599). No other number of
# its tables is
# known here, and none is cited.
PUBLISHED = {"residual": 0.79, "byol": 0.75, "spark": 0.75, "simsiam": 0.74, "simclr": 0.73}


def main_table(grid: Grid, tied: Mapping[float, frozenset[str]] | None = None, *, reference: bool = False) -> Table:
    """Methods x fractions: AUPRC, mean ± standard deviation over folds x seeds, with what each method spent.

    `tied` names, for every fraction, the methods that the data cannot separate from the best one.
    `reference` adds the seed paper's numbers, marked as from another cohort.
    """
    best = {fraction: _best(grid, fraction) for fraction in grid.fractions}
    columns = ("Method", *(percent(f) for f in grid.fractions), "Labels", _cost_unit(grid)[0].capitalize(), "Memory")
    columns += (f"Published, 10 % {ELSEWHERE}",) if reference else ()
    rows = {
        method: (
            Entry(method),
            *(_score(grid, method, f, best[f], (tied or {}).get(f, frozenset())) for f in grid.fractions),
            Entry(_labels(grid, method)),
            Entry(_time(grid, method)),
            Entry(_memory(grid, method)),
            *([Entry(f"{PUBLISHED[method]:.2f}" if method in PUBLISHED else "–", faint=True)] * reference),
        )
        for method in grid.methods
    }
    blanks = (Entry("–", faint=True),) * (4 if reference else 3)
    chance = Entry("–" if math.isnan(grid.no_skill) else f"{grid.no_skill:.3f}")
    footer = (Entry("no skill"), *(chance for _ in grid.fractions), *blanks)
    heading = ((Entry("yardsticks:"), *(Entry(""),) * (len(columns) - 1)),) if grid.yardsticks else ()
    return Table(
        title=f"AUPRC on {grid.title}",
        columns=columns,
        rows=tuple(row for method, row in rows.items() if method not in grid.yardsticks),
        footers=(footer, *heading, *(rows[method] for method in grid.yardsticks)),
        notes=(*_main_notes(grid, tied), *([_REFERENCE_NOTE] * reference)),
    )


_REFERENCE_NOTE = (
    f"{ELSEWHERE} from another cohort (Bhattacharya et al., IJCARS 2024: maxillary sinuses of the "
    f"Hamburg City Health "
    "Study, AUPRC with 10 % of the labels): not comparable, shown for orientation only."
)


def _best(grid: Grid, fraction: float) -> frozenset[str]:
    """The methods with the highest mean at a fraction: one, or several with exactly the same."""
    means = {m: summarise([cell.auprc for cell in grid.ok(m, fraction)]).mean for m in grid.methods}
    known = [mean for mean in means.values() if not math.isnan(mean)]
    if not known:
        return frozenset()
    return frozenset(m for m, mean in means.items() if mean == max(known))


def _score(grid: Grid, method: str, fraction: float, best: frozenset[str], tied: frozenset[str]) -> Entry:
    done = grid.ok(method, fraction)
    expected = len(grid.replicates)
    summary = summarise([cell.auprc for cell in done])
    if not done:
        states = [cell.state for cell in grid.at(method, fraction)]
        scores = states.count("ok")
        text = f"{scores} of {expected}" if scores else max(set(states), key=states.count)
        return Entry(text, note=INCOMPLETE, faint=True)
    text = f"{summary.mean:.3f}" if math.isnan(summary.std) else f"{summary.mean:.3f} ± {summary.std:.3f}"
    note = (TIED if method in tied and len(tied) > 1 else "") + (INCOMPLETE if len(done) < expected else "")
    return Entry(text, bold=method in best, note=note)


def _labels(grid: Grid, method: str) -> str:
    """Labels spent, one number a fraction (mean over replicates)."""
    means = [_mean_of(grid.ok(method, f), "n_labels_spent") for f in grid.fractions]
    return "/".join("–" if math.isnan(mean) else f"{mean:.0f}" for mean in means)


def time_unit(hours: Sequence[float]) -> tuple[str, float]:
    """In what to tell these hours, and how many of it an hour has: minutes where all are less than one hour."""
    known = [value for value in hours if not math.isnan(value)]
    return ("minutes", 60.0) if known and max(known) < 1 else ("hours", 1.0)


def _cost_unit(grid: Grid) -> tuple[str, float]:
    return time_unit([cost_hours(grid, method, grid.fractions) for method in grid.methods])


def _time(grid: Grid, method: str) -> str:
    """Pretraining and fine-tuning of one model, mean over its cells: hours or minutes, of yardsticks seconds."""
    hours = cost_hours(grid, method, grid.fractions)
    if method in grid.yardsticks and not math.isnan(hours):
        return f"{3600 * hours:.1f} s"
    return "–" if math.isnan(hours) else f"{hours * _cost_unit(grid)[1]:.2f}"


def cost_hours(grid: Grid, method: str, fractions: Sequence[float]) -> float:
    """Mean device-hours of one cell: all the pretraining behind it and its fine-tuning. NaN where not
    known."""
    cells = [cell for fraction in fractions for cell in grid.ok(method, fraction)]
    return (_mean_of(cells, "pretrain_seconds") + _mean_of(cells, "finetune_seconds")) / 3600


def _memory(grid: Grid, method: str) -> str:
    peaks = [c.row.peak_memory_mb for f in grid.fractions for c in grid.ok(method, f) if c.row is not None]
    known = [peak for peak in peaks if not math.isnan(peak)]
    return f"{max(known) / 1024:.2f} GiB" if known else "–"


def _mean_of(cells: Sequence[Cell], name: str) -> float:
    values = [float(getattr(cell.row, name)) for cell in cells if cell.row is not None]
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def devices(grid: Grid) -> tuple[str, ...]:
    """The devices that scored cells ran on, those of formulas aside where others were trained."""
    trained = [cell for cell in grid.scored if cell.place.method not in grid.yardsticks] or grid.scored
    return tuple(sorted({cell.row.device for cell in trained if cell.row is not None and cell.row.device}))


def _main_notes(grid: Grid, tied: Mapping[float, frozenset[str]] | None) -> list[str]:
    folds, seeds = len(grid.folds), len(grid.seeds)
    count = len(grid.replicates)
    spread = f"Mean ± standard deviation over {counted(folds, 'fold')} × {counted(seeds, 'seed')}"
    if count == 1:
        spread = "One fold and one seed: there is no spread to show, and no replicate to test with"
    where = ", ".join(devices(grid)) or "unknown device"
    unit = _cost_unit(grid)[0].capitalize()
    training = "fine-tuning" if grid.evaluation == "finetune" else "fit"
    known = math.isfinite(grid.prevalence)  # where a cell was scored
    lifted = f" (prevalence {grid.prevalence:.3f}; small test parts lift every AUPRC)" if known else ""
    notes = [
        " ".join([f"{spread}. Bold: the highest mean of a column.", *unevenness(grid, grid.fractions)]),
        f"Labels: labelled volumes spent on training, selection and pretraining together, at "
        f"{', '.join(map(percent, grid.fractions))}. {unit}: pretraining and {training} of one model, "
        f"a mean over its cells ({where}). Memory: its peak. No skill: the mean of random "
        f"rankings of the same test parts{lifted}.",
    ]
    if grid.yardsticks:
        notes.append(
            "Yardsticks: formulas and a frozen encoder, given the same labels, which a method should be better than."
        )
    notes += _settings_note(grid)
    if tied is not None and any(len(group) > 1 for group in tied.values()):
        notes.append(f"{TIED} not separable from the best of its column.")
    troubled = grid.troubled()
    if troubled:
        states = [cell.state for cell in troubled]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        notes.append(f"{INCOMPLETE} not over all folds and seeds ({counts} of {len(grid.cells)} cells in all).")
    return notes


def _settings_note(grid: Grid) -> list[str]:
    """Whose settings a search chose: a tuned method and an untuned one are no fair pair."""
    by: dict[str, list[str]] = {}
    for method in grid.methods:
        if method not in grid.yardsticks:
            by.setdefault(grid.standings.get(method, DEFAULT), []).append(method)
    if not by:
        return []
    if list(by) == [DEFAULT]:
        return ["Settings: default for all methods, none tuned."]
    return [f"Settings: {'; '.join(f'{said} for {listed(methods)}' for said, methods in by.items())}."]


MAIN_CSV = (
    "dataset",
    "method",
    "fraction",
    "auprc_mean",
    "auprc_std",
    "n_cells",
    "n_expected",
    "n_failed",
    "n_missing",
    "n_half_done",
    "n_undefined",
    "n_not_shared",
    "best",
    "no_skill",
    "n_labels_spent",
    "hours",
    "peak_memory_mb",
)


def main_csv(grids: Sequence[Grid]) -> str:
    """The main table with all digits, a row a method and fraction."""
    return csv_text(MAIN_CSV, [_csv_row(g, m, f) for g in grids for m in g.methods for f in g.fractions])


def _csv_row(grid: Grid, method: str, fraction: float) -> list[object]:
    done = grid.ok(method, fraction)
    states = [cell.state for cell in grid.at(method, fraction)]
    summary = summarise([cell.auprc for cell in done])
    peaks = [c.row.peak_memory_mb for c in done if c.row is not None and not math.isnan(c.row.peak_memory_mb)]
    return [
        grid.name,
        method,
        fraction,
        summary.mean,
        summary.std,
        summary.n,
        len(states),
        states.count("failed"),
        states.count("missing"),
        states.count("half-done"),
        states.count("undefined"),
        states.count("ok") - len(done),
        method in _best(grid, fraction),
        grid.no_skill,
        _mean_of(done, "n_labels_spent"),
        cost_hours(grid, method, [fraction]),
        max(peaks, default=math.nan),
    ]
