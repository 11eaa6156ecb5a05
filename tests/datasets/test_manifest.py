from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from voxbench.datasets.base import DatasetError
from voxbench.datasets.manifest import Manifest, ManifestOptions
from voxbench.datasets.volumes import nifti
from voxbench.datasets.volumes.bank import open_bank

SHARED = Path(__file__).parents[3] / "shared" / "data"
HEADS = Path(os.environ.get("VOXBENCH_TEST_DATA", SHARED)) / "heads"


def smooth(seed: int, shape: tuple[int, ...] = (12, 14, 10)) -> npt.NDArray[np.float32]:
    return (100 * np.random.default_rng(seed).random(shape)).astype(np.float32)


def save(path: Path, data: npt.NDArray[Any], affine: npt.NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def table(folder: Path, lines: Sequence[str], header: str = "path,patient_id,label") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def cohort(folder: Path, n: int = 4) -> list[str]:
    """n sound volumes, labels 0 and 1 in turn, the last in the pool."""
    lines = []
    for i in range(n):
        save(folder / f"v{i}.nii.gz", smooth(i))
        lines.append(f"v{i}.nii.gz,p{i},{'' if i == n - 1 else i % 2}")
    return lines


def manifest(root: Path, **options: Any) -> Manifest:
    return Manifest(ManifestOptions(**{"size": 8, **options}), root)


def problems(root: Path, **options: Any) -> str:
    with pytest.raises(DatasetError) as raised:
        manifest(root, **options).items()
    return str(raised.value)


def test_rows_become_items(tmp_path: Path) -> None:
    cohort(tmp_path, 4)
    rows = [
        "v0.nii.gz,anna,sick,LEFT,train,polyp,u1",
        "v1.nii.gz,ben,normal,right,val,,",
        "v2.nii.gz,cleo,normal,,test,,",
        "./v3.nii.gz,dan,,,,,",
    ]
    root = table(tmp_path, rows, "path,patient_id,label,side,split,finding,unit")
    dataset = manifest(root)
    told: list[tuple[int, int]] = []
    dataset.progress = lambda done, total: told.append((done, total))
    one, two, _, four = dataset.items()
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert dataset.classes == ("normal", "sick")
    assert (dataset.normal, dataset.has_official_split) == (0, True)
    assert (one.volume, one.patient, one.label, one.side) == ("v0.nii.gz", "anna", 1, "left")
    assert (one.split, one.finding, one.unit) == ("train", "polyp", "u1")
    assert (two.label, two.finding, two.scored_unit) == (0, None, "v1.nii.gz")
    assert (four.volume, four.label, four.split) == ("v3.nii.gz", None, None)
    assert manifest(root / "manifest.csv").items() == dataset.items(), "the file itself may be given, too"


def test_every_bad_file_is_listed_at_once(tmp_path: Path) -> None:
    lines = cohort(tmp_path)
    whole = (tmp_path / "v0.nii.gz").read_bytes()
    nan = smooth(20)
    nan[1, 2, 3], nan[0, 0, 0] = np.nan, np.inf
    flat_affine = np.diag([1.0, 0.0, 1.0, 1.0])
    bad: dict[str, tuple[Any, str]] = {
        "missing.nii.gz": (None, "there is no such file; correct the path"),
        "empty.nii.gz": (b"", "the file is empty (0 bytes); copy or export it again"),
        "text.nii.gz": (b"not an image at all", "not a readable NIfTI file"),
        "cut.nii.gz": (whole[: len(whole) // 2], "cut short or damaged"),
        "cut.nii": (gzip.decompress(whole)[:-100], "cut short or damaged"),
        "nan.nii.gz": (nan, "2 of 1680 voxels are NaN or infinite; replace them"),
        "constant.nii.gz": (
            np.full((6, 6, 6), 7, np.int16),
            "every voxel is 7: an empty volume",
        ),
        "4d.nii.gz": (smooth(21, (6, 6, 6, 5)), "4D (6x6x6x5), not 3D; give one 3D volume a file"),
        "2d.nii.gz": (smooth(22, (9, 9)), "2D (9x9), not 3D"),
        "slice.nii.gz": (smooth(23, (9, 9, 1)), "2D (9x9x1), not 3D"),
        "complex.nii.gz": (smooth(24).astype(np.complex64), "voxels are complex64"),
        "again.nii.gz": (
            smooth(1),
            "the same volume as row 3, v1.nii.gz, under another",
        ),
    }
    for name, (content, _) in bad.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            save(tmp_path / name, content)
    for name, affine in (("flat.nii.gz", flat_affine), ("nanaffine.nii.gz", np.eye(4) * np.nan)):
        image = nib.Nifti1Image(smooth(30 + len(name)), np.eye(4))
        image.header.set_qform(None, 0)
        image.header["sform_code"] = 1
        for row, key in enumerate(("srow_x", "srow_y", "srow_z")):
            image.header[key] = affine[row]
        (tmp_path / name).write_bytes(gzip.compress(image.header.binaryblock + bytes(4) + image.dataobj.tobytes()))
        bad[name] = (None, "the affine")
    lines += [f"{name},q{i},0" for i, name in enumerate(bad)] + ["sub/../v2.nii.gz,p9,1"]
    text = problems(table(tmp_path, lines))
    for number, (name, (_, message)) in enumerate(bad.items(), start=6):
        assert f"row {number}, {name}: {message}" in text
    assert "the same file as in row 4; keep one of them" in text
    assert text.count("\n  - ") == len(bad) + 1, text


def test_every_bad_cell_is_listed_at_once(tmp_path: Path) -> None:
    cohort(tmp_path, 9)
    rows = [
        "v0.nii.gz,p0,0,left,train,u",
        "v1.nii.gz,,1,right,train,",
        "v2.nii.gz,p2,2,,val,",
        "v3.nii.gz,p3,1,both,test,",
        "v4.nii.gz,p4,1,,holdout,",
        "v5.nii.gz,p0,1,,test,u",
        "v6.nii.gz,p6,0,,train,u",
        ",p7,0,,train,",
    ]
    text = problems(table(tmp_path, rows, "path,patient_id,label,side,split,unit"), classes=("0", "1"))
    for line in (
        "row 3, v1.nii.gz: patient_id is empty; volumes are split between patients, so each needs one",
        "row 4, v2.nii.gz: label 2 is none of 0, 1; correct it or set dataset.classes",
        "row 5, v3.nii.gz: side both is none of left, right; correct it or leave it empty",
        "row 6, v4.nii.gz: split holdout is none of train, val, test; correct it or leave it empty",
        "row 7, v5.nii.gz: patient p0 has split test here and train in row 2",
        "row 7, v5.nii.gz: unit u has label 1 here and 0 in row 2; one unit belongs to one label",
        "row 8, v6.nii.gz: unit u has patient p6 here and p0 in row 2; one unit belongs to one patient",
        "row 9, no file: the path is empty; name the file, or remove the row",
    ):
        assert f"  - {line}" in text
    assert text.count("\n  - ") == 8, text


def test_an_official_split_is_whole(tmp_path: Path) -> None:
    cohort(tmp_path)
    rows = ["v0.nii.gz,p0,0,train", "v1.nii.gz,p1,1,test", "v2.nii.gz,p2,0,"]
    text = problems(table(tmp_path, rows, "path,patient_id,label,split"))
    assert "no row is of val; fill in all three" in text
    assert "row 4, v2.nii.gz: has a label but no split" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; its first row names the columns path,patient_id,label"),
        (b"path,patient_id,label\n", "no rows below the header"),
        (b"path;patient_id;label\na;b;1\n", "separated by semicolons; save the file with commas"),
        (b"path\tpatient_id\tlabel\na\tb\t1\n", "separated by tabs; save the file with commas"),
        (b"path,patient,label\na,b,1\n", "patient_id is missing; rename patient to it"),
        (b"path,label\na,1\n", "patient_id is missing; add it"),
        (b"path,patient_id,label,label\na,b,1,1\n", "label stands twice"),
        (b"path,patient_id,label,splits\na,b,1,test\n", "splits is not known; rename it to split"),
        (b"path,patient_id,label\na,b,1,2\n", "row 2: 4 cells where the header has 3"),
        (b'path,patient_id,label\n"a,b,1\n', "check the quotes"),
        (
            "path,patient_id,label\nä,b,1\n".encode("latin-1"),
            'not UTF-8 text (byte 22); save it as "CSV UTF-8"',
        ),
        ("path,patient_id,label\n".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_read(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    text = problems(tmp_path)
    assert message in text
    assert str(tmp_path / "manifest.csv") in text


def test_a_row_that_cannot_be_read_is_listed_with_all_else_and_never_overlooked(tmp_path: Path) -> None:
    lines = cohort(tmp_path, 4)
    table(tmp_path, lines)
    open_bank(manifest(tmp_path), tmp_path / "cache")
    table(tmp_path, [*lines, "v9.nii.gz,p9,1,,", "v8.nii.gz,p8,1"])
    text = problems(tmp_path)
    assert "row 6: 5 cells where the header has 3" in text
    assert "row 7, v8.nii.gz" in text
    table(tmp_path, [*lines, "v9.nii.gz,p9,1,,"])  # the rows that can be read are those of the volumes that are kept
    with pytest.raises(DatasetError, match="row 6: 5 cells"):
        open_bank(manifest(tmp_path), tmp_path / "cache")


def test_a_missing_table(tmp_path: Path) -> None:
    assert "give a CSV or a folder holding manifest.csv" in problems(tmp_path)
    with pytest.raises(DatasetError, match="name it, as in --dataset"):
        Manifest(ManifestOptions(), None).items()


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (["0", "1"], {}, ("0", "1")),
        (["1.0", "0.0"], {}, ("0", "1")),
        (["0", "1", "2"], {}, ("0", "1", "2")),
        (["Normal", "cyst"], {}, ("Normal", "cyst")),
        (["polyp", "healthy", "cyst"], {}, ("healthy", "cyst", "polyp")),
        (["yes", "no"], {}, ("no", "yes")),
        (["a", "b"], {"positive": "a"}, ("b", "a")),
        (["a", "b"], {"classes": ("b", "a", "c")}, ("b", "a", "c")),
        (["benign", "malignant"], {}, "Set dataset.classes=benign,malignant in your order"),
        (["1", "2"], {}, "which of the labels 1, 2 is positive?"),
        (["1", "1"], {}, "the only label is 1"),
        (["", ""], {}, "no row has a label"),
        (["cyst", "Cyst"], {}, "differ in capitals only"),
        (["0", "1", "01"], {}, "labels 0, 01, 1 are partly one number; write each in one way"),
        (["a", "b"], {"positive": "c"}, "dataset.positive=c, but the labels are a, b"),
        (["0", "1"], {"normal": "x"}, "dataset.normal=x is none of the labels 0, 1"),
    ],
)
def test_the_order_of_classes(
    labels: list[str], options: dict[str, Any], expected: tuple[str, ...] | str, tmp_path: Path
) -> None:
    cohort(tmp_path, len(labels))
    table(tmp_path, [f"v{i}.nii.gz,p{i},{label}" for i, label in enumerate(labels)])
    if isinstance(expected, str):
        assert expected in problems(tmp_path, **options)
    else:
        dataset = manifest(tmp_path, **options)
        assert dataset.classes == expected
        normalised = [label.removesuffix(".0") for label in labels]
        assert [item.label for item in dataset.items()] == [expected.index(label) for label in normalised]


def test_what_normal_means(tmp_path: Path) -> None:
    cohort(tmp_path, 3)
    for labels, options, normal in (
        (("0", "1", "2"), {}, None),
        (("a", "none", "c"), {}, 0),
        (("0", "1", "2"), {"normal": "2"}, 2),
        (("0", "1", "1"), {}, 0),
    ):
        table(tmp_path, [f"v{i}.nii.gz,p{i},{label}" for i, label in enumerate(labels)])
        assert manifest(tmp_path, **options).normal == normal


@pytest.mark.parametrize(
    "options",
    [{"percentiles": (99, 1)}, {"spacing": 1.0}, {"classes": ("a", "b"), "positive": "a"}, {"sise": 3}],
)
def test_options_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ManifestOptions(**options)


def test_a_fingerprint_knows_content_and_not_the_place(tmp_path: Path) -> None:
    prints = []
    for folder in (tmp_path / "a", tmp_path / "elsewhere" / "b"):
        table(folder, cohort(folder))
        prints.append(manifest(folder).fingerprint())
    assert prints[0] == prints[1]
    prints.append(manifest(tmp_path / "a", size=16).fingerprint())
    table(tmp_path / "a", [line.replace("p0", "px") for line in cohort(tmp_path / "a")])
    prints.append(manifest(tmp_path / "a").fingerprint())
    save(tmp_path / "elsewhere" / "b" / "v0.nii.gz", smooth(99))
    prints.append(manifest(tmp_path / "elsewhere" / "b").fingerprint())
    assert len(set(prints)) == 4
    (tmp_path / "a" / "v0.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"row 2, v0\.nii\.gz: there is no such file"):
        manifest(tmp_path / "a").fingerprint()


def test_any_orientation_spacing_and_type_gives_the_same_volume(tmp_path: Path) -> None:
    data = np.round(smooth(0, (16, 20, 24)))
    plain = nib.Nifti1Image(data, np.diag([2.0, 1.5, 1.0, 1.0]))
    nib.save(plain, tmp_path / "ras.nii.gz")
    for axes in ("LPS", "PIR", "SAL", "IRP"):
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(plain.affine), nib.orientations.axcodes2ornt(axes)
        )
        turned = plain.as_reoriented(turn)
        assert nib.aff2axcodes(turned.affine) == tuple(axes)
        nib.save(turned, tmp_path / f"{axes}.nii.gz")
        assert np.array_equal(nifti.load(tmp_path / f"{axes}.nii.gz").data, data)
        assert nifti.load(tmp_path / f"{axes}.nii.gz").spacing == (2.0, 1.5, 1.0)
    nib.save(nib.Nifti1Image(data.astype(np.int16)[..., None], plain.affine), tmp_path / "trailing.nii")
    assert np.array_equal(nifti.load(tmp_path / "trailing.nii").data, data)
    with_content = {nifti.load(path).content() for path in tmp_path.glob("*.nii*")}
    assert len(with_content) == 1


def test_resampling_of_a_ramp_is_exact_inside() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 16, dtype=np.float32)[:, None, None], (16, 8, 40))
    same = nifti.to_cube(ramp, (1, 1, 1), 16, "resize", None)
    np.testing.assert_allclose(same[:, 3, 3], ramp[:, 3, 3], atol=1e-6)
    finer = nifti.to_cube(ramp, (1, 1, 1), 32, "resize", None)[:, 0, 0]
    place = (np.arange(32) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(finer[1:-1], place[1:-1] / 15, atol=1e-6)
    coarser = nifti.to_cube(ramp, (1, 1, 1), 8, "resize", None)[:, 0, 0]
    np.testing.assert_allclose(coarser[1:-1], ((np.arange(8) + 0.5) * 2 - 0.5)[1:-1] / 15, atol=1e-6)


def test_fine_detail_is_averaged_and_does_not_alias() -> None:
    board = (np.indices((60, 60, 60)).sum(axis=0) % 2).astype(np.float32)
    made = nifti.to_cube(board, (1, 1, 1), 14, "resize", None)
    assert abs(made[1:-1, 1:-1, 1:-1] - 0.5).max() < 0.02


def test_padding_keeps_proportions() -> None:
    block = np.ones((10, 20, 40), dtype=np.float32)
    made = nifti.to_cube(block, (2.0, 1.0, 1.0), 20, "pad", None)  # 20 x 20 x 40 mm: 2 mm a voxel
    assert made.sum() == 10 * 10 * 20
    assert made[5:15, 5:15].min() == 1
    cut = nifti.to_cube(block, (2.0, 1.0, 1.0), 20, "pad", 1.0)  # 20 mm around the centre
    assert cut.min() == 1


def test_intensities_are_clipped_at_the_percentiles() -> None:
    data = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    made = nifti.scaled(data, (1, 99))
    low, high = np.percentile(data, (1, 99))
    np.testing.assert_allclose(made, np.clip((data - low) / (high - low), 0, 1), atol=1e-6)
    mask = np.zeros((20, 20, 20), dtype=np.float32)
    mask[5, 5, 5] = 3
    assert nifti.scaled(mask, (1, 99)).max() == 1, "a mask that both percentiles miss keeps its voxel"


@pytest.mark.skipif(not HEADS.is_dir(), reason=f"the real heads are not in {HEADS}")
def test_real_heads_go_all_the_way_into_a_bank(tmp_path: Path) -> None:
    paths = sorted(HEADS.glob("*/*.nii.gz"))
    assert len(paths) >= 5
    lines = [f"{path.relative_to(HEADS)},p{i},{i % 2}" for i, path in enumerate(paths)]
    for path in paths:
        (tmp_path / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path.relative_to(HEADS)).symlink_to(path)
    dataset = manifest(table(tmp_path / "data", lines), size=32, fit="pad")
    bank = open_bank(dataset, tmp_path / "cache")
    volumes = bank.batch(range(len(bank)))
    assert volumes.shape == (len(paths), 1, 32, 32, 32)
    assert volumes.amin() == 0
    # A head is about symmetric left to right: it looks like its mirror image along x and no other axis.
    for volume in volumes:
        errors = [float((volume - volume.flip(1 + axis)).abs().mean()) for axis in range(3)]
        assert errors[0] < min(errors[1:])
