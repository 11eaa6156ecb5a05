"""Imports run one way: benchmark -> {methods, datasets, reports}, and inside each of them from the top floor down."""

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
# Rooms inside a room, from the top floor down; of two on one floor neither knows the other. "" is the room's own files
# but those named here. No import goes up.
FLOORS: dict[str, list[set[str]]] = {
    "benchmark": [
        {"cli"},
        {"commands"},
        {"tuning"},
        {"running", "checking"},
        {"training", "tracking"},
        {"planning", "records"},
        {"settings"},
    ],
    "reports": [{"pages"}, {"plots"}, {"tables"}, {"judging"}, {"reading"}, {"stats"}],
    "datasets": [
        {"sinus", "manifest", "medmnist3d"},
        {"prepare", "views", "cohort"},
        {"volumes", "splits", "tables", "machine"},
        {"dealing"},
        {"base", "files"},
    ],
    "methods": [{""}, {"encoders"}, {"parts"}, {"base"}, {"errors"}],
}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of each voxbench import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from voxbench.methods import base` names what it imports only at its end.
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return [(line, name) for line, name in found if name.startswith("voxbench.")]


def floor_of(room: str, name: str) -> int:
    """The floor, counted from the top, of a dotted name below `voxbench.ROOM`, or of a file's path within ROOM."""
    inner = name.split(".")[0]
    floors = FLOORS[room]
    named = [number for number, floor in enumerate(floors) if inner in floor]
    rest = [number for number, floor in enumerate(floors) if "" in floor]
    assert named or rest, f"{room}/{inner} stands on no floor: name it in FLOORS"
    return (named or rest)[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room} may not import {other}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, name in imports(path)
        if (other := name.split(".")[1]) not in MAY_IMPORT[room]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", FLOORS)
def test_no_import_goes_up_a_floor(room: str) -> None:
    wrong, floors = [], set()
    for path in sorted((ROOT / room).rglob("*.py")):
        within = path.relative_to(ROOT / room)
        here = within.with_suffix("").parts[0]
        if here == "__init__":
            continue
        floors.add(here)
        for line, name in imports(path):
            if not name.startswith(f"voxbench.{room}."):
                continue
            there = name.split(".")[2]
            up = floor_of(room, there) < floor_of(room, here)
            beside = floor_of(room, there) == floor_of(room, here) and there != here
            if up or (beside and {here, there} & set.union(*FLOORS[room])):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} may not import {there}")
    assert not wrong, "\n".join(wrong)
    assert floors >= set.union(*FLOORS[room]) - {""}  # a room that is gone is taken off the list


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
