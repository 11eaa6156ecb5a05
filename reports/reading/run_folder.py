"""Read a run folder (docs/run-folder.md) into plain values, and say clearly what is wrong where it cannot be read.

Nothing of `private/` is read here, and nothing here knows a model or a volume.
"""

from __future__ import annotations

from pathlib import Path

from voxbench.reports.reading.documents import read_json, read_yaml
from voxbench.reports.reading.results import ReportError, RunFolder
from voxbench.reports.reading.stages import read_stages
from voxbench.reports.reading.tables import check_seals, predictions_of, read_rows, read_units


def read_run(path: Path) -> RunFolder:
    """Read the run folder at `path`. Raises ReportError with the file and what to do."""
    if not path.is_dir():
        raise ReportError(f"{path}: no such folder; give the folder that `bench run --out` wrote")
    dataset = read_json(path / "dataset.json", needed=True)
    remarks: list[str] = []
    check_seals(path)
    rows = read_rows(path / "results.csv", remarks)
    return RunFolder(
        path=path,
        config=read_yaml(path / "config.yaml"),
        environment=read_json(path / "environment.json", needed=False) or {},
        dataset=dataset,
        audit=read_json(path / "audit.json", needed=False),
        rows=rows,
        units=read_units(predictions_of(path), len(dataset.get("classes", ())), remarks),
        stages=tuple(read_stages(path / "stages", {key for row in rows for key in row.stages}, remarks)),
        remarks=tuple(remarks),
    )
