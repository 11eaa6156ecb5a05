"""Evaluations on frozen features: what they compute, what they may see, and that fine-tuned cells stay as they were."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxbench.benchmark.commands.run import configuration
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.assemble import build_encoder
from voxbench.benchmark.settings.errors import BenchError
from voxbench.methods.parts.logistic import logistic
from voxbench.methods.parts.prior import at_own_shares

Bench = Callable[..., int]
Planned = Callable[..., Run]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_fine_tuned_cells_keep_their_keys_and_stages_beside_other_evaluations(planned: Planned) -> None:
    alone = planned(methods="simclr,supervised").plan
    beside = planned(methods="simclr,supervised", evaluate="knn,finetune,linear").plan
    assert alone.cells.keys() < beside.cells.keys()
    assert alone.stages.keys() == beside.stages.keys()
    assert len(beside.cells) == 3 * len(alone.cells)
    by = [cell.evaluation for cell in beside.cells.values()]
    assert {name: by.count(name) for name in by} == dict.fromkeys(("finetune", "linear", "knn"), len(alone.cells))


def test_a_predictor_has_no_other_evaluation(planned: Planned) -> None:
    cells = planned(methods="block-means,supervised", evaluate="linear").plan.cells.values()
    assert {(cell.method, cell.evaluation) for cell in cells} == {("block-means", "own"), ("supervised", "linear")}


def test_an_unknown_evaluation_is_said(arguments: Callable[..., Any]) -> None:
    with pytest.raises(BenchError, match=r"protocol\.evaluate\.0: .*'finetune', 'linear' or 'knn'.*'liner'"):
        configuration(arguments(evaluate="liner"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run with all evaluations, of a method, the baseline and a yardstick."""
    from rich.console import Console

    from voxbench.benchmark.commands.run import Arguments, execute

    from ..conftest import PHANTOM, SMALL

    out = tmp_path_factory.mktemp("frozen") / "run"
    values = dict.fromkeys(("dataset", "data_root", "encoder", "seeds", "protocol"))
    given: dict[str, Any] = {
        **values,
        "methods": "simclr,supervised,random-encoder",
        "fractions": "0.4,1.0",
        "preset": "quick",
        "folds": 2,
        "settings": (*PHANTOM, *SMALL, "audit.near_duplicates=off"),
        "out": out,
        "cache": cache,
        "device": "cpu",
        "workers": 1,
        "dry_run": False,
        "evaluate": "finetune,linear,knn",
    }
    assert execute(Arguments(**given), Console(quiet=True)) == 0
    return out


def test_all_evaluations_stand_in_both_tables_and_in_the_audit(finished: Path) -> None:
    found = {(row["method"], row["evaluation"]) for row in rows(finished) if row["status"] == "ok"}
    each = ("finetune", "linear", "knn")
    assert found == {*((m, e) for m in ("simclr", "supervised") for e in each), ("random-encoder", "own")}
    with (finished / "predictions.csv").open() as file:
        assert {(row["method"], row["evaluation"]) for row in csv.DictReader(file)} == found
    assert json.loads((finished / "audit.json").read_text())["outcome"] == "clean"
    spent = {row["evaluation"]: row["n_labels_spent"] for row in rows(finished) if row["fraction"] == "0.4"}
    assert len(set(spent.values())) == 1


def test_a_frozen_cell_sees_its_labels_and_its_test_part_and_nothing_else(finished: Path, planned: Planned) -> None:
    run = planned(methods="simclr", fractions="0.4,1.0", folds=2, evaluate="linear,knn")
    assert len(run.plan.cells) == 8
    for key, cell in run.plan.cells.items():
        seen = json.loads((finished / "cells" / "simclr" / f"{key}.json").read_text())["seen"]
        parts = {"train": cell.train, "val": (), "pool": (), "test": cell.test}
        assert seen == {name: sorted(run.bank.hashes[i] for i in part) for name, part in parts.items()}


