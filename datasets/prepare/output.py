"""The tables and pages of PREPARED, made from the heads' records at the end of every call."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy
import scipy
import SimpleITK

from voxbench.datasets.prepare import sheet, store
from voxbench.datasets.prepare.head import VERSION, Recipe
from voxbench.datasets.prepare.labels import Label, Labels
from voxbench.datasets.prepare.quality import SIDES
from voxbench.datasets.prepare.scans import Scan


def stamp(path: Path) -> list[int]:
    """Size, inode and times in ns of modification and of change: as long as all stay, the content is taken to stay."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def seen_entries(scans: Sequence[Scan], hashes: Mapping[Path, str]) -> dict[str, list[Any]]:
    """The cache of checked files: path -> stamp, SHA-256, modality it was read as; other files are forgotten."""
    return {
        str(scan.path.resolve()): [stamp(scan.path), hashes[scan.path], scan.modality]
        for scan in scans
        if scan.path in hashes
    }


@dataclass(frozen=True)
class Tables:
    """Rows of the three CSV files."""

    manifest: list[dict[str, str]]
    sources: list[dict[str, str]]
    excluded: list[dict[str, str]]

    @classmethod
    def of(
        cls,
        records: Mapping[str, store.Record],
        failures: Mapping[str, str],
        people: Mapping[str, Scan],
        labels: Labels | None,
    ) -> Tables:
        """Collect all heads, sorted by code."""
        manifest, sources, excluded = [], [], []
        for code in sorted(people):
            scan = people[code]
            for side in SIDES:
                known = labels.known.get((scan.patient, side)) if labels is not None else None
                label = known or Label("")
                source = {"scan": str(scan.path), "patient_id": scan.patient, "side": side, "code": code}
                source["finding_as_told"] = label.told
                if code in failures:
                    reasons, crops = [failures[code]], []
                else:
                    found = records[code]["sides"][side]
                    reasons, crops = found["refused"], found["crops"]
                if reasons:
                    excluded.append({"patient_id": code, "side": side, "reason": "; ".join(reasons)})
                    sources.append({"crop": "", **source})
                for crop in crops:
                    sources.append({"crop": crop["path"], **source})
                    manifest.append(
                        {
                            "path": crop["path"],
                            "patient_id": code,
                            "label": label.label,
                            "side": side,
                            "split": "",
                            "finding": label.finding,
                            "unit": f"{code}_{side}",
                            "axes": "stored",
                        }
                    )
        return cls(manifest, sources, excluded)


def write_all(
    folder: store.Store,
    tables: Tables,
    records: Mapping[str, store.Record],
    recipe: Recipe,
    failures: Mapping[str, str],
) -> None:
    """Private table first, the manifest last: a manifest never names what is not there."""
    root = folder.root
    store.write(folder.private / "sources.csv", store.table(store.SOURCES, tables.sources), private=True)
    heads = [
        {key: value for key, value in records[code].items() if key not in ("key", "files")} for code in sorted(records)
    ]
    about = {
        "version": VERSION,
        "parameters": {**asdict(replace(recipe, reference=replace(recipe.reference, path=Path()))), "reference": {
            "name": recipe.reference.name, "sha256": recipe.reference.sha256, "centroids": recipe.reference.centroids,
        }},
        "versions": {
            "python": platform.python_version(), "nibabel": nibabel.__version__, "numpy": numpy.__version__,
            "scipy": scipy.__version__, "SimpleITK": SimpleITK.Version.VersionString(),
        },
        "heads": heads,
        "failed": dict(sorted(failures.items())),
    }  # fmt: skip
    store.write(root / "prepare.json", store.dump(about))
    pictures = {code: (root / "heads" / f"{code}.jpg").read_bytes() for code in records}
    store.write(root / "index.html", sheet.page(records, failures, pictures))
    store.write(root / "excluded.csv", store.table(store.EXCLUDED, tables.excluded))
    store.write(root / "manifest.csv", store.table(store.MANIFEST, tables.manifest))
    folder.keep_only(records, {Path(row["scan"]) for row in tables.sources})
