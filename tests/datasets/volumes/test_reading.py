"""Files as users have them: damaged anywhere, or something else under a NIfTI's name; each has a line and a remedy."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import random
import re
import struct
import time
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.manifest import Manifest, ManifestOptions
from voxbench.datasets.prepare.volume import read_volume
from voxbench.datasets.volumes import nifti
from voxbench.datasets.volumes.names import as_stored
from voxbench.datasets.volumes.reading import NiftiError, opened

from ...conftest import Typed


def data(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, (16, 16, 16)).astype(np.float32)


def plain(seed: int = 0, kind: type = nib.Nifti1Image) -> bytes:
    """An uncompressed file."""
    made: bytes = kind(data(seed), np.diag([4.0, 4.0, 4.0, 1.0])).to_bytes()
    return made


def refused(path: Path) -> str:
    """The line that both readers, of manifests and of scans, have for a file."""
    with pytest.raises(NiftiError) as raised:
        nifti.load(path)
    with pytest.raises(DatasetError) as by_prepare:
        read_volume(path)
    assert str(by_prepare.value) == str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def flipped(packed: bytes, at: int) -> bytes:
    changed = bytearray(packed)
    changed[at] ^= 1
    return bytes(changed)


PACKED = gzip.compress(plain(), 6)
DAMAGED = {
    "checksum": (flipped(PACKED, -8), "its gzip checksum is wrong"),
    "length": (flipped(PACKED, -4), "its gzip length is wrong"),
    "no trailer": (PACKED[:-8], "it ends in the middle of its compressed data"),
    "half a trailer": (PACKED[:-3], "it ends in the middle of its compressed data"),
    "half": (PACKED[: len(PACKED) // 2], "it ends in the middle of its compressed data"),
    "first bytes alone": (PACKED[:15], "it ends in the middle of its compressed data"),
    "garbage behind": (PACKED + b"garbage", "something else follows its gzip data"),
    "a second member cut": (PACKED + PACKED[:100], "it ends in the middle of its compressed data"),
    "a second member spoilt": (PACKED + flipped(PACKED, -8), "its gzip checksum is wrong"),
    "a whole gzip of half a volume": (gzip.compress(plain()[:9000]), "fewer voxels than its header tells of"),
    "a header alone": (gzip.compress(plain()[:352]), "fewer voxels than its header tells of"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_gzip_is_refused_wherever_it_is_damaged(what: str, tmp_path: Path) -> None:
    content, why = DAMAGED[what]
    (tmp_path / "a.nii.gz").write_bytes(content)
    line = refused(tmp_path / "a.nii.gz")
    assert line.startswith("cut short or damaged: copy it again (")
    assert why in line


def test_a_flipped_bit_in_the_stream_never_passes(tmp_path: Path) -> None:
    """Deflate notices few of them itself; garbage voxels are kept out by the checksum alone."""
    rng, unnoticed = random.Random(5), 0
    for _ in range(150):
        spoilt = bytearray(PACKED)
        spoilt[rng.randrange(30, len(PACKED) - 8)] ^= 1 << rng.randrange(8)
        with contextlib.suppress(zlib.error):
            unnoticed += len(zlib.decompressobj(-15).decompress(bytes(spoilt[10:]))) >= len(plain())
        (tmp_path / "a.nii.gz").write_bytes(spoilt)
        with pytest.raises(NiftiError):
            nifti.load(tmp_path / "a.nii.gz")
    assert unnoticed, "no bit of these was one that only the checksum tells"


@pytest.mark.parametrize("level", [0, 9])
def test_sound_files_of_every_make_are_read(level: int, tmp_path: Path) -> None:
    whole = plain()
    blocks = b"".join(gzip.compress(whole[at : at + 5000], level) for at in range(0, len(whole), 5000))
    for name, content in {
        "one.nii.gz": gzip.compress(whole, level),
        "members.nii.gz": blocks,
        "with the empty block of bgzip.nii.gz": blocks + gzip.compress(b""),
        "padded with zeros.nii.gz": gzip.compress(whole, level) + bytes(512),
        "capitals.Nii.Gz": gzip.compress(whole, level),
        "all capitals.NII.GZ": gzip.compress(whole, level),
        "plain.NII": whole,
        "longer than it says.nii": whole + bytes(100),
        "longer than it says.nii.gz": gzip.compress(whole + bytes(100)),
        "second.nii.gz": gzip.compress(plain(kind=nib.Nifti2Image)),
        "other.nii.bz2": bz2.compress(whole),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(nifti.load(tmp_path / name).data, data()), name
        assert np.array_equal(read_volume(tmp_path / name).data, data()), name


def test_other_byte_orders_scalings_and_pairs_are_as_nibabel_reads_them(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.round(data()).astype(np.int16), np.diag([-4.0, 4.0, 4.0, 1.0]))
    image.header.set_slope_inter(0.37, -3)
    turned = nib.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped())
    for name, made in {"a.nii.gz": image, "swapped.nii": turned, "pair.img": image, "two.hdr": image}.items():
        kind = nib.Nifti1Pair if "nii" not in name else nib.Nifti1Image
        nib.save(kind(made.dataobj, made.affine, made.header), tmp_path / name)
        expected = nib.as_closest_canonical(nib.load(tmp_path / name)).get_fdata(dtype=np.float32)
        assert np.array_equal(nifti.load(tmp_path / name).data, expected), name
    (tmp_path / "pair.hdr").unlink()
    assert "half of an .hdr/.img pair, whose .hdr is missing" in refused(tmp_path / "pair.img")
    (tmp_path / "two.img").write_bytes((tmp_path / "two.img").read_bytes()[:-2])
    assert "damaged: copy it again" in refused(tmp_path / "two.hdr")


ANNEX = b"/annex/objects/SHA256E-s1234--0a1b.nii.gz\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 1234\n"
DICOM = bytes(128) + b"DICM" + bytes(2000)
ANALYZE = struct.pack("<i", 348) + bytes(2000)
LOOKALIKES: dict[str, tuple[bytes, str]] = {
    "nothing packed.nii.gz": (gzip.compress(b""), "nothing is compressed in it; copy or export it again"),
    "annexed.nii.gz": (ANNEX, "a pointer that git-annex left in the file's place; fetch it (git annex get"),
    "annexed.nii": (ANNEX, "fetch it (git annex get, or datalad get)"),
    "lfs.nii.gz": (LFS, "a pointer that git-lfs left in the file's place; fetch it (git lfs pull)"),
    "plain.nii.gz": (plain(), "not compressed, though called .gz; rename it to plain.nii"),
    "plain.Nii.GZ": (plain(), "not compressed, though called .GZ; rename it to plain.Nii"),
    "packed.nii": (PACKED, "compressed by gzip, though called .nii; rename it to packed.nii.gz"),
    "twice.nii.gz": (gzip.compress(PACKED), "compressed twice; unpack it once"),
    "dicom.nii.gz": (DICOM, "DICOM, not NIfTI; convert it (dcm2niix)"),
    "page.nii.gz": (b"<!DOCTYPE html><html>not found</html>", "a web page, as a failed download leaves"),
    "text.nii": (b"not an image at all", "it is text; export or copy it again"),
    "zip.nii.gz": (b"PK\x03\x04" + bytes(100), "a ZIP archive; unpack it"),
    "x.npz": (b"PK\x03\x04" + bytes(100), "NumPy arrays, which have no orientation; write each volume as .nii.gz"),
    "zeros.nii.gz": (bytes(5000), "nothing but zeros, as a broken copy leaves; damaged: copy it again"),
    "zeros.nii": (bytes(5000), "nothing but zeros"),
    "noise.nii": (random.Random(0).randbytes(3000), "it has no NIfTI header; export or copy it again"),
    "analyze.nii": (ANALYZE, "an Analyze 7.5 header, which does not tell left from right"),
    "start.nii": (plain()[:200], "it ends within its header, after 200 bytes; damaged: copy it again"),
    "mark.nii": (plain()[:344] + b"zz" + plain()[346:], "its header is damaged; copy or export it again"),
    "a.mgz": (gzip.compress(b"\0\0\0\1" + bytes(900) + b"x"), "FreeSurfer's format, not NIfTI; convert it"),
    "a.nrrd": (b"NRRD0004\ntype: short\n", "an NRRD file; convert it to .nii.gz"),
    "apple.nii.gz": (b"\x00\x05\x16\x07" + bytes(90), "a side file of macOS, not the volume; leave it out"),
    "cut.nii": (plain()[:-100], "damaged: copy it again (its header tells of 16736 bytes, it has 16636)"),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_a_file_is_instead_is_said_with_the_remedy_that_fits(name: str, tmp_path: Path) -> None:
    content, expected = LOOKALIKES[name]
    (tmp_path / name).write_bytes(content)
    assert expected in refused(tmp_path / name)


def test_links_folders_and_names_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "annexed.nii.gz").symlink_to("../.git/annex/objects/Xx/Yy/SHA256E-s1--0a.nii.gz/SHA256E-s1--0a.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "good.nii.gz").write_bytes(PACKED)
    (tmp_path / "linked.nii.gz").symlink_to(tmp_path / "good.nii.gz")
    assert "a link of git-annex to a file that is not here yet; fetch it" in refused(tmp_path / "annexed.nii.gz")
    assert "a link to nothing; fetch it (datalad get)" in refused(tmp_path / "link.nii.gz")
    assert "a folder, not a file; name the file in it" in refused(tmp_path / "folder.nii.gz")
    assert "no such file; correct the path" in refused(tmp_path / "good.nii.gz" / "below.nii.gz")
    assert "write / for \\ between folders" in refused(tmp_path / r"crops\good.nii.gz")
    assert "the name is too long); use a shorter one" in refused(tmp_path / f"{'a' * 300}.nii.gz")
    assert np.array_equal(nifti.load(tmp_path / "linked.nii.gz").data, data())


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(PACKED)
    (tmp_path / "a.nii.gz").chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may read all
    try:
        assert "cannot be read (permission denied); change its rights" in refused(tmp_path / "a.nii.gz")
    finally:
        os.seteuid(was)


def mangled(rng: random.Random) -> bytes:
    kind = rng.choice([nib.Nifti1Image, nib.Nifti2Image])
    stored = data().astype(rng.choice(["f4", "f8", "i2", "u1"]))
    raw = bytearray(kind(stored, np.diag([4.0, 4.0, 4.0, 1.0])).to_bytes())
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        raw[rng.randrange(540 if kind is nib.Nifti2Image else 348)] = rng.choice(
            [0, 1, 127, 128, 255, rng.randrange(256)]
        )
    return bytes(raw)


def test_a_mangled_header_has_one_line_in_words_and_no_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing that nibabel raises, warns of or logs comes out as it is."""
    rng, outcomes = random.Random(11), {True: 0, False: 0}
    readers: tuple[Callable[[Path], object], ...] = (
        nifti.load,
        lambda path: nifti.load(path, stored_axes=True),
        read_volume,
    )
    for number in range(300):
        raw, name = mangled(rng), f"{number % 2}.nii{'.gz' if number % 2 else ''}"
        (tmp_path / name).write_bytes(gzip.compress(raw, 1) if number % 2 else raw)
        for read in readers:
            try:
                read(tmp_path / name)
            except (NiftiError, DatasetError) as error:
                outcomes[False] += 1
                assert "\n" not in str(error)
                assert ";" in str(error) or ": copy it again" in str(error)
                assert not re.search(r"[A-Z][a-z]+(Error|Exception|Warning)", str(error)), error
            else:
                outcomes[True] += 1
    assert min(outcomes.values()) > 100
    assert capfd.readouterr() == ("", "")


