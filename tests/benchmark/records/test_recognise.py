"""Whose a folder is: a run's of any state, or a user's own, of which nothing may be touched."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxbench.benchmark.records.recognise import check_out, check_pages, is_run
from voxbench.benchmark.settings.errors import BenchError

from ...conftest import Typed

Bench = Callable[..., int]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    words = command("--methods", "simclr", "--fractions", "1.0", "--out", str(out), "--workers", "1")
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return out


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


OWN: dict[str, dict[str, str]] = {
    "tables": {"results.csv": "my,own,table\n", "config.yaml": "mine: true\n", "dataset.json": "{}\n"},
    "a report": {"report/index.html": "<h1>mine</h1>"},
    "one table": {"results.csv": "a,b\n"},
    "a preset": {"config.yaml": "dataset: {name: manifest}\nencoder: {name: resnet}\nprotocol: {}\nfinetune: {}\n"},
    "nnU-Net": {"dataset.json": '{"name": "hearts", "labels": {"0": "background"}, "numTraining": 20}'},
    "results of other programs": {"cells/a/b.json": '{"cell": 1}', "stages/x/stage.json": "[]", "audit.json": "{}"},
    "W&B of another project": {"wandb/latest-run": "x"},
    "a home": {".bashrc": "", ".config/other": ""},
    "keys": {"private/key": "secret"},
}


@pytest.mark.parametrize("kind", OWN)
def test_a_users_own_folder_is_refused_and_nothing_is_touched(kind: str, tmp_path: Path, typed: Typed) -> None:
    for name, text in OWN[kind].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = content(tmp_path)
    for words in (("run", "--out", tmp_path), ("wandb-sync", tmp_path, "--mode", "offline"), ("report", tmp_path)):
        said = typed(*words)
        assert said.code == 2, words
        assert len(said.err.strip().splitlines()) == 1 and str(tmp_path) in said.err
        assert content(tmp_path) == before
    assert "name a new or an empty folder" in typed("run", "--out", tmp_path).err


def test_the_folder_of_the_data_is_refused_before_a_volume_is_read(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likeliest slip: --out . where the manifest lies."""
    rows = ["path,patient_id,label"]
    for index in range(6):
        volume = np.random.default_rng(index).normal(size=(12, 12, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2, 2, 1])), tmp_path / f"{index}.nii.gz")
        rows.append(f"{index}.nii.gz,P{index},{index % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    said = typed("run", "--dataset", "manifest.csv", "--out", ".", "--cache", "cache")
    assert said.code == 2 and "(0.nii.gz, 1.nii.gz, 2.nii.gz and 4 more)" in said.err and "--out run" in said.err
    assert content(tmp_path) == before


def test_a_dry_run_writes_nothing_so_it_goes_on_and_says_what_a_run_would_meet(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert bench(dry_run=True) == 0
    with pytest.raises(BenchError, match=r"not a run's \(notes\.txt\)"):
        bench()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def strip(run: Path, *kept: str) -> Path:
    for path in list(run.iterdir()):
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


@pytest.mark.parametrize(
    "kept",
    [
        (),
        ("config.yaml",),
        ("config.yaml", "dataset.json"),
        ("config.yaml", "dataset.json", "environment.json", "private"),
        ("config.yaml", "dataset.json", "environment.json", "private", "audit.json"),
        ("config.yaml", "claims", "private"),
        ("cells",),
        ("stages",),
        ("audit.json",),
        ("environment.json", "results.csv"),
    ],
)
def test_a_run_folder_of_before_in_any_state_goes_on(kept: tuple[str, ...], finished: Path, tmp_path: Path) -> None:
    run = strip(Path(shutil.copytree(finished, tmp_path / "run")), *kept)
    check_out(run)
    if kept and kept != ("config.yaml",):
        (run / "notes.md").write_text("mine, beside it")
        if kept[0] != "config.yaml" or "dataset.json" in kept:
            check_out(run)
            assert is_run(run)


def test_what_a_kill_or_the_system_leaves_does_not_make_a_folder_a_users(tmp_path: Path) -> None:
    for name in (".config.yaml.x8s7f2", ".part-0a1b", ".DS_Store", "lost+found"):
        (tmp_path / name).touch()
    check_out(tmp_path)
    check_pages(tmp_path)
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    check_out(tmp_path, but=[tmp_path / "cache" / "deep"])
    with pytest.raises(BenchError, match=r"not a run's \(cache\)"):
        check_out(tmp_path)


@pytest.mark.parametrize("inner", ["stages", "stages/new", "report", "private", "cells/simclr/deep/er"])
def test_no_run_lies_among_the_files_of_another(inner: str, finished: Path) -> None:
    before = content(finished)
    with pytest.raises(BenchError, match="lies inside the run folder"):
        check_out(finished / inner)
    with pytest.raises(BenchError, match="belongs to the run folder"):
        check_pages(finished / inner)
    check_out(finished / "of-my-own" / "run")
    assert content(finished) == before


def test_a_comparison_does_not_go_where_other_things_are(finished: Path, tmp_path: Path, typed: Typed) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("my home page")
    for out, said in ((mine, "not a report's"), (other, "belongs to the run"), (mine / "index.html", "is a file")):
        told = typed("compare", finished, other, "--out", out)
        assert told.code == 2 and said in told.err
    assert (mine / "index.html").read_text() == "my home page"
    for _ in range(2):  # the second time it is its own
        assert typed("compare", finished, other, "--out", tmp_path / "new").code == 0
    (tmp_path / "new" / "plots" / ".written").unlink()  # as the first versions left it
    assert typed("compare", finished, other, "--out", tmp_path / "new").code == 0


def test_a_report_goes_elsewhere_where_that_is_asked(finished: Path, tmp_path: Path, typed: Typed) -> None:
    before = content(finished)
    told = typed("report", finished, "--out", tmp_path / "pages")
    assert told.code == 0 and (tmp_path / "pages" / "index.html").is_file()
    assert content(finished) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert typed("report", finished, "--out", tmp_path / "full").code == 2
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("dataset.json", b'{"name": "hearts"}'),
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"- a list\n"),
    ],
)
def test_what_is_no_record_of_a_run_is_one_line_and_stays(
    name: str, damage: bytes, finished: Path, tmp_path: Path, typed: Typed, command: Callable[..., list[str]]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / name).write_bytes(damage)
    words = command("--methods", "simclr", "--fractions", "1.0", "--out", str(run), "--workers", "1")
    said = typed(*words[words.index("run") :])
    assert said.code == 2 and len(said.err.strip().splitlines()) == 1
    assert str(run / name) in said.err and said.err.count("move it elsewhere") + said.err.count("choose another") == 1
    assert (run / name).read_bytes() == damage
