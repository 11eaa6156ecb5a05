"""Methods that bring their own predictor, and such that set the encoder's weights: what the harness does for them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from voxbench.benchmark.planning.audit import Served, audit_plan, audit_seen
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.settings.assemble import build_encoder
from voxbench.benchmark.settings.config import AuditConfig
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training.finetune import _model

from ...conftest import Typed

Bench = Callable[..., int]
Planned = Callable[..., Run]
ROOT = Path(__file__).parents[3]
HISTOGRAM = f"{ROOT / 'docs/examples/histogram.py'}:Histogram"

PREDICTOR = """
import json
from pathlib import Path

import numpy as np

from voxbench.methods.base import Predictor

class Brightness(Predictor):
    name = "brightness"
    about = "the mean of a volume, taken for a probability"
    learns_from_pool = {pool}

    def fit(self, data):
        told = {{"labels": data.labels.tolist(), "patients": data.patients.tolist(), "classes": data.classes,
                "volumes": len(data.volumes), "pool": sum(len(batch) for batch in data.pool.batches())}}
        with Path({told!r}).open("a") as file:
            file.write(json.dumps(told) + "\\n")
        data.volumes.features(lambda batch: batch.mean(dim=(2, 3, 4)))

    def scores(self, volumes):
        means = volumes.features(lambda batch: batch.mean(dim=(2, 3, 4)))
        return {scores}
"""

SETS_WEIGHTS = """
import torch

from voxbench.methods.base import Method

class Sets(Method):
    name = "sets"
    about = "an initialisation of its own"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        with torch.no_grad():
            for weights in encoder.parameters():
                weights.{change}

    def stages(self):
        return ()
"""

LOSES = """
import torch

from voxbench.methods.base import Method, Stage

class Loses(Method):
    name = "loses"
    about = "weights that are lost when all losses were fine"

    def stages(self):
        return (Stage(name="only", module=self.encoder, loss=self.loss, finish=self.finish),)

    def loss(self, batch):
        return self.encoder(batch.views[0]).square().mean()

    def finish(self, batches):
        next(self.encoder.parameters()).fill_(float("nan"))
"""

OTHER = """
class Other(Sets):
    name = "other"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.encoder = torch.nn.Linear(2, 2)
"""

FROZEN = """
import numpy as np
from sklearn.linear_model import LogisticRegression

from voxbench.methods.base import Predictor
from voxbench.methods.simclr import SimCLR

class Frozen(SimCLR, Predictor):
    name = "frozen"
    about = "SimCLR's encoder, frozen, with a linear head"

    def fit(self, data):
        self.head = LogisticRegression().fit(data.volumes.features(self.encoder), data.labels)

    def scores(self, volumes):
        return self.head.predict_proba(volumes.features(self.encoder))
