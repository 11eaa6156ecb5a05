"""The README's table of results is what the kept results say."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from voxbench.reports.judging.analysis import analyse
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results" / "reference"
ROWS = {
    "residual-SSL": "residual",
    "SparK": "spark",
    "SimCLR": "simclr",
    "BYOL": "byol",
    "SimSiam": "simsiam",
    "no pretraining": "supervised",
    "best formula": "block-means-trees",
}


def test_the_readmes_table_is_that_of_the_kept_results() -> None:
    run = read_run(KEPT)
    means: dict[tuple[str, str], list[float]] = defaultdict(list)
    analysis = {evaluation: analyse(build_grid(run, evaluation)) for evaluation in run.evaluations}
    for evaluation, one in analysis.items():
        for method in one.grid.methods:
            means[method, evaluation] += [cell.auprc for cell in one.grid.ok(method, 0.1)]
    differences = {c.second: c for c in analysis["finetune"].comparisons[0.1] if c.first == "supervised"}
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for title, method in ROWS.items():
        (line,) = [line for line in lines if line.startswith(f"| {title}")]
        tuned, against, linear, knn = (cell.strip() for cell in line.split("|")[2:6])
        for said, evaluation in ((tuned, "finetune"), (linear, "linear"), (knn, "knn")):
            if said:
                assert abs(float(said) - np.mean(means[method, evaluation])) < 0.00051, (title, evaluation)
        if against:
            found = differences[method]
            numbers = [float(text) for text in re.findall(r"[-+]?\d\.\d+", against)]
            assert np.allclose(numbers, [-found.difference, -found.high, -found.low], atol=0.00051), title
