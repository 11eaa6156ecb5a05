"""Everything that can be wrong with inputs is said at once, and nothing is touched."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare import labels as sheet
from voxbench.datasets.prepare.command import PrepareOptions, gather, prepare
from voxbench.datasets.prepare.reference import find_reference, parse_centroids
from voxbench.datasets.prepare.store import Store
from voxbench.datasets.prepare.volume import Volume, guess_modality, header_affine, read_volume, to_grid

from ...conftest import Typed
from .conftest import options

Save = Callable[..., Path]


def spoil_everything(folder: Path, save: Save) -> None:
    (folder / "scans").mkdir()
    (folder / "scans" / "empty.nii.gz").touch()
    whole = save("whole.nii.gz")
    (folder / "scans" / "short.nii.gz").write_bytes(whole.read_bytes()[:20000])
    save("flat.nii.gz", np.ones((30, 30), np.float32))
    save("series.nii.gz", np.ones((30, 30, 30, 4), np.float32))
    holes = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    holes[3, 3, 3] = np.nan
    save("holes.nii.gz", holes)
    zero = nib.Nifti1Image(np.random.default_rng(1).normal(size=(30, 30, 30)).astype(np.float32), np.eye(4))
    zero.set_sform(np.zeros((4, 4)), code=1)
    zero.set_qform(None, code=0)
    zero.to_filename(folder / "scans" / "zero.nii.gz")
    save("a/twice.nii.gz")
    save("b/twice.nii.gz")


ROWS = (
    "patient,side,finding\nwhole,left,normal\nwhole,left,polyp\nempty,,cyst\nshort,left,normal\nflat,left,normal\n"
    "series,left,normal\nholes,left,toothache\nzero,up,normal\nnobody,left,normal\n"
)
EXPECTED = {
    "empty.nii.gz": "the file is empty",
    "short.nii.gz": "damaged: copy it again (it ends in the middle of its compressed data)",
    "flat.nii.gz": "2D",
    "series.nii.gz": "4D",
    "holes.nii.gz": "NaN",
    "zero.nii.gz": "affine is zero",
    "patient twice has 2 scans": "keep one",
    "patient nobody is in the spreadsheet but has no scan": "remove the row",
    "patient twice has a scan but no row": "--pool-unlisted",
    "row 3": "duplicate of row 2",
    "row 4": "side is missing",
    "row 8": "finding toothache is none of",
    "row 9": "side up is none of",
}


def test_every_flaw_has_its_line_in_one_pass(tmp_path: Path, save: Save, reference: Path) -> None:
    spoil_everything(tmp_path, save)
    (tmp_path / "sheet.csv").write_text(ROWS)
    with pytest.raises(DatasetError) as caught:
        prepare(options(tmp_path / "scans", tmp_path / "out", labels=tmp_path / "sheet.csv"))
    for where, what in EXPECTED.items():
        lines = [line for line in caught.value.problems if where in line]
        assert any(what in line for line in lines), (where, what, caught.value.problems)
    assert not (tmp_path / "out").exists()


def test_exit_code_2_and_earlier_output_stays(
    tmp_path: Path, prepared: PrepareOptions, reference: Path, typed: Typed
) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared.out, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    shutil.copytree(prepared.scans, tmp_path / "scans")
    (tmp_path / "scans" / "empty.nii.gz").touch()
    (tmp_path / "scans" / "annexed.nii.gz").symlink_to(tmp_path / "not fetched")
    # MNI152 needs no --centroids
    told = typed("prepare", tmp_path / "scans", "--out", out, "--reference", reference, "--workers", "1")
    assert told.code == 2
    assert "annexed.nii.gz: there is no such file, or a link to nothing" in told.err
    assert "empty.nii.gz: the file is empty" in told.err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_foreign_folder_is_not_written_to(tmp_path: Path, save: Save) -> None:
    save("good.nii.gz")
    with pytest.raises(DatasetError, match="holds other files"):
        prepare(options(tmp_path / "scans", tmp_path / "scans"))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("none.csv", None, "no such spreadsheet"),
        ("empty.csv", b"", "is empty"),
        ("binary.csv", b"\xff\xfe\x00\x01", "not readable"),
        ("old.xls", b"\xd0\xcf\x11\xe0", "save the spreadsheet as .xlsx"),
        ("text.xlsx", b"patient,side,label\n7,left,1\n", "this is text, not a workbook; rename it to .csv"),
        ("text with a mark.xlsx", b"\xef\xbb\xbfPatient;Side;M\xc3\xbcller\r\n", "this is text, not a workbook"),
        ("noise.xlsx", b"\x07\x01" * 300, "not readable"),
        ("cut.xlsx", b"PK\x03\x04" + b"text " * 30, "not readable"),
        ("broken.xlsx", b"PK\x03\x04 not a workbook", "not readable"),
        ("columns.csv", b"name,finding\nx,normal\n", "no column patient_id or"),
    ],
)
def test_unreadable_spreadsheet(tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=why):
        sheet.read_labels(tmp_path / name)


def test_sheets_of_all_kinds_agree(tmp_path: Path) -> None:
    rows = [("patient", "side", "finding", "label"), ("7", "left", "Polyp", ""), ("7", "R", "", "0"), ("8", "", "", "")]
    (tmp_path / "s.csv").write_text("\n".join(";".join(row) for row in rows))
    (tmp_path / "s.tsv").write_text("\n".join("\t".join(row) for row in rows))
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([float(cell) if cell.isdigit() else cell for cell in row])
    book.save(tmp_path / "s.xlsx")
    for kind in ("csv", "tsv", "xlsx"):
        labels, problems = sheet.read_labels(tmp_path / f"s.{kind}")
        assert problems == []
        assert labels.listed == {"7", "8"}
        assert labels.known[("7", "left")] == sheet.Label("anomalous", "polyp", "Polyp")
        assert labels.known[("7", "right")] == sheet.Label("normal", "normal")
        assert ("8", "left") not in labels.known


def header(sform: int, qform: int, q_affine: np.ndarray | None = None) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), None)
    image.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), code=sform)
    image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]) if q_affine is None else q_affine, code=qform)
    return image


def test_which_affine_holds() -> None:
    with pytest.raises(DatasetError, match="neither sform nor qform"):
        header_affine(header(0, 0))
    flipped = np.diag([-2.0, 2.0, 2.0, 1.0])
    with pytest.raises(DatasetError, match="contradict each other on left and right"):
        header_affine(header(1, 1, flipped))
    assert header_affine(header(0, 1, flipped))[0][0, 0] == -2  # no sform: qform holds
    assert header_affine(header(1, 0, flipped))[0][0, 0] == 2
    turned = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine, notes = header_affine(header(1, 1, turned))
    assert affine[0, 0] == 2
    assert "differ by 180 degrees" in notes[0]


def test_axis_order_never_decides(tmp_path: Path) -> None:
    """One head stored in many orders reads as the same volume."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(30, 34, 38)).astype(np.float32)
    affine = np.diag([3.0, 2.5, 2.0, 1.0])
    affine[:3, 3] = (-40, -50, -60)
    image = nib.Nifti1Image(data, affine)
    for code in ("RAS", "LPI", "PIR", "SAL", "ILA"):
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(code))
        image.as_reoriented(turn).to_filename(tmp_path / "x.nii.gz")
        volume = read_volume(tmp_path / "x.nii.gz")
        np.testing.assert_array_equal(volume.data, data)
        np.testing.assert_allclose(volume.affine, affine)