"""


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def records(run: Path, method: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((run / "cells" / method).glob("*.json"))]


def predictor(folder: Path, *, pool: bool = False, scores: str = "np.hstack([1 - means, means])") -> str:
    path = folder / f"brightness_{abs(hash((pool, scores)))}.py"
    path.write_text(PREDICTOR.format(pool=pool, scores=scores, told=str(folder / "told.jsonl")))
    return f"{path}:Brightness"


def sets(folder: Path, change: str) -> str:
    path = folder / f"sets_{abs(hash(change))}.py"
    path.write_text(SETS_WEIGHTS.format(change=change))
    return f"{path}:Sets"


def test_it_is_given_the_labels_of_both_parts_and_no_more(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    methods = f"supervised,{predictor(tmp_path)}"
    assert bench(methods=methods, fractions="0.5,1.0") == 0
    plan = planned(methods=methods, fractions="0.5,1.0")
    cells = [cell for cell in plan.plan.cells.values() if cell.method == "brightness"]
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert len(told) == len(cells) == 6
    for cell, said in zip(cells, told, strict=True):
        items = [plan.bank.items[i] for i in (*cell.train, *cell.val)]
        assert said["labels"] == [item.label for item in items]
        assert said["volumes"] == len(items)
        assert len(set(said["patients"])) == len({item.patient for item in items})
        assert said["classes"] == 2
        assert said["pool"] == 0
    spent = {(r["method"], r["fraction"], r["fold"]): r["n_labels_spent"] for r in rows(tmp_path / "run")}
    for fraction in ("0.5", "1.0"):
        for fold in "012":
            assert spent["brightness", fraction, fold] == spent["supervised", fraction, fold]


def test_its_rows_are_like_any_other(bench: Bench, tmp_path: Path) -> None:
    assert bench(methods=f"supervised,block-means,{HISTOGRAM}") == 0
    found = rows(tmp_path / "run")
    roles = {row["method"]: row["role"] for row in found}
    assert roles == {"supervised": "baseline", "block-means": "yardstick", "histogram": "method"}
    for row in found:
        assert row["status"] == "ok"
        assert 0 < float(row["auprc"]) <= 1
        assert float(row["pretrain_seconds"]) == 0
        assert float(row["finetune_seconds"]) > 0
        assert row["collapsed"] == "false"
    tested = {m: {s["volume"] for r in records(tmp_path / "run", m) for s in r["scores"]} for m in roles}
    assert tested["supervised"] == tested["block-means"] == tested["histogram"]
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_the_audit_has_what_was_served_and_the_pool_too(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    methods = predictor(tmp_path, pool=True)
    assert bench(methods=methods) == 0
    run = planned(methods=methods)
    hashes = run.bank.hashes
    for record in records(tmp_path / "run", "brightness"):
        cell = run.plan.cells[record["key"]]
        assert len(cell.pool) == 40  # all unlabelled: none of theirs is tested
        for part in ("train", "val", "test", "pool"):
            assert record["seen"][part] == sorted({hashes[i] for i in getattr(cell, part)})
        leaking = {**record["seen"], "pool": [*record["seen"]["pool"], record["seen"]["test"][0]]}
        served = Served(key=record["key"], name="brightness", parts=leaking, stages={})
        (finding, *_) = audit_seen(run.plan, run.bank, [served]).findings
        assert "pool volumes served for brightness" in finding.where


def test_the_plan_of_a_pool_with_a_tested_volume_is_a_leak(planned: Planned, tmp_path: Path) -> None:
    run = planned(methods=predictor(tmp_path, pool=True))
    key, cell = next(iter(run.plan.cells.items()))
    assert not audit_plan(run.plan, run.bank, AuditConfig()).findings
    run.plan.cells[key] = type(cell)(**{**vars(cell), "pool": (*cell.pool, cell.test[0])})
    findings = audit_plan(run.plan, run.bank, AuditConfig()).findings
    assert any("unlabelled volumes for brightness" in finding.where for finding in findings)


def test_without_a_pool_it_sees_the_training_part_and_never_the_test_part(planned: Planned, tmp_path: Path) -> None:
    run = planned(("dataset.pool_patients=0",), methods=predictor(tmp_path, pool=True), fractions="0.5")
    for cell in run.plan.cells.values():
        assert set(cell.train) < set(cell.pool)
        assert not set(cell.pool) & {*cell.test, *cell.val}


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ("means", "have shape [20, 1] for 20 volumes and 2 classes"),
        ("np.hstack([1 - means, means])[:3]", "have shape [3, 2] for 20 volumes"),
        ("np.hstack([means, means]) * np.nan", "are not finite"),
        ("np.hstack([-9 * means, 9 * means])", "lie from -"),
        ("np.hstack([means, means])", "do not sum to 1"),
    ],
)
def test_scores_that_are_none_are_said_in_one_line(bench: Bench, tmp_path: Path, scores: str, said: str) -> None:
    assert bench(methods=f"{predictor(tmp_path, scores=scores)},block-means") == 1
    errors = {row["method"]: row["error"] for row in rows(tmp_path / "run")}
    assert errors["block-means"] == ""
    assert said in errors["brightness"]
    assert errors["brightness"].startswith("the scores of brightness")


def test_a_bug_in_it_names_its_line_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    assert bench(methods=f"{predictor(tmp_path, scores='means / unknown')},block-means") == 1
    errors = {row["method"]: row["error"] for row in rows(tmp_path / "run")}
    assert errors["block-means"] == ""
    assert "NameError: name 'unknown' is not defined (brightness_" in errors["brightness"]


def test_a_frozen_pretrained_encoder_with_a_linear_head(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    """Stages and a predictor: what is probed is the encoder that the stage left, as an independent fit shows."""
    (tmp_path / "frozen.py").write_text(FROZEN)
    methods = f"{tmp_path / 'frozen.py'}:Frozen"
    assert bench(methods=methods) == 0
    run = planned(methods=methods)
    for record in records(tmp_path / "run", "frozen"):
        cell = run.plan.cells[record["key"]]
        (stage,) = cell.stages
        assert record["stages"] == [stage]
        encoder = build_encoder(run.config, run.dataset.shape, cell.seed, cell.replicate).eval()
        encoder.load_state_dict(run.store.load_weights(stage, "encoder"))
        with torch.no_grad():
            features = encoder(run.bank.batch([*cell.train, *cell.val])).numpy()
            tested = encoder(run.bank.batch(cell.test)).numpy()
        from sklearn.linear_model import LogisticRegression

        labels = [run.bank.items[i].label for i in (*cell.train, *cell.val)]
        known = LogisticRegression().fit(features, labels).predict_proba(tested)
        found = [scored["scores"] for scored in record["scores"]]
        assert found == pytest.approx(known, abs=2e-3)


def test_keys_follow_a_predictor_s_file_and_options_and_not_the_recipe_of_fine_tuning(
    planned: Planned, tmp_path: Path
) -> None:
    def keys(settings: tuple[str, ...] = (), methods: str = "block-means") -> set[str]:
        return set(planned(settings, methods=methods).plan.cells)

    assert keys() == keys(("finetune.epochs=9",)) == keys(("pretrain.volumes=64",))
    assert not keys() & keys(("methods.block-means.blocks=4",))
    one, two = (predictor(tmp_path, scores=scores) for scores in ("np.eye(2)[[0] * 20]", "np.eye(2)[[1] * 20]"))
    assert not keys(methods=one) & keys(methods=two)


@pytest.mark.parametrize("change", ["fill_(float('nan'))", "fill_(float('inf'))"])
def test_weights_that_are_lost_in_init_are_said(bench: Bench, tmp_path: Path, change: str) -> None:
    assert bench(methods=f"supervised,{sets(tmp_path, change)}") == 1
    found = {row["method"]: row for row in rows(tmp_path / "run")}
    assert found["supervised"]["status"] == "ok"
    assert found["sets"]["status"] == "failed"
    error = found["sets"]["error"]
    assert error.startswith("sets: its __init__ left the encoder with weights that are not finite, in ")
    assert error.endswith("mend the method")


def test_weights_that_are_lost_after_the_last_loss_are_said(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "loses.py").write_text(LOSES)
    assert bench(methods=f"{tmp_path / 'loses.py'}:Loses") == 1
    errors = {row["error"] for row in rows(tmp_path / "run")}
    assert len(errors) == 1
    assert "loses, stage only: left the encoder with weights that are not finite, in 1 of " in errors.pop()


def test_another_encoder_in_place_of_the_common_one_is_said(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(SETS_WEIGHTS.format(change="mul_(1)") + OTHER)
    with pytest.raises(BenchError, match="puts another encoder in the place of the one it is given"):
        bench(methods=f"{tmp_path / 'other.py'}:Other")


def test_a_role_that_there_is_not_is_said(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "role.py").write_text(SETS_WEIGHTS.format(change="mul_(1)") + '    role = "yardstik"\n')
    with pytest.raises(BenchError, match="method sets: no role is called 'yardstik': did you mean yardstick"):
        planned(methods=f"{tmp_path / 'role.py'}:Sets")


def test_fine_tuning_starts_from_the_weights_that_init_set(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    spec = sets(tmp_path, "mul_(0.5)")
    assert bench(methods=f"supervised,{spec}") == 0
    aurocs = {m: [r["metrics"]["auroc"] for r in records(tmp_path / "run", m)] for m in ("supervised", "sets")}
    assert aurocs["sets"] != aurocs["supervised"]
    run = planned(methods=f"supervised,{spec}")
    with Setup(config=run.config, runtime=run.runtime, bank=run.bank.folder, provenance={}).opened() as context:
        cells = {cell.method: cell for cell in run.plan.cells.values() if cell.fold == 0}
        plain, halved = (_model(context, cells[m]) for m in ("supervised", "sets"))
    fresh = build_encoder(run.config, run.dataset.shape, 0, None).state_dict()
    for name, weights in plain.encoder.state_dict().items():
        assert torch.equal(weights, fresh[name])
    for name, weights in halved.encoder.named_parameters():
        assert torch.equal(weights, fresh[name] * 0.5)
        assert weights.requires_grad
    heads = [dict(model.head.named_parameters()) for model in (plain, halved)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_an_initialisation_that_leaves_the_weights_alone_is_supervised(bench: Bench, tmp_path: Path) -> None:
    assert bench(methods=f"supervised,{sets(tmp_path, 'mul_(1.0)')}") == 0
    ours, theirs = ([r["scores"] for r in records(tmp_path / "run", m)] for m in ("sets", "supervised"))
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_an_edited_initialisation_is_trained_anew(planned: Planned, tmp_path: Path) -> None:
    first, second = (
        {c.key for c in planned(methods=sets(tmp_path, change)).plan.cells.values()}
        for change in ("mul_(2)", "mul_(3)")
    )
    assert not first & second


def test_the_shape_yardstick_is_left_out_where_volumes_are_images(typed: Typed, cache: Path, tmp_path: Path) -> None:
    words = ["--folds", "3", "--fractions", "0.5", "--device", "cpu", "--workers", "1", "--cache", cache]
    words += ["--set", "dataset.patients=30", "--set", "dataset.pool_patients=20", "--wandb", "off"]
    alone = typed("run", "--methods", "shape", "--out", tmp_path / "one", *words)
    assert alone.code == 2
    assert alone.err.strip() == (
        "error: shape is for masks, and most of these volumes have more than two values: left out"
    )
    named = typed("run", "--methods", "supervised,shape", "--out", tmp_path / "two", *words, "--dry-run")
    assert named.code == 2
    example = f"all,{HISTOGRAM}"
    dry = typed("run", "--methods", example, "--out", tmp_path / "three", *words, "--dry-run")
    assert dry.code == 0
    assert "note: shape is for masks" in dry.out
    assert "histogram" in dry.out


def test_a_method_that_was_left_out_is_no_missing_row(bench: Bench, tmp_path: Path) -> None:
    methods = "all,shape"
    with pytest.raises(BenchError, match="shape is for masks"):
        bench(methods=methods)
    few = ("pretrain.volumes=8", "prior.volumes=8", "methods.block-means-trees.trees=5")
    assert bench(few, methods="all", folds=2) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert "shape" not in config["methods"]
    assert "pca" in config["methods"]
    assert "shape" not in (tmp_path / "run" / "report" / "table.md").read_text()


def test_no_yardsticks_leaves_them_out(planned: Planned) -> None:
    every = set(planned(methods="all").config.methods)
    yardsticks = {"block-means", "block-means-trees", "pca", "random-encoder", "shape"}
    assert every >= yardsticks | {"supervised", "simclr"}
    assert set(planned(methods="all", yardsticks=False).config.methods) == every - yardsticks
    assert set(planned(methods="supervised,pca", yardsticks=False).config.methods) == {"supervised"}
    with pytest.raises(BenchError, match="--no-yardsticks leaves none of them"):
        planned(methods="pca,shape", yardsticks=False)