def test_the_linear_probe_of_the_baseline_is_that_of_the_random_encoder(finished: Path) -> None:
    """The same features, labels and inner folds, by another way through the code."""
    by = {
        (row["evaluation"], row["fraction"], row["fold"]): row["auprc"]
        for row in rows(finished)
        if row["method"] in ("supervised", "random-encoder")
    }
    for (evaluation, *place), auprc in by.items():
        if evaluation == "own":
            assert by["linear", *place] == auprc


def test_one_pass_serves_all_fractions_and_both_evaluations(finished: Path) -> None:
    kept = sorted((finished / "private" / "features").iterdir())
    assert len(kept) == 2  # simclr's encoder, and the one that all start from; shared by folds here
    assert kept[0].stat().st_mode & 0o077 == 0


def test_a_linear_probe_is_what_an_own_computation_gives(finished: Path, planned: Planned) -> None:
    run = planned(methods="supervised", fractions="1.0", folds=2, evaluate="linear")
    cell = next(cell for cell in run.plan.cells.values() if cell.fold == 1)
    encoder = build_encoder(run.config, run.dataset.shape, 0, None).eval()
    with torch.no_grad():
        features = {
            i: encoder(run.bank.batch([i], torch.device("cpu")))[0].double().numpy() for i in cell.train + cell.test
        }
    items = run.bank.items
    labels = np.array([items[i].label for i in cell.train])
    codes = {name: number for number, name in enumerate(dict.fromkeys(items[i].patient for i in cell.train))}
    from voxbench.benchmark.settings.keys import derive_seed

    seed = derive_seed(cell.seed, cell.fold, cell.fraction, "fit") % 2**31
    model = logistic(
        np.stack([features[i] for i in cell.train]),
        labels,
        np.array([codes[items[i].patient] for i in cell.train]),
        seed,
    )
    expected = at_own_shares(model.predict_proba(np.stack([features[i] for i in cell.test])), np.bincount(labels))
    record = json.loads((finished / "cells" / "supervised" / f"{cell.key}.json").read_text())
    given = np.array([unit["scores"] for unit in record["scores"]])
    assert np.allclose(sorted(given[:, 1]), sorted(expected[:, 1]), atol=2e-4)


def test_kept_features_that_were_damaged_are_made_again(
    finished: Path, planned: Planned, tmp_path: Path, bench: Bench
) -> None:
    out = tmp_path / "run"
    given = {"methods": "supervised", "fractions": "1.0", "folds": 2, "out": out, "evaluate": "knn"}
    assert bench(**given) == 0
    first = {row["fold"]: row["auprc"] for row in rows(out)}
    (kept,) = (out / "private" / "features").iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(bytes(content))
    for path in (out / "cells" / "supervised").glob("*.json"):
        path.unlink()
    assert bench(**given) == 0
    assert {row["fold"]: row["auprc"] for row in rows(out)} == first
    assert kept.read_bytes() != bytes(content)


def test_a_folder_of_before_goes_on_with_further_evaluations(bench: Bench, tmp_path: Path) -> None:
    """Records of before do not tell their evaluation: fine-tuning, or a predictor's own."""
    out = tmp_path / "run"
    assert bench(methods="supervised,block-means", out=out) == 0
    from voxbench.benchmark.records.seal import sealed

    for path in (out / "cells").glob("*/*.json"):
        record = json.loads(path.read_text())
        del record["cell"]["evaluation"]
        del record["seal"]
        path.write_text(json.dumps(sealed(record), indent=1) + "\n")
    before = {path: path.read_bytes() for path in (out / "cells").glob("*/*.json")}
    assert bench(methods="supervised,block-means", out=out, evaluate="linear") == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    found = {(row["method"], row["evaluation"]) for row in rows(out)}
    assert found == {("supervised", "finetune"), ("supervised", "linear"), ("block-means", "own")}
    assert len(rows(out)) == 9
