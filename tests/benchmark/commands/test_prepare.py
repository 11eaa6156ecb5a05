"""`bench prepare` as it is typed: what it says, and its exit code."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ...conftest import Typed
from ...datasets.prepare.heads import REFERENCE, WHY_ABSENT


def save(path: Path, shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0])), path)


def test_all_that_is_broken_is_listed_in_one_pass(tmp_path: Path, typed: Typed) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "ann.nii.gz").touch()
    save(scans / "ben.nii.gz", (24, 24))
    save(scans / "cai.nii.gz", (24, 24, 24, 3))
    (scans / "dan.nii.gz").write_bytes(gzip.compress(b"x" * 4000)[:20])
    (tmp_path / "sheet.csv").write_text("patient,side,finding\nann,left,polyp\nben,,polyp\neve,left,normal\n")
    words = [str(scans), "--labels", str(tmp_path / "sheet.csv"), "--out", str(tmp_path / "out"), "--workers", "1"]
    code, _, said = typed("prepare", *words, "--reference", tmp_path / "nothing.nii.gz")
    assert code == 2
    assert "Traceback" not in said
    for what in (
        "ann.nii.gz: the file is empty",
        "ben.nii.gz: ",
        "cai.nii.gz: ",
        "dan.nii.gz: ",
        "patient ben: the side is missing",
        "patient eve is in the spreadsheet but has no scan",
        "patient cai has a scan but no row",
        "nothing.nii.gz",
    ):
        assert sum(what in line for line in said.splitlines()) == 1, (what, said)
    assert not (tmp_path / "out").exists()


def test_what_is_refused_is_said(tmp_path: Path, typed: Typed) -> None:
    if not REFERENCE.is_file():
        pytest.skip(WHY_ABSENT)
    (tmp_path / "scans").mkdir()
    save(tmp_path / "scans" / "ann.nii.gz", (24, 24, 24))
    words = [str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--reference", str(REFERENCE), "--workers", "1"]
    for worked_on in (1, 0):
        code, said, _ = typed("prepare", *words)
        assert code == 0
        assert f"1 heads ({worked_on} worked on now, {1 - worked_on} kept): 0 crops" in said
        assert said.count("refused p") == 2
        assert "ann" not in said.replace(str(tmp_path), "").replace("/private/sources.csv", "")
