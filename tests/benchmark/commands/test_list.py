"""`bench list` and `--help`, as typed."""

from __future__ import annotations

import json

import pytest

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