def test_values_beyond_what_single_precision_holds_are_infinite(tmp_path: Path) -> None:
    huge = data().astype(np.float64)
    huge[0, 0, 0] = 1e300
    nib.save(nib.Nifti1Image(huge, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "a.nii.gz")
    with pytest.raises(NiftiError, match="1 of 4096 voxels are NaN or infinite"):
        nifti.load(tmp_path / "a.nii.gz")


def test_a_harmless_header_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """pixdim[0] = 0, of which nibabel logs a line without the file's name."""
    raw = bytearray(plain())
    raw[76:80] = struct.pack("<f", 0)
    raw[252:254] = struct.pack("<h", 1)  # qform, which it is a part of
    (tmp_path / "a.nii").write_bytes(raw)
    assert np.array_equal(nifti.load(tmp_path / "a.nii").data, data())
    assert capfd.readouterr() == ("", "")


def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(PACKED)
    with opened(tmp_path / "a.nii.gz") as image:
        assert image.shape == (16, 16, 16)
    with pytest.raises(NiftiError), opened(tmp_path / "a.nii.gz") as image:
        np.asarray(image.voxels)
        raise EOFError
    with pytest.raises(ValueError, match="closed file"):
        np.asarray(image.voxels)


def test_many_names_in_another_unicode_form_are_found_fast(tmp_path: Path) -> None:
    names = [f"Müller{number}.nii.gz" for number in range(3000)]
    for name in names:
        (tmp_path / unicodedata.normalize("NFD", name)).touch()
    start = time.monotonic()
    assert as_stored(tmp_path / "Möller.nii.gz") == tmp_path / "Möller.nii.gz"
    (tmp_path / unicodedata.normalize("NFD", "Möller.nii.gz")).touch()
    assert as_stored(tmp_path / "Möller.nii.gz").is_file(), "a file that came later is seen"
    assert all(as_stored(tmp_path / unicodedata.normalize("NFC", name)).is_file() for name in names)
    assert time.monotonic() - start < 5, "one look at the folder a file took far longer"


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    folder = tmp_path / two
    folder.mkdir()
    (folder / f"{one}.nii.gz").write_bytes(PACKED)
    assert as_stored(tmp_path / one / f"{two}.nii.gz") == folder / f"{one}.nii.gz"
    assert as_stored(tmp_path / one / "other.nii.gz") == tmp_path / one / "other.nii.gz"
    (folder / f"{two}.nii.gz").write_bytes(gzip.compress(plain(1)))
    assert as_stored(folder / f"{two}.nii.gz") == folder / f"{two}.nii.gz", "each its own, where both are there"
    rows = [f"{one}/{one}.nii.gz,a,0", f"{two}/{two}.nii.gz,b,1"]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,patient_id,label", *rows]), encoding="utf-8")
    dataset = Manifest(ManifestOptions(size=8), tmp_path)
    items = dataset.items()
    assert items[0].volume == f"{one}/{one}.nii.gz", "as the table has it"
    assert not np.array_equal(dataset.read(items[0]), dataset.read(items[1]))
    assert dataset.fingerprint()


def test_one_file_under_two_unicode_forms_is_one_file(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "é.nii.gz") for form in ("NFC", "NFD"))
    (tmp_path / one).write_bytes(PACKED)
    (tmp_path / "manifest.csv").write_text(f"path,patient_id,label\n{one},a,0\n{two},b,1\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"row 3, .*: the same file as in row 2; keep one of them"):
        Manifest(ManifestOptions(size=8), tmp_path).items()


def test_every_damaged_file_of_a_run_is_listed_with_its_row(tmp_path: Path, typed: Typed) -> None:
    rows = ["path,patient_id,label"]
    for number, name in enumerate(("good.Nii.Gz", "bits.nii.gz", "plain.nii.gz", "lfs.nii.gz", "cut.nii", "ok.nii")):
        content = {
            "bits.nii.gz": flipped(gzip.compress(plain(number)), -8),
            "plain.nii.gz": plain(number),
            "lfs.nii.gz": LFS,
            "cut.nii": plain(number)[:-1],
            "ok.nii": plain(number),
        }.get(name, gzip.compress(plain(number)))
        (tmp_path / name).write_bytes(content)
        rows.append(f"{name},p{number},{number % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    told = typed("run", "--dataset", tmp_path, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--dry-run")
    assert told.code == 2
    lines = [line for line in told.err.splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in lines] == [
        "  - row 3, bits.nii.gz", "  - row 4, plain.nii.gz", "  - row 5, lfs.nii.gz", "  - row 6, cut.nii",
    ]  # fmt: skip
    assert "damaged: copy it again (its gzip checksum is wrong)" in lines[0]
    assert "rename it to plain.nii" in lines[1]
    assert "git lfs pull" in lines[2]
    assert "Traceback" not in told.err
