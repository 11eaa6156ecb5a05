"""The rooms and their one-way arrows: benchmark -> {methods, datasets, reports}, and nothing else between rooms."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "benchmark": {"benchmark", "methods", "datasets", "reports"},
    "methods": {"methods"},
    "datasets": {"datasets"},
    "reports": {"reports"},
    "configs": set(),
}


def imported_rooms(path: Path) -> list[tuple[int, str]]:
    """(line, room) of each voxbench import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from voxbench import datasets` names its room only in what it imports.
            names = [f"voxbench.{a.name}" for a in node.names] if node.module == "voxbench" else [str(node.module)]
            found += [(node.lineno, name) for name in names]
    return [(line, name.split(".")[1]) for line, name in found if name.startswith("voxbench.")]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room} may not import {other}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, other in imported_rooms(path)
        if other not in MAY_IMPORT[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_reports_never_import_torch() -> None:
    wrong = [
        str(path)
        for path in (ROOT / "reports").rglob("*.py")
        if any(
            (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "torch" for a in node.names))
            or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert not wrong


def test_every_registered_plugin_imports() -> None:
    for kind in ("methods", "encoders", "datasets"):
        points = importlib.metadata.entry_points(group=f"voxbench.{kind}")
        assert points, f"voxbench is not installed, or registers no {kind}"
        for point in points:
            assert point.load().name == point.name
