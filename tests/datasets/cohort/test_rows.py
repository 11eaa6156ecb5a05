"""The table of a manifest: whose rows they are, what a label is, and which columns count."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.cohort.rows import one_letter_off
from voxbench.datasets.manifest import Manifest, ManifestOptions
from voxbench.datasets.volumes.bank import open_bank

from ...conftest import Typed

HEADER = "path,patient_id,label"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve sound volumes, v0 to v11."""
    folder = tmp_path_factory.mktemp("volumes")
    for seed in range(12):
        data = (100 * np.random.default_rng(seed).random((9, 9, 9))).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"v{seed}.nii.gz")
    return folder


def table(volumes: Path, rows: Sequence[str], header: str = HEADER, name: str = "manifest.csv") -> Path:
    """Rows without their paths, beside the volumes."""
    lines = [header, *(f"v{i}.nii.gz,{row}" for i, row in enumerate(rows))]
    (volumes / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return volumes / name


def dataset(path: Path, **options: object) -> Manifest:
    return Manifest(ManifestOptions(**{"size": 8, **options}), path)  # type: ignore[arg-type]


def problems(path: Path, **options: object) -> tuple[str, ...]:
    with pytest.raises(DatasetError) as caught:
        dataset(path, **options).items()
    return caught.value.problems


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("P01", "p01", "capitals"),
        ("7", "007", "zeros in front"),
        ("7", "7.0", "a .0 at the end"),
        ("7", "sub-7", "a prefix as sub-"),
        ("P-7", "P_7", "signs between"),
        ("P 7", "P7", "signs between"),
        ("P007", "p7", "capitals and zeros"),
    ],
)
def test_one_person_under_two_ids_is_refused(volumes: Path, one: str, other: str, how: str) -> None:
    path = table(volumes, [f"{one},0", "x,1", f"{other},0", f"{other},0", "y,1"])
    assert problems(path) == (
        f"row 4, v2.nii.gz: patient {other} and {one} in row 2 look like one person, they differ by {how} only; "
        "write it in one way; if they are two, rename one so that more than that differs",
    )


@pytest.mark.parametrize(
    "other", [unicodedata.normalize("NFD", "Müller 7"), "Müller  7", "Müller\u00a07", "\u200bMüller 7\u2003"]
)
def test_what_looks_the_same_is_one_patient_and_one_unit(volumes: Path, other: str) -> None:
    rows = [f"Müller 7,0,{other}", f"{other},0,Müller 7", "x,1,", "y,1,", f"{other},,"]
    items = dataset(table(volumes, rows, f"{HEADER},unit")).items()
    assert [item.patient for item in items] == ["Müller 7", "Müller 7", "x", "y", "Müller 7"]
    assert items[0].unit == items[1].unit != ""
    split = [f"Müller 7,0,train,{other}", f"{other},0,test,", "x,1,val,", "y,1,train,"]
    found = problems(table(volumes, split, f"{HEADER},split,unit"))
    assert "patient Müller 7 has split test here and train in row 2" in found[0]


def test_one_label_under_two_forms_is_one_class(volumes: Path) -> None:
    split = unicodedata.normalize("NFD", "gutärtig")
    made = dataset(table(volumes, ["a,gutärtig", f"b,{split}", "c,böse ", "d,böse"]), positive="böse")
    assert made.classes == ("gutärtig", "böse")
    assert "differ in blanks and underscores only" in problems(table(volumes, ["a,no_cyst", "b,no cyst"]))[0]


def test_a_consistent_spelling_keeps_its_name_and_its_bank(volumes: Path) -> None:
    """Ids that nothing is wrong with are handed on as they are written, so that keys of before hold."""
    split = unicodedata.normalize("NFD", "Müller")
    items = dataset(table(volumes, [f"{split},0", f"{split},1", "P  2,0", "x,1"])).items()
    assert [item.patient for item in items] == [split, split, "P  2", "x"]


def test_units_of_one_patient_in_two_spellings(volumes: Path) -> None:
    path = table(volumes, ["a,0,left", "a,0,Left", "b,1,left 1", "c,1,LEFT"], f"{HEADER},unit")
    found = problems(path)
    assert found[0].startswith("row 3, v1.nii.gz: unit Left and left in row 2 look like one unit of a patient")
    assert len(found) == 1, found


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", "null", "-", "?", "#N/A", ".", "unknown", "Missing"])
def test_a_word_for_nothing_is_no_class_and_no_patient(volumes: Path, word: str) -> None:
    rows = [
        "a,normal,,",
        f"b,{word},,",
        f"{word},cyst,,",
        f"{word},cyst,,",
        "c,normal,NA,",
        f"d,cyst,,{word}",
        "e,cyst,,u",
    ]
    rows += [f"f,normal,,{word}"]
    nobody = f"patient_id {word} names nobody; fill it in: volumes are split between patients"
    assert problems(table(volumes, rows, f"{HEADER},finding,unit")) == (
        f"row 3, v1.nii.gz: label {word} stands for a missing value; leave the cell empty (unlabelled), or name it in "
        "dataset.classes if it is a class",
        f"row 4, v2.nii.gz: {nobody}",
        f"row 5, v3.nii.gz: {nobody}",
        "row 6, v4.nii.gz: finding NA stands for a missing value; leave the cell empty",
        f"row 7, v5.nii.gz: unit {word} stands for a missing value; leave the cell empty",
        f"row 9, v7.nii.gz: unit {word} stands for a missing value; leave the cell empty",
    )


