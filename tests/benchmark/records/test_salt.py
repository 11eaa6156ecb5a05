"""A run folder can be continued where nothing but it is kept, and tells when it cannot."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from voxbench.benchmark.records.salt import kept_salt, known_salt, place
from voxbench.benchmark.settings.errors import BenchError

from ..conftest import PHANTOM

Bench = Callable[..., int]
PRIVATE_IDS = """
from voxbench.datasets.sinus.phantom import SinusPhantom

class PrivateIds(SinusPhantom):
    public_ids = False
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of its own."""
    for name in ("VOXBENCH_SALT", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def machines(home: Path) -> Path:
    return home / ".config" / "voxbench" / "salt"


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_salt_is_kept_by_the_machine_and_by_the_run_as_safe_as_its_ids(home: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        salt = kept_salt(tmp_path / "run")
    finally:
        os.umask(before)
    own = place(tmp_path / "run")
    assert own == tmp_path / "run" / "private" / "salt"
    assert salt == own.read_bytes() == machines(home).read_bytes() and len(salt) == 64
    assert [rights(own), rights(own.parent), rights(machines(home))] == [0o600, 0o700, 0o600]
    assert [path.name for path in (*own.parent.iterdir(), *machines(home).parent.iterdir())] == ["salt", "salt"]
    assert kept_salt(tmp_path / "other") == salt  # so that both can be paired


def test_the_order_is_variable_folder_machine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert known_salt(run) is None and not home.exists() and not run.exists()  # asked, not made
    machines(home).parent.mkdir(parents=True)
    machines(home).write_bytes(b"machine")
    assert known_salt(run) == b"machine"
    place(run).parent.mkdir(parents=True)
    place(run).write_bytes(b"folder")
    assert known_salt(run) == b"folder"
    monkeypatch.setenv("VOXBENCH_SALT", "variable")
    assert known_salt(run) == b"variable"
    monkeypatch.setenv("VOXBENCH_SALT", "")
    assert known_salt(run) == b"folder"


def test_an_empty_salt_is_said_and_not_taken(home: Path, tmp_path: Path) -> None:
    place(tmp_path / "run").parent.mkdir(parents=True)
    place(tmp_path / "run").touch()
    with pytest.raises(BenchError, match=r"private/salt is empty: delete it, or set VOXBENCH_SALT"):
        known_salt(tmp_path / "run")


@pytest.mark.parametrize("kind", ["a file", "nowhere"])
def test_without_a_home_the_folder_alone_keeps_it(
    kind: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "a file":
        home.touch()
    else:
        monkeypatch.setenv("HOME", "/proc/nothing")  # cannot be made, not even by root
    salt = kept_salt(tmp_path / "run")
    assert len(salt) == 64 and kept_salt(tmp_path / "run") == salt
    assert kept_salt(tmp_path / "other") != salt


def test_the_variables_bytes_count_whatever_the_language_of_the_terminal(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from voxbench.benchmark.records.salt import known_salt\n"
    code += "sys.stdout.buffer.write(known_salt(Path('none')))"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for language in ({"PYTHONUTF8": "1"}, plain):
        environment = {**os.environ, **language, "VOXBENCH_SALT": "grün"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert done.stdout == "grün".encode()


def test_a_run_goes_on_on_a_machine_that_knows_nothing_of_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    (tmp_path / "ids.py").write_text(PRIVATE_IDS)
    data = {"dataset": f"{tmp_path / 'ids.py'}:PrivateIds"}
    run = tmp_path / "run"
    assert bench(PHANTOM, **data) == 0
    salt = place(run).read_bytes()
    codes = {line.split(",")[5] for line in (run / "predictions.csv").read_text().splitlines()[1:]}
    for path in run.rglob("*"):
        if path.is_file() and "private" not in path.parts:
            assert salt not in path.read_bytes(), path

    monkeypatch.setenv("HOME", str(tmp_path / "another-home"))
    assert bench(PHANTOM, fractions="0.5,1.0", **data) == 0
    again = {line.split(",")[5] for line in (run / "predictions.csv").read_text().splitlines()[1:]}
    assert codes <= again and len({code for code in again if code.startswith("p")}) == 30

    # A folder of before: its salt is the machine's, and from now on its own too.
    place(run).unlink()
    with pytest.raises(BenchError, match=r"codes of another salt: set VOXBENCH_SALT .*voxbench/salt in ~/\.config"):
        bench(PHANTOM, fractions="0.5,1.0", **data)
    monkeypatch.setenv("HOME", str(home))
    assert bench(PHANTOM, fractions="0.5,1.0", dry_run=True, **data) == 0
    assert not place(run).exists()
    assert bench(PHANTOM, fractions="0.5,1.0", **data) == 0
    assert place(run).read_bytes() == salt

    monkeypatch.setenv("VOXBENCH_SALT", "mine")
    with pytest.raises(BenchError, match=r"another salt: .*unset it, for .*private/salt is theirs"):
        bench(PHANTOM, fractions="0.5,1.0", **data)
    assert place(run).read_bytes() == salt
    monkeypatch.setenv("VOXBENCH_SALT", salt.decode())
    place(run).write_text("torn")
    assert bench(PHANTOM, fractions="0.5,1.0", **data) == 0
    assert place(run).read_bytes() == salt


def test_a_phantom_needs_no_salt(bench: Bench, tmp_path: Path, home: Path) -> None:
    assert bench() == 0
    assert sorted(path.name for path in (tmp_path / "run" / "private").iterdir()) == ["grids", "ids.csv"]
    assert json.loads((tmp_path / "run" / "dataset.json").read_text())["salt_check"].startswith("s")
    assert not machines(home).exists()