def test_modality_by_air() -> None:
    hounsfield = np.where(np.arange(1000).reshape(10, 10, 10) % 3 == 0, -1000, 40).astype(np.float32)
    assert guess_modality(hounsfield) == "ct"
    assert guess_modality(hounsfield + 1000) == "mr"


def test_reference_needs_its_centroids(tmp_path: Path) -> None:
    (tmp_path / "r.nii.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DatasetError, match="add --centroids"):
        find_reference(tmp_path / "r.nii.gz", None)
    with pytest.raises(DatasetError, match="left sinus comes first"):
        parse_centroids("25,38,-66/-25,38,-66")
    with pytest.raises(DatasetError, match="write x,y,z/x,y,z"):
        parse_centroids("25,38")
    (tmp_path / "MNI152_of_mine.nii.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DatasetError, match="add --centroids"):
        find_reference(tmp_path / "MNI152_of_mine.nii.gz", None)  # its name alone does not make it one
    assert parse_centroids(" -25, 38,-66 / 25,38,-66.5") == ((-25, 38, -66), (25, 38, -66.5))


def test_mni152_is_known_and_no_patient(reference: Path, tmp_path: Path) -> None:
    """A reference that lies among the scans is none of them; MNI152 needs no centroids."""
    assert find_reference(reference, None).points().tolist() == [[-25, 38, -66], [25, 38, -66]]
    given = options(reference.parent, tmp_path / "out")
    scans, _, problems, _ = gather(given, Store(given.out))
    assert scans == []
    assert "no head in here besides the reference" in problems[0]


def test_reference_without_a_face(reference: Path) -> None:
    known = find_reference(reference, None)
    known.check()
    with pytest.raises(DatasetError, match="hardly any tissue around the left sinus"):
        replace(known, centroids=((-25.0, 38.0, -110.0), (25.0, 38.0, -110.0))).check()


def test_padding_of_a_ct_was_not_scanned() -> None:
    """What lies outside the reconstructed circle is no air, and counts for nothing."""
    rng = np.random.default_rng(0)
    data = np.where(np.arange(40)[:, None, None] < 15, -3024, rng.uniform(-1000, 1000, (40, 40, 40))).astype(np.float32)
    grid = to_grid(Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]), "ct"), 2.0)
    assert not grid.valid[:14].any()
    assert grid.valid[16:].all()
    assert grid.data.min() >= -1024