def test_a_class_may_have_such_a_name_if_it_is_said(volumes: Path) -> None:
    path = table(volumes, ["a,NA", "b,cyst", "c,NA", "d,cyst"])
    assert dataset(path, classes=("NA", "cyst")).classes == ("NA", "cyst")
    assert [item.label for item in dataset(path, classes=("NA", "cyst")).items()] == [0, 1, 0, 1]
    assert "label NA stands for a missing value" in problems(path, classes=("cyst", "polyp"))[0]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["none", "cyst", "polyp"], ("none", "cyst", "polyp")),
        (["None", "cyst"], ("None", "cyst")),
        (["0", "1", "None"], None),
        (["normal", "cyst", "None"], None),
    ],
)
def test_none_is_a_class_where_no_other_label_is_normal(
    volumes: Path, labels: list[str], classes: tuple[str, ...] | None
) -> None:
    path = table(volumes, [f"p{i},{label}" for i, label in enumerate(labels)])
    if classes:
        assert dataset(path).classes == classes
        assert len(dataset(path).items()) == len(labels)
    else:
        assert problems(path)[0].startswith("row 4, v2.nii.gz: label None stands for a missing value")


def test_a_bank_of_before_is_not_used_for_a_table_that_is_refused_now(volumes: Path, tmp_path: Path) -> None:
    for rows in (["a,0", "b,1", "c,NA"], ["P1,0", "p1,1", "c,0"]):
        with pytest.raises(DatasetError, match="problems found"):
            dataset(table(volumes, rows)).fingerprint()
        with pytest.raises(DatasetError, match="problems found"):
            open_bank(dataset(table(volumes, rows)), tmp_path)


FURTHER = (
    "site,patient_age,patient_sex,patient_name,label_name,labels,labeled,class,mask_path,image_path,paths,size,slide,sid,"
    "id,ids,units_mm,unity,findings,axis,splitting,spit,sides"
)


def test_further_columns_never_stop_a_manifest(volumes: Path) -> None:
    values = ",".join(f"x{i % 3}" for i in range(len(FURTHER.split(","))))
    made = dataset(table(volumes, [f"p{i},{i % 2},{values}" for i in range(4)], f"{HEADER},{FURTHER}"))
    assert len(made.items()) == 4


@pytest.mark.parametrize(
    ("column", "values", "meant"),
    [
        ("splt", ["train", "val", "test", "Train"], "split"),
        ("spilt", ["train", "val", "test", ""], "split"),
        ("sides", ["left", "right", "", "LEFT"], "side"),
        ("axis", ["stored", "", "ras", "stored"], "axes"),
        ("units", ["u", "u", "v", "w"], "unit"),
        ("splt", ["train", "val", "holdout", ""], None),
        ("splt", ["", "", "", ""], None),
        ("units", ["mm", "mm", "mm", "mm"], None),
        ("units", ["1", "2", "3", "4"], None),
        ("site", ["left", "right", "left", "right"], "side"),
        ("splitting", ["train", "val", "test", "test"], None),
    ],
)
def test_a_slip_in_the_name_of_a_column_is_told_by_its_values(
    volumes: Path, column: str, values: list[str], meant: str | None
) -> None:
    patients = ["a", "a", "b", "c"]
    rows = [f"{patient},{i % 2},{value}" for i, (patient, value) in enumerate(zip(patients, values, strict=True))]
    path = table(volumes, rows, f"{HEADER},{column}")
    if meant is None:
        assert len(dataset(path).items()) == 4
    else:
        assert problems(path) == (f"{column} is not known; rename it to {meant}, or to something less alike",)
    both = table(volumes, [f"{row}," for row in rows], f"{HEADER},{column},{meant or 'side'}")
    assert len(dataset(both).items()) == 4, "where the known column is there, another is left alone"


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("path,subject,label", "patient_id is missing; rename subject to it"),
        ("path,Participant ID,label", "patient_id is missing; rename participant id to it"),
        ("path,patientid,label", "patient_id is missing; rename patientid to it"),
        ("path,patient_age,label", "patient_id is missing; add it"),
        ("filename,patient_id,label", "path is missing; rename filename to it"),
        ("mask_path,patient_id,label", "path is missing; add it"),
        ("path,patient_id,lable", "label is missing; rename lable to it"),
    ],
)
def test_a_column_that_is_missing_is_hinted_by_a_near_one(volumes: Path, header: str, hint: str) -> None:
    assert problems(table(volumes, ["a,0", "b,1"], header)) == (hint,)


def test_one_letter() -> None:
    assert all(one_letter_off(word, "split") for word in ("splits", "spli", "plit", "sblit", "spilt", "splitt"))
    assert not any(one_letter_off(word, "split") for word in ("split", "splting", "slpti", "sp", "lit", "tilps"))


