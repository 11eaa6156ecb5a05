"""Whole files with the right rights, refusals in words, and machines without a home."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from voxbench.datasets import machine
from voxbench.datasets.base import DatasetError
from voxbench.datasets.files import explained, is_readable, write_whole
from voxbench.datasets.prepare import store


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("umask", "right"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_rights_follow_the_umask_and_private_files_do_not(umask: int, right: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", lambda file: file.write(b"x"))
        write_whole(tmp_path / "b", lambda file: file.write(b"x"), private=True)
        store.write(tmp_path / "c", "x")
    finally:
        os.umask(before)
    assert [rights(tmp_path / name) for name in "abc"] == [right, 0o600, right]


def test_a_failed_write_leaves_the_old_file_alone_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from voxbench.datasets.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_whole(Path(sys.argv[1]), lambda file: file.write(bytes(100000)))\n"
        "except OSError as error: print(error.errno, error.filename)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{errno.EFBIG} {path}"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 30), "none", "file/below"])
def test_a_path_that_the_system_refuses_is_explained_and_not_readable(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    assert not is_readable(path)
    with pytest.raises(OSError, match=r".") as caught:
        path.open()
    said = explained(caught.value)
    assert "Errno" not in said and len(said) < 300
    assert said.count(": ") == 2  # where, why, what to do


def test_an_error_without_a_number_keeps_its_words() -> None:
    assert explained(OSError("the server\nhung up")) == "the server hung up"
    assert explained(OSError(errno.ENOSPC, "No space left on device")).startswith("no space is left on the disk: free")


def test_no_home_at_all_leads_to_a_folder_of_this_user_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home").touch()  # a file
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, note = machine.cache_folder()
    assert folder == tmp_path / f"voxbench-{os.getuid()}"
    assert rights(folder) == 0o700
    assert note is not None and "--cache" in note and str(tmp_path / "home") in note
    assert machine.cache_folder()[0] == folder  # serves again
    folder.chmod(0o777)  # anybody could put volumes there
    with pytest.raises(DatasetError, match="not this user's alone: name a --cache folder"):
        machine.cache_folder()


def test_a_usual_home_is_used_without_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder, note = machine.cache_folder()
    assert note is None and tmp_path in folder.parents
    assert not list(tmp_path.iterdir())  # asked, not made


def test_a_folder_with_a_key_of_another_kind_is_not_a_prepared_one(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(DatasetError, match="holds other files"):
        store.Store(tmp_path).check()
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / ".DS_Store").touch()
    store.Store(empty).check()
    store.Store(empty).open()
    assert store.Store(empty).is_prepared()
