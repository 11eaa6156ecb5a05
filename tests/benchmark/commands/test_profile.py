"""`bench profile` as typed: what it measures adds up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from voxbench.benchmark.training import speed
from voxbench.reports.plots.speed import parts_of_a_step

from ...conftest import Typed

SMALL = ("dataset.patients=12", "dataset.pool_patients=4", "dataset.size=24")


def settings(*given: str) -> list[str]:
    return [word for setting in (*SMALL, *given) for word in ("--set", setting)]


def test_each_kind_of_step_is_measured_and_drawn(typed: Typed, cache: Path, tmp_path: Path) -> None:
    said = typed(
        "profile", "--methods", "residual,simclr", "--device", "cpu", "--steps", 2, "--batch", 4, "--cache", cache,
        "--out", tmp_path / "p", *settings(),
    )  # fmt: skip
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "p" / "profile.json").read_text())
    rows = {(row["method"], row["stage"]): row for row in found["workloads"]}
    assert list(rows) == [
        ("residual", "autoencoder"),
        ("residual", "residual"),
        ("simclr", "simclr"),
        ("", "fine-tuning"),
    ]
    for row in rows.values():
        assert row["share_of_limit"] == pytest.approx(row["volumes_per_second"] / row["limit_volumes_per_second"])
        assert set(row["seconds"]) == set(speed.PARTS) and row["seconds"]["rest"] > 0
        assert (row["seconds_a_map"] is not None) == (row["stage"] == "residual") == (row["seconds"]["maps"] > 0)
        a_volume = sum(row["seconds"].values()) / (row["batch"] * row["views"])
        assert 0.2 < a_volume * row["volumes_per_second"] < 5  # parts of a step against whole steps, on a noisy machine
        assert row["peak_memory_mb"] > 50
    assert found["matrix_gflop_per_second"]["float32"] > 1 and found["peers"] == []
    # SimCLR's two views pass the same encoder as fine-tuning's one; its projection head is small beside it.
    ratio = rows["simclr", "simclr"]["gflop_per_step"] / rows["", "fine-tuning"]["gflop_per_step"]
    assert 1.9 < ratio < 2.2
    assert (tmp_path / "p" / "profile.svg").read_text().lstrip().startswith("<")


def test_peers_stand_beside_in_table_record_and_plot(typed: Typed, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchio", reason="the extra voxbench[peers] is not installed")
    said = typed(
        "profile", "--methods", "supervised", "--peers", "--device", "cpu", "--steps", 1, "--batch", 2, "--cache",
        cache, "--out", tmp_path / "p", *settings(),
    )  # fmt: skip
    assert said.code == 0, said.err
    beside = {row["name"]: row for row in json.loads((tmp_path / "p" / "profile.json").read_text())["peers"]}
    assert list(beside) == ["voxbench", "torchio", "MONAI"]
    for row in beside.values():
        assert row["volumes_per_second"] > 1 and row["name"] in said.out
        for part in ("rotation up to 15 degrees", "flip along x", "gamma 0.7 to 1.5", "blur", "noise"):
            assert any(part in one for one in row["transforms"]), part
    assert "no brightness" in beside["torchio"]["transforms"][-1]
    without = parts_of_a_step({**json.loads((tmp_path / "p" / "profile.json").read_text()), "peers": []}).svg
    assert len((tmp_path / "p" / "profile.svg").read_text()) > 1.2 * len(without)


def test_a_peer_that_is_not_installed_is_one_line(
    typed: Typed, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchio", None)
    said = typed("profile", "--methods", "supervised", "--peers", "--cache", cache, "--out", tmp_path / "p")
    assert said.code == 2 and "pip install 'voxbench[peers]'" in said.err and not said.out
    assert len(said.err.strip().splitlines()) == 1 and not (tmp_path / "p").exists()


def test_an_unknown_method_is_one_line(typed: Typed, cache: Path, tmp_path: Path) -> None:
    said = typed("profile", "--methods", "simclear", "--cache", cache, "--out", tmp_path / "p")
    assert said.code == 2
    assert "simclr" in said.err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "name", ["profile.json", "profile.svg", "notes.txt", "report/index.html"], ids=lambda name: name.replace("/", "-")
)
def test_a_users_own_folder_is_refused_before_anything_is_measured(
    name: str, typed: Typed, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    said = typed("profile", "--methods", "supervised", "--cache", cache, "--out", tmp_path, *settings())
    assert said.code == 2 and "things that are not a profile's" in said.err and name.split("/")[0] in said.err
    assert len(said.err.strip().splitlines()) == 1 and not said.out
    assert (tmp_path / name).read_text() == '{"mine": 1}' and len(list(tmp_path.iterdir())) == 1


def test_an_earlier_profile_is_replaced(typed: Typed, cache: Path, tmp_path: Path) -> None:
    words = ("profile", "--methods", "supervised", "--device", "cpu", "--batch", 4, "--cache", cache, "--out", tmp_path)
    for steps in (1, 2):
        said = typed(*words, "--steps", steps, *settings())
        assert said.code == 0, said.err
        assert json.loads((tmp_path / "profile.json").read_text())["steps"] == steps
