"""`bench list` and `--help`, as typed."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from voxbench.benchmark.cli import main


def said(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    return capfd.readouterr().out


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", {"residual", "byol", "simsiam", "simclr", "spark", "supervised"}),
        ("datasets", {"sinus-phantom", "manifest", "adrenalmnist3d", "sinus-implant"}),
        ("encoders", {"resnet"}),
        ("presets", {"quick", "small", "paper"}),
    ],
)
def test_what_there_is_with_its_options(
    kind: str, names: set[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(said(["list", kind, "--json"], monkeypatch, capfd))
    assert names <= {row["name"] for row in rows}
    assert all(row["about"] for row in rows)
    if kind == "methods":
        options = {row["name"]: row["options"] for row in rows}
        assert options["simclr"]["temperature"] == pytest.approx(0.1)
    table = said(["list", kind], monkeypatch, capfd)
    assert all(name in table for name in names)


@pytest.mark.parametrize("command", ["run", "list", "report", "compare", "prepare", "dashboard", "wandb-sync"])
def test_help_teaches(command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert "Usage" in said([command, "--help"], monkeypatch, capfd)