def test_rows_that_excel_cut_and_rows_that_are_too_long(volumes: Path) -> None:
    rows = ["a,0,left", "b", "c,1", "d,1,right,x"]
    found = problems(table(volumes, rows, f"{HEADER},side"))
    assert found == ("row 5: 5 cells where the header has 4; quote a value that holds a comma, and leave no cell out",)
    items = dataset(table(volumes, rows[:3], f"{HEADER},side")).items()
    assert [(item.label, item.side) for item in items] == [(0, "left"), (None, None), (1, None)]
    (volumes / "manifest.csv").write_text(f"{HEADER}\nv0.nii.gz\nv1.nii.gz,b,0\nv2.nii.gz,c,1\n")
    assert problems(volumes / "manifest.csv")[0].startswith("row 2, v0.nii.gz: patient_id is empty")


def test_a_row_has_the_number_that_a_spreadsheet_shows(volumes: Path) -> None:
    rows = ['a,0,"two\nlines\nand, more"', "b,1,", ",1,x", 'c,0,"open']
    found = problems(table(volumes, rows, f"{HEADER},remark"))
    assert found[0] == (
        "row 5: a quote that opens here (line 7 of the file) is never closed; close or remove it, and check the quotes "
        "below"
    )
    assert found[1].startswith("row 4, v2.nii.gz: patient_id is empty")
    assert len(found) == 2


def test_a_workbook_is_no_manifest_and_says_so(volumes: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(HEADER.split(","))
    book.save(volumes / "manifest.xlsx")
    with pytest.raises(DatasetError, match='this is a workbook, not text; save it as "CSV UTF-8"'):
        dataset(volumes / "manifest.xlsx").items()


def test_a_first_line_may_tell_the_separator(volumes: Path) -> None:
    path = table(volumes, ["a;0", "b;1", "c;NA"], "sep=;\npath;patient_id;label")
    path.write_text(path.read_text().replace(".gz,", ".gz;"))
    assert problems(path)[0].startswith("row 4, v2.nii.gz: label NA")


@pytest.mark.parametrize(
    ("labels", "setting", "classes"),
    [
        (["01", "02"], "positive=02", ("01", "02")),
        (["01", "02"], "positive=01", ("02", "01")),
        (["01", "02"], "positive=2", ("01", "02")),
        (["1", "2"], "positive=2.0", ("1", "2")),
        (["010", "020"], "positive=010", ("020", "010")),
        (["no", "yes"], "positive=no", ("yes", "no")),
        (["01", "02", "03"], "classes=03,01,02", ("03", "01", "02")),
        (["1.0", "2.0"], "classes=[2.0,1.0]", ("2", "1")),
        (["01", "2"], "classes=[01,2]", ("01", "2")),
    ],
)
def test_a_label_is_named_as_it_is_typed(
    volumes: Path, tmp_path: Path, typed: Typed, labels: list[str], setting: str, classes: tuple[str, ...]
) -> None:
    path = table(volumes, [f"p{i},{labels[i % len(labels)]}" for i in range(12)])
    words = ("--methods", "supervised", "--folds", "2", "--dry-run", "--set", "dataset.size=8")
    told = typed("run", "--dataset", path, *words, "--set", f"dataset.{setting}", "--out", tmp_path / "run")
    assert told.code == 0, told.err
    each = 12 // len(labels)
    assert f"({', '.join(f'{each} {name}' for name in classes)})" in told.out + told.err


def test_all_that_is_wrong_is_said_as_typed(volumes: Path, tmp_path: Path, typed: Typed) -> None:
    rows = ["P1,normal,14", "p1,cyst,14", "c,NA,14", "NA,cyst,14", "d,normal,1,4", 'e,cyst,"14', "f,cyst,14"]
    path = table(volumes, rows, f"{HEADER},size")
    told = typed("run", "--dataset", path, "--methods", "supervised", "--out", tmp_path / "run")
    assert told.code == 2
    for line in (
        "row 3, v1.nii.gz: patient p1 and P1",
        "row 4, v2.nii.gz: label NA",
        "row 5, v3.nii.gz: patient_id NA",
    ):
        assert line in told.err
    assert "row 6: 5 cells where the header has 4" in told.err
    assert "row 7: a quote that opens here is never closed" in told.err
    assert told.err.count("\n  - ") == 5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rounded", ["1.23E+11", "1,23457E+12", "9.9e+5"])
def test_ids_that_a_spreadsheet_has_rounded_are_many_people_in_one(volumes: Path, rounded: str) -> None:
    rows = [f'"{rounded}",normal,,', f'"{rounded}",cyst,,', "12E5,cyst,,", "1E+05,normal,,"]
    why = f"patient_id {rounded} is a number that a spreadsheet has rounded; format the column as text, fill it in anew"
    found = problems(table(volumes, rows, f"{HEADER},finding,unit"))
    assert [line.split(": ", 1)[1] for line in found] == [f"{why} and export it again"] * 2
