"""`bench list` and `--help`, as typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from voxbench.benchmark.commands import catalogue

from ...conftest import Typed


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", {"residual", "simclr", "spark", "supervised", "block-means", "pca", "shape"}),
        ("datasets", {"sinus-phantom", "manifest", "adrenalmnist3d", "sinus-implant"}),
        ("encoders", {"resnet"}),
        ("presets", {"quick", "small", "paper"}),
    ],
)
def test_what_there_is_with_its_options(kind: str, names: set[str], typed: Typed) -> None:
    listed = typed("list", kind, "--json")
    assert listed.code == 0
    rows = json.loads(listed.out)
    assert names <= {row["name"] for row in rows}
    assert all(row["about"] for row in rows)
    if kind == "methods":
        options = {row["name"]: row["options"] for row in rows}
        assert options["simclr"]["temperature"] == pytest.approx(0.1)
    table = typed("list", kind).out
    assert all(name in table for name in names)


@pytest.mark.parametrize("command", ["run", "list", "report", "compare", "prepare", "dashboard", "wandb-sync"])
def test_help_teaches(command: str, typed: Typed) -> None:
    said = typed(command, "--help")
    assert said.code == 0
    assert "Usage" in said.out


def test_what_is_known_is_shown_without_importing_it_again(tmp_path: Path) -> None:
    """Importing every method takes seconds; and whoever asks again gets the same."""

    def asked() -> tuple[list[str], bool]:
        program = (
            "import json, sys\n"
            "from voxbench.benchmark.commands.catalogue import catalogue\n"
            "rows = catalogue('encoders')\n"
            "print(json.dumps([rows, 'torch' in sys.modules]))\n"
        )
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
        rows, imported = json.loads(said.stdout)
        return rows, imported

    first = asked()
    assert first[1]
    (kept,) = tmp_path.rglob("encoders.json")
    assert asked() == (first[0], False)
    known = json.loads(kept.read_text())
    kept.write_text(json.dumps({**known, "stamp": "of other files"}))
    assert asked() == first
    kept.write_text(kept.read_text()[:-5])
    assert asked() == first


def test_a_plug_in_of_changed_files_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes").mkdir()
    file = tmp_path / "shapes" / "cone.py"
    file.write_text("")
    (tmp_path / "shapes" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint(name="cone", value="shapes.cone:Cone", group="voxbench.methods")
    before = list(catalogue._files(point))
    assert len(before) == 2
    file.write_text("class Cone: ...")
    assert list(catalogue._files(point)) != before
    assert list(catalogue._files(EntryPoint(name="gone", value="gone.cone:Cone", group="voxbench.methods"))) == []
