"""The whole way on real heads, downsampled: crops, tables, privacy, resume."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from voxbench.datasets.manifest import Manifest, ManifestOptions
from voxbench.datasets.prepare.command import PrepareOptions, prepare
from voxbench.datasets.prepare.volume import read_volume

from . import heads
from .conftest import RADIUS

pytestmark = pytest.mark.skipif(not heads.REFERENCE.is_file(), reason=heads.WHY_ABSENT)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def crops_of(given: PrepareOptions, patient: str, side: str) -> list[dict[str, str]]:
    """Rows of sources.csv."""
    found = rows(given.out / "private" / "sources.csv")
    return [r for r in found if r["patient_id"] == patient and r["side"] == side]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_crop_laid_over_its_scan_fits(prepared: PrepareOptions, side: str) -> None:
    source = crops_of(prepared, "Huber_Josef", side)[0]
    crop = nib.load(prepared.out / source["crop"])
    scan = read_volume(Path(source["scan"]))
    values = crop.get_fdata()
    index = np.stack(np.meshgrid(*[np.arange(4, 28, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    place = index @ crop.affine[:3, :3].T + crop.affine[:3, 3]
    back = np.linalg.inv(scan.affine)
    there = np.rint(place @ back[:3, :3].T + back[:3, 3]).astype(int)
    seen = scan.data[tuple(there.T)]
    assert np.corrcoef(seen, values[tuple(index.T)])[0, 1] > 0.85
    centre = crop.affine @ [15.5, 15.5, 15.5, 1]
    known = heads.HEADS["ct"].centroids[("left", "right").index(side)]
    assert np.linalg.norm(centre[:3] - known) < 10
    assert np.linalg.det(crop.affine) * (1 if side == "left" else -1) > 0  # right crops are mirrored
    np.testing.assert_allclose(nib.affines.voxel_sizes(crop.affine), prepared.crop_mm / 32, rtol=1e-5)


def test_a_lesion_in_the_scan_is_in_the_crop_of_its_side(prepared: PrepareOptions) -> None:
    for side, present in (("left", True), ("right", False)):
        for source in crops_of(prepared, "Mueller_Anna", side):
            crop = nib.load(prepared.out / source["crop"])
            pieces, _ = ndimage.label(ndimage.binary_opening(crop.get_fdata() > 0.95))
            sizes = np.bincount(pieces.ravel(), minlength=2)
            sizes[0] = 0  # the rest of the crop
            bright = np.argwhere(pieces == sizes.argmax())
            volume = sizes.max() * (prepared.crop_mm / 32) ** 3
            assert (volume > 0.7 * 4 / 3 * np.pi * RADIUS**3) == present
            if present:
                middle = crop.affine @ [*bright.mean(axis=0), 1]
                assert np.linalg.norm(middle[:3] - heads.HEADS["t2"].centroids[0]) < 3


def test_mirrored_sides_look_alike(prepared: PrepareOptions) -> None:
    """The nasal cavity is on the same side of every crop as `bench run` reads it."""
    dataset = Manifest(ManifestOptions(size=32), prepared.out)
    first = [i for i in dataset.items() if i.volume.endswith("00.nii.gz")]
    huber = {i.side: dataset.read(i)[0] for i in first if i.label is None}
    assert np.corrcoef(huber["left"].ravel(), huber["right"].ravel())[0, 1] > 0.5
    assert np.corrcoef(huber["left"].ravel(), huber["right"][::-1].ravel())[0, 1] < 0.5


def test_the_manifest_is_a_dataset(prepared: PrepareOptions) -> None:
    items = Manifest(ManifestOptions(size=32), prepared.out).items()
    assert len(items) == 12
    labelled = [i for i in items if i.label is not None]
    assert {(i.side, i.label, i.finding) for i in labelled} == {("left", 1, "polyp"), ("right", 0, "normal")}
    assert len({i.unit for i in items}) == 4
    assert len({i.patient for i in items}) == 2


def test_no_name_outside_private(prepared: PrepareOptions) -> None:
    names = [b"Mueller", b"Huber", b"Anna", str(prepared.scans.parent).encode()]
    for path in prepared.out.rglob("*"):
        if path.is_file() and "private" not in path.parts:
            content = path.read_bytes()
            if path.name.endswith(".nii.gz"):
                content = nib.load(path).header.binaryblock
            assert not any(name in content or name.decode() in path.name for name in names), path
    private = prepared.out / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in private.iterdir())
    assert {r["patient_id"] for r in rows(private / "sources.csv")} == {"Mueller_Anna", "Huber_Josef"}


def test_record_and_contact_sheet(prepared: PrepareOptions) -> None:
    about = json.loads((prepared.out / "prepare.json").read_text())
    assert about["parameters"]["crop_mm"] == prepared.crop_mm
    assert np.array(about["heads"][0]["position"]["transform"]).shape == (4, 4)
    page = (prepared.out / "index.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert "http" not in page


def test_only_what_is_new_or_changed_is_done(prepared: PrepareOptions, tmp_path: Path) -> None:
    shutil.copytree(prepared.out, tmp_path / "out")
    given = replace(prepared, out=tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (given.out / "crops").rglob("*.nii.gz")}
    assert prepare(given).done_now == 0
    assert {p: p.stat().st_mtime_ns for p in (given.out / "crops").rglob("*.nii.gz")} == before
    lost = sorted(before)[0]
    content = lost.read_bytes()
    lost.unlink()
    phases: list[tuple[str, int, int]] = []
    assert prepare(given, lambda *event: phases.append(event)).done_now == 1  # its registration is kept
    assert lost.read_bytes() == content
    assert phases[-1] == ("heads", 1, 1)
    refused = prepare(replace(given, limits=replace(given.limits, inside=1.0, tissue=1.0)))
    assert refused.done_now == 2
    assert refused.crops == 0
    assert len(rows(given.out / "excluded.csv")) == 4
    assert rows(given.out / "manifest.csv") == []


def test_a_stop_loses_nothing(prepared: PrepareOptions, tmp_path: Path) -> None:
    """Stopped after the first head; the next call does the other one only."""
    shutil.copytree(prepared.out, tmp_path / "out")
    given = replace(prepared, out=tmp_path / "out")
    for record in (given.out / "heads").glob("*.json"):
        position = json.loads(record.read_text())
        position["key"] = "of another recipe"
        record.write_text(json.dumps(position))

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "heads" and done == 1:
            raise KeyboardInterrupt

    table = (given.out / "manifest.csv").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        prepare(given, stop)
    assert (given.out / "manifest.csv").read_bytes() == table
    assert prepare(given).done_now == 1


def test_a_stop_in_another_recipe_mixes_nothing(prepared: PrepareOptions, tmp_path: Path) -> None:
    """Until the new manifest is there, the old one and the crops that it names are as they were; then those go."""
    shutil.copytree(prepared.out, tmp_path / "out")
    given = replace(prepared, out=tmp_path / "out", mirror="none", size=16, samples_per_sinus=1)
    old = {p: p.read_bytes() for p in (given.out / "crops").rglob("*.nii.gz")}

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "heads" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(given, stop)
    assert {p: p.read_bytes() for p in old} == old
    assert {nib.load(given.out / row["path"]).shape for row in rows(given.out / "manifest.csv")} == {(32, 32, 32)}
    assert prepare(given).done_now == 1
    assert {nib.load(p).shape for p in (given.out / "crops").rglob("*.nii.gz")} == {(16, 16, 16)}


def test_a_patient_withdrawn_is_gone(prepared: PrepareOptions, tmp_path: Path) -> None:
    shutil.copytree(prepared.out, tmp_path / "out")
    (tmp_path / "scans").mkdir()
    shutil.copyfile(prepared.scans / "Huber_Josef.nii.gz", tmp_path / "scans" / "Huber_Josef.nii.gz")
    given = replace(prepared, scans=tmp_path / "scans", out=tmp_path / "out", labels=None)
    code = crops_of(given, "Mueller_Anna", "left")[0]["code"]
    assert any(code in p.name for p in given.out.rglob("*"))
    assert prepare(given).crops == 6
    assert not any(code in p.name for p in given.out.rglob("*"))
    assert "Mueller" not in (given.out / "private" / "seen.json").read_text()


def test_broken_scan_is_skipped_only_on_request(prepared: PrepareOptions, tmp_path: Path) -> None:
    shutil.copytree(prepared.out, tmp_path / "out")
    shutil.copytree(prepared.scans, tmp_path / "scans")
    (tmp_path / "scans" / "Broken_Bob.nii.gz").touch()
    given = replace(prepared, scans=tmp_path / "scans", out=tmp_path / "out", skip_broken=True, pool_unlisted=True)
    result = prepare(given)
    assert result.crops == 12
    assert [row["side"] for row in result.excluded] == ["left", "right"]
    assert "the file is empty" in result.excluded[0]["reason"]
    assert "Bob" not in (given.out / "excluded.csv").read_text()
