"""`bench run` on other kinds of data and protocols: official splits, several classes, crops, the paper's protocol."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score

from voxbench.benchmark.commands.run import Arguments, configuration, execute
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training import checkpoints, pretrain
from voxbench.benchmark.training.train import NonFiniteLossError

from ..conftest import PHANTOM

Bench = Callable[..., int]
Planned = Callable[..., Run]

OFFICIAL = """
from dataclasses import replace
from voxbench.datasets.sinus.phantom import SinusPhantom

class Official(SinusPhantom):
    classes = ("normal", "mucosal thickening", "other")
    normal = 0
    has_official_split = True

    def items(self):
        findings = {"normal": 0, "mucosal thickening": 1}
        def of(item):
            if item.label is None:
                return item
            part = ("train", "train", "train", "val", "test")[int(item.patient[1:]) % 5]
            return replace(item, label=findings.get(item.finding, 2), split=part)
        return [of(item) for item in super().items()]

    def fingerprint(self):
        return "official" + super().fingerprint()
"""

CROPS = """
from dataclasses import replace
import numpy as np
from voxbench.datasets.sinus.phantom import SinusPhantom

class Crops(SinusPhantom):
    def items(self):
        return [
            replace(item, volume=f"{item.volume}#{n}", unit=item.volume) for item in super().items() for n in range(2)
        ]

    def read(self, item):
        name, _, number = item.volume.partition("#")
        whole = super().read(replace(item, volume=name, unit=""))
        return np.ascontiguousarray(np.roll(whole, int(number), axis=3))

    def fingerprint(self):
        return "crops" + super().fingerprint()
