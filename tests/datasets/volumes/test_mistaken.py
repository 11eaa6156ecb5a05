"""What users give in place of a manifest: one line that names what to give instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.manifest import Manifest, ManifestOptions
from voxbench.datasets.volumes.mistaken import mistaken

from ...conftest import Typed

CASES: dict[str, tuple[Sequence[str], str]] = {
    "adrenalmnist3d_64.npz": ([""], "--dataset adrenalmnist3d --data-root {folder} --set dataset.size=64"),
    "nodulemnist3d.npz": ([""], "--dataset nodulemnist3d --data-root {folder} --set dataset.size=28"),
    "mine.npz": ([""], "arrays, which tell no patients; write each volume as .nii.gz"),
    "mine.npy": ([""], "arrays, which tell no patients"),
    "scan.nii.gz": ([""], "one volume, not a manifest; write a CSV of path,patient_id,label"),
    "scan.NII": ([""], "one volume, not a manifest"),
    "scans.zip": ([""], "convert the volumes to .nii.gz, and write a CSV"),
    "medmnist": (["vesselmnist3d.npz"], "--dataset vesselmnist3d --data-root {folder}/medmnist --set dataset.size=28"),
    "niftis": (["a.nii.gz", "b.nii.gz"], "a folder of NIfTI without manifest.csv; write a CSV"),
    "cases": (["s1/ct.nii.gz"], "or, for sinuses in head scans, run bench prepare on it first"),
    "bids": (["participants.tsv", "sub-01/anat/sub-01_T1w.nii.gz"], "a BIDS tree without manifest.csv; write a CSV"),
    "dicom": (["ann/1.dcm"], "a folder of DICOM; convert it (dcm2niix)"),
    "otherwise": (["cohort.csv", "a.nii.gz"], "name the file itself, as in --dataset {folder}/otherwise/cohort.csv"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_to_give(name: str, tmp_path: Path, typed: Typed) -> None:
    inside, words = CASES[name]
    for path in inside:
        place = tmp_path / name / path if path else tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    words = words.format(folder=tmp_path)
    for more in ((), ("--data-root", tmp_path)):
        told = typed("run", "--dataset", tmp_path / name, "--out", tmp_path / "run", *more)
        assert told.code == 2
        assert words in told.err
        assert len(told.err.strip().splitlines()) == 1
    with pytest.raises(DatasetError) as raised:
        Manifest(ManifestOptions(), tmp_path / name).items()
    assert words in str(raised.value)


def test_what_may_be_a_manifest_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,patient_id,label\n")
    (tmp_path / "adrenalmnist3d.npz").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for given in (tmp_path, tmp_path / "manifest.csv", tmp_path / "empty", tmp_path / "nothing"):
        assert mistaken(given) is None
