"""The part of a run folder that a report or a comparison needs, small enough to lie beside a paper."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from voxbench.reports.reading.results import ReportError
from voxbench.reports.reading.run_folder import read_run
from voxbench.reports.reading.tables import PREDICTIONS

AS_THEY_ARE = ("config.yaml", "dataset.json", "environment.json", "audit.json", "results.csv", "tables.json")
# Which volumes were seen, by hash; what other files have; and the seal of the record as a whole.
LEFT_OUT = ("seen", "scores", "seal")


def export_run(run: Path, out: Path) -> list[Path]:
    """Copies tables, scores and curves of `run` into a new folder, without weights, pictures and the salt.

    Ids stay the codes that they are. Raises ReportError for a run that no report could be made of, and for an `out`
    that there is.
    """
    read = read_run(run)
    if not read.units:
        raise ReportError(f"{run}: has no scores in {PREDICTIONS} to export: run `bench run` to its end first")
    if out.exists():
        raise ReportError(f"{out}: is there already: give a new folder")
    out.mkdir(parents=True)
    for name in AS_THEY_ARE:
        if (run / name).is_file():
            shutil.copyfile(run / name, out / name)
    # mtime=0: the same scores give the same bytes
    with (out / f"{PREDICTIONS}.gz").open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write((run / PREDICTIONS).read_bytes())
    for row in read.rows:
        _slim(run, out, Path("cells") / row.place.method / f"{row.key}.json", also=("curve",))
    for stage in read.stages:
        _slim(run, out, Path("stages") / stage.key / "stage.json")
    return sorted(path for path in out.rglob("*") if path.is_file())


def _slim(run: Path, out: Path, name: Path, also: tuple[str, ...] = ()) -> None:
    """A record less what nobody needs to read it; where there is none, none."""
    if not (run / name).is_file():
        return
    record: dict[str, Any] = json.loads((run / name).read_text(encoding="utf-8"))
    kept = {key: value for key, value in record.items() if key not in (*LEFT_OUT, *also)}
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text(json.dumps(kept) + "\n", encoding="utf-8")