"""


def written(tmp_path: Path, source: str) -> str:
    """The name of the dataset class in `source`, as `--dataset` takes it."""
    name = source.partition("class ")[2].partition("(")[0]
    (tmp_path / f"{name}.py").write_text(source)
    return f"{tmp_path / name}.py:{name}"


def test_official_split_of_three_classes_has_seeds_for_folds(bench: Bench, tmp_path: Path) -> None:
    assert bench(PHANTOM, dataset=written(tmp_path, OFFICIAL), methods="residual", fractions="1.0", folds=2) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(rows.fold) == {0} and set(rows.seed) == {0, 1}
    scores = pd.read_csv(tmp_path / "run" / "predictions.csv")
    for row in rows.itertuples():
        mine = scores[(scores.fraction == row.fraction) & (scores.seed == row.seed)]
        each = [average_precision_score(mine.label == k, mine[f"score_{k}"]) for k in range(3)]
        assert row.auprc == pytest.approx(np.mean(each), abs=1e-12)
        np.testing.assert_allclose(mine[[f"score_{k}" for k in range(3)]].sum(axis=1), 1.0, atol=1e-6)
    # As many seeds as folds by default: a third is no other configuration.
    given = {"dataset": written(tmp_path, OFFICIAL), "methods": "supervised", "fractions": "1.0", "folds": 3}
    assert bench(PHANTOM, **given) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(rows.seed[rows.method == "supervised"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "seeds", "expected"), [((), None, 3), ((), "7,", 1), (("protocol.seeds=[7]",), None, 1)]
)
def test_seeds_take_the_place_of_folds_unless_named(
    planned: Planned, tmp_path: Path, settings: tuple[str, ...], seeds: str | None, expected: int
) -> None:
    run = planned((*PHANTOM, *settings), dataset=written(tmp_path, OFFICIAL), fractions="1.0", seeds=seeds)
    assert len(run.config.protocol.seeds) == expected
    if expected == 1:
        assert run.config.protocol.seeds == (7,)


def test_official_split_draws_fractions_anew_for_each_seed(planned: Planned, tmp_path: Path) -> None:
    run = planned(PHANTOM, dataset=written(tmp_path, OFFICIAL), fractions="0.3,1.0", seeds="3")
    drawn = {cell.train for cell in run.plan.cells.values() if cell.fraction == 0.3}
    assert len(drawn) == 3
    for seed in range(3):
        small, full = sorted((c for c in run.plan.cells.values() if c.seed == seed), key=lambda c: c.fraction)
        assert set(small.train) < set(full.train)


def test_crops_of_one_sinus_give_one_score_and_spend_one_label(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    given = {"dataset": written(tmp_path, CROPS), "methods": "supervised", "fractions": "1.0"}
    run = planned(PHANTOM, **given)
    assert bench(PHANTOM, **given) == 0
    scores = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(scores) == scores.volume.nunique() == 60
    rows = pd.read_csv(tmp_path / "run" / "results.csv").set_index("fold")
    for cell in run.plan.cells.values():
        assert rows.n_train_labels[cell.fold] == len(cell.train) / 2
        assert rows.n_test[cell.fold] == len(cell.test) / 2


def test_papers_protocol_says_what_labels_it_spends(bench: Bench, tmp_path: Path) -> None:
    assert bench(methods="residual", fractions="0.3", protocol="paper", folds=2) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert (rows.protocol == "paper").all()
    assert (rows.n_labels_spent > rows.n_train_labels + rows.n_val_labels).all()
    assert f"{rows.n_labels_spent.mean():.0f}" in (tmp_path / "run" / "report" / "table.md").read_text()


def test_dry_run_tells_the_plan_and_writes_nothing(arguments: Callable[..., Arguments], tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=160)
    assert execute(arguments(methods="residual,simclr", fractions="0.3,1.0", dry_run=True), console) == 0
    assert "6 x autoencoder, 6 x residual" in said.getvalue()
    assert "1 x simclr" in said.getvalue()
    assert "0/18" in said.getvalue() and "0/7" in said.getvalue()
    assert "nothing was run" in said.getvalue()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["__init__", "stages"])
def test_a_method_that_cannot_be_made_is_said_in_one_line(planned: Planned, tmp_path: Path, place: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from voxbench.methods.base import Method\n"
        f"class Mine(Method):\n    name, about, {place} = 'mine', 'fails', lambda self, *_: self.nothing\n"
        + ("    def stages(self): return ()\n" if place == "__init__" else "")
    )
    with pytest.raises(BenchError, match=r"method .*mine\.py:Mine cannot be made: AttributeError: .* \(.*, line \d+\)"):
        planned(methods=f"{file}:Mine")


def test_an_unknown_augmentation_is_said_before_anything_trains(planned: Planned, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from voxbench.methods.base import Method, Stage\n"
        "class Mine(Method):\n    name, about = 'mine', 'fails'\n"
        "    def stages(self):\n"
        "        return (Stage(name='s', module=self, loss=lambda _: 0, augmentation='geometry'),)\n"
    )
    with pytest.raises(BenchError, match=r"method mine, stage s: .*'geometry': did you mean geometric"):
        planned(methods=f"{file}:Mine")


def test_hopeless_fraction_costs_no_pretraining(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    # One patient, two sinuses, and three classes.
    given = {"dataset": written(tmp_path, OFFICIAL), "methods": "simclr", "fractions": "0.001"}
    assert any(note.startswith("not trained: fraction 0.001") for note in planned(PHANTOM, **given).plan.notes)
    assert bench(PHANTOM, **given) == 1
    assert not list((tmp_path / "run").glob("stages/*/stage.json"))
    assert set(pd.read_csv(tmp_path / "run" / "results.csv").status) == {"failed"}


def test_stage_with_too_few_volumes_costs_no_pretraining(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    given = {"methods": "residual,supervised", "fractions": "0.12"}
    run = planned(**given)
    short = [cell for cell in run.plan.cells.values() if cell.hopeless]
    assert short and {len(cell.normals) for cell in short} == {1}
    assert any("stage 'autoencoder' of residual 1 volumes" in note for note in run.plan.notes)
    assert bench(**given) == 1
    trained = {path.parent.name for path in (tmp_path / "run").glob("stages/*/stage.json")}
    assert trained and not trained & {key for cell in short for key in cell.stages}
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(rows[rows.method == "supervised"].status) == {"ok"}
    assert (rows[rows.method == "residual"].status == "failed").sum() == len(short)


def test_a_prior_without_training_runs_to_its_row(bench: Bench, tmp_path: Path) -> None:
    given = {"methods": "residual-median,residual-pool,supervised", "fractions": "1.0", "folds": 2}
    assert bench(**given) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(rows.status) == {"ok"}
    spent = rows.groupby("method").n_normal_labels.min()
    assert spent["residual-median"] > 0 and spent["residual-pool"] == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("stages/*/stage.json")]
    priors = {one["stage"]: one for one in records if one["stage"] in ("median-image", "autoencoder")}
    assert (priors["median-image"]["steps"], priors["median-image"]["n_held_out"]) == (0, 0)
    held_out = priors["autoencoder"]["n_held_out"]
    assert 0 < held_out < priors["autoencoder"]["n_volumes"]
    assert len(priors["autoencoder"]["seen"]) == held_out + 16  # prior.volumes, and those that it is measured on
    assert all(one["localisation_median"] >= one["localisation_chance"] > 0 for one in priors.values())
    assert bench(**given, dry_run=True) == 0


def test_small_pool_is_joined_by_the_training_part(planned: Planned) -> None:
    run = planned(methods="simclr", settings=("dataset.pool_patients=2",))
    assert any("smaller than the training part" in note for note in run.plan.notes)
    for cell in run.plan.cells.values():
        members = set(run.plan.stages[cell.stages[0]].members)
        assert {i for i, item in enumerate(run.bank.items) if item.label is None} < members
        assert set(cell.train) < members and not members & {*cell.val, *cell.test}


def test_interrupted_stage_goes_on_from_its_checkpoint(
    arguments: Callable[..., Arguments], planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)

    def weights(out: Path, stop_at: int) -> dict[str, torch.Tensor]:
        longer = ("pretrain.volumes=96",)
        run = planned(longer, methods="byol", out=out)
        plan = next(iter(run.plan.stages.values()))
        config, runtime = configuration(arguments(longer, methods="byol", out=out))
        steps: list[int] = []

        def progress(step: int, _: int) -> None:
            steps.append(step)
            if step == stop_at and len(steps) == stop_at:
                raise KeyboardInterrupt

        with Setup(config=config, runtime=runtime, bank=run.bank.folder, provenance={}).opened() as context:
            if stop_at:
                with pytest.raises(KeyboardInterrupt):
                    pretrain.run_stage(context, plan, progress)
            record = pretrain.run_stage(context, plan, progress)
            assert len(steps) == record["steps"] + (1 if stop_at else 0)  # the step that was not kept comes twice
            assert len(record["seen"]) == len(set(record["seen"])) > 0
            return context.store.load_weights(plan.key, "module")

    straight, resumed = weights(tmp_path / "straight", 0), weights(tmp_path / "resumed", 3)
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_lost_weights_are_never_kept_in_a_checkpoint(
    arguments: Callable[..., Arguments], planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss with an infinite gradient: the loss of the next step would tell, a checkpoint comes before it."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    file = tmp_path / "mine.py"
    file.write_text(
        "from voxbench.methods.base import Method, Stage\n"
        "class Mine(Method):\n    name, about = 'mine', 'loses its weights'\n"
        "    def stages(self): return (Stage(name='s', module=self.encoder, loss=self.loss),)\n"
        "    def loss(self, batch): return (self.encoder(batch.views[0]).sum() * 0).sqrt()\n"
    )
    given = {"methods": f"{file}:Mine", "settings": ("pretrain.clip=0",)}
    run = planned(**given)
    config, runtime = configuration(arguments(**given))
    plan = next(iter(run.plan.stages.values()))
    with Setup(config=config, runtime=runtime, bank=run.bank.folder, provenance={}).opened() as context:
        with pytest.raises(NonFiniteLossError, match="weights are not finite at step 1"):
            pretrain.run_stage(context, plan, lambda *_: None)
        assert context.store.load_checkpoint(plan.key) is None
