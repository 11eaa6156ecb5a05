"""`bench` without a home or a name, and where nothing may be written."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ...conftest import Typed
from .conftest import BENCH, environment

# Another user, without an entry in passwd, who may read all (the interpreter may lie in root's home) and write nothing.
STRANGER = 12345
AS_STRANGER = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups",
               "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]  # fmt: skip


def can_be_stranger() -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    return subprocess.run([*AS_STRANGER, sys.executable, "-c", ""], capture_output=True).returncode == 0


stranger = pytest.mark.skipif(not can_be_stranger(), reason="needs root and setpriv, to become a user without rights")


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that other users reach, as they do not reach pytest's own."""
    folder = Path("/tmp") / f"voxbench-test-{os.getpid()}-{tmp_path.name[-20:]}"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@stranger
@pytest.mark.parametrize("home", [pytest.param(None, marks=pytest.mark.long), "/etc/passwd"])
def test_a_user_without_name_or_home_can_run(
    home: str | None, command: Callable[..., list[str]], open_folder: Path
) -> None:
    words = command("--methods", "supervised", "--fractions", "1.0", "--out", str(open_folder / "run"))
    at = words.index("--cache")
    own = environment(TMPDIR=str(open_folder), **({} if home is None else {"HOME": home}))
    words = [*AS_STRANGER, *words[:at], *words[at + 2 :]]
    done = subprocess.run(words, env=own, cwd=open_folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = next(line for line in done.stdout.splitlines() if line.startswith("note:"))
    assert str(open_folder / f"voxbench-{STRANGER}") in told and "--cache" in told
    assert (open_folder / "run" / "results.csv").is_file()
    assert {path.name for path in open_folder.iterdir()} == {"run", f"voxbench-{STRANGER}"}  # no folder "~"


@stranger
def test_a_colleagues_run_is_read_and_what_cannot_be_written_is_said(finished: Path, open_folder: Path) -> None:
    run, other = (Path(shutil.copytree(finished, open_folder / name)) for name in ("run", "other"))
    own = environment(HOME=str(open_folder), TMPDIR=str(open_folder))

    def bench(*words: object) -> subprocess.CompletedProcess[str]:
        line = [*AS_STRANGER, *BENCH, *map(str, words)]
        return subprocess.run(line, env=own, cwd=open_folder, capture_output=True, text=True, timeout=200)

    for words, said in (
        (("report", run), "the report cannot be written (permission denied)"),
        (("wandb-sync", run, "--mode", "offline"), "cannot be written to (permission denied)"),
        (("run", "--out", run / "new"), "cannot be written"),
        (("run", "--out", open_folder / "x", "--cache", run), "permission denied; choose one you can write to"),
    ):
        done = bench(*words)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and "Errno" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert bench("report", run, "--out", "pages").returncode == 0
    assert bench("compare", run, other).returncode == 0
    assert (open_folder / "runs" / "comparison" / "index.html").is_file()


def test_files_of_a_run_are_for_colleagues_and_private_is_not(finished: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for path in finished.rglob("*"):
        rights = stat.S_IMODE(path.stat().st_mode)
        if "private" in path.parts:
            assert rights == (0o700 if path.is_dir() else 0o600), path
        else:
            assert rights == (0o777 if path.is_dir() else 0o666) & ~mask, path


@pytest.mark.parametrize("limit", [200, 100_000])
def test_a_full_disk_leaves_the_report_of_before_and_no_half_file(limit: int, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "report" / "plots")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from voxbench.benchmark.cli import main; main()"
    )
    own = environment(HOME=str(tmp_path), MPLCONFIGDIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(run)], env=own, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert "the report cannot be written (file too large)" in done.stderr and "--out FOLDER" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to become a user without rights")
def test_a_file_that_may_not_be_read_is_listed_with_all_other_problems(open_folder: Path, typed: Typed) -> None:
    rows = ["path,patient_id,label"]
    for index in range(6):
        volume = np.random.default_rng(index).normal(size=(12, 12, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2, 2, 1])), open_folder / f"{index}.nii.gz")
        rows.append(f"{index}.nii.gz,P{index},{index % 2}")
    (open_folder / "closed").mkdir(mode=0o700)
    names = ("gone.nii.gz", "x" * 300 + ".nii.gz", "closed/a.nii.gz", "/".join(["y" * 200] * 30))
    rows += [f"{name},Q{index},0" for index, name in enumerate(names)]
    (open_folder / "0.nii.gz").chmod(0o600)
    (open_folder / "manifest.csv").write_text("\n".join(rows))
    words = ("run", "--dataset", open_folder / "manifest.csv", "--out", open_folder / "run", "--cache", open_folder)
    typed(*words, "--dry-run")  # brings all imports, which the other user may not be able to read
    with another_user():
        if not os.access(Path(__file__), os.R_OK, effective_ids=True):
            pytest.skip("the code lies where another user cannot read it")
        said = typed(*words)
    assert said.code == 2 and "Errno" not in said.err
    lines = said.err.strip().splitlines()
    for row, name, why in (
        (2, "0.nii.gz", "cannot be read (permission denied); change its rights"),
        (8, "gone.nii.gz", "there is no such file; correct the path"),
        (9, "xxx", "cannot be read (the name is too long); use a shorter one"),
        (10, "closed/a.nii.gz", "cannot be read (permission denied); change its rights"),
        (11, "yyy", "the name is too long"),
    ):
        assert any(line.startswith(f"  - row {row}, {name}") and why in line for line in lines), lines
    assert len(lines) == 6
