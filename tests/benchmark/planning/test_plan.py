"""What is trained on what: labels spent, stages shared, keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from voxbench.benchmark.planning.audit import audit_plan
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings.config import AuditConfig
from voxbench.benchmark.settings.keys import RESULT_VERSION, digest

Planned = Callable[..., Run]


def test_methods_share_splits_and_fractions_are_nested(planned: Planned) -> None:
    run = planned(("finetune.selection=validation",), methods="supervised,simclr", fractions="0.2,1.0")
    cells = list(run.plan.cells.values())
    for fold in range(3):
        here = [c for c in cells if c.fold == fold]
        assert len({c.test for c in here}) == 1
        for fraction in (0.2, 1.0):
            assert len({(c.train, c.val) for c in here if c.fraction == fraction}) == 1
        small, full = (next(c for c in here if c.fraction == f) for f in (0.2, 1.0))
        assert set(small.train) < set(full.train)
        assert set(small.val) < set(full.val)


def test_each_seed_has_a_split_and_a_draw_of_labels_of_its_own(planned: Planned) -> None:
    run = planned(methods="supervised,simclr", fractions="0.3,1.0", seeds="3")
    cells = list(run.plan.cells.values())
    patient = [item.patient for item in run.bank.items]
    for seed in range(3):
        here = [c for c in cells if c.seed == seed]
        tested = [patient[i] for test in {c.test for c in here} for i in set(test)]
        assert len({c.test for c in here}) == 3  # one a fold, the same for all methods and fractions
        assert {p for i, p in enumerate(patient) if run.bank.items[i].label is not None} == set(tested)
    for fold in range(3):
        assert len({c.test for c in cells if c.fold == fold}) == 3
        assert len({c.train for c in cells if c.fold == fold and c.fraction == 0.3}) == 3
    alone = planned(methods="supervised,simclr", fractions="0.3,1.0", seeds="0,").plan.cells
    assert set(alone) == {key for key, c in run.plan.cells.items() if c.seed == 0}  # whatever other seeds there are
    assert not audit_plan(run.plan, run.bank, AuditConfig()).findings


def test_strict_spends_only_the_fraction_and_paper_says_what_it_spends(planned: Planned) -> None:
    items = planned().bank.items
    settings = ("finetune.selection=validation",)
    strict, paper = (
        planned(settings, methods="residual", fractions="0.2", protocol=name).plan for name in ("strict", "paper")
    )
    for cell in strict.cells.values():
        assert set(cell.normals) == {i for i in cell.train if items[i].label == 0}
    for cell in paper.cells.values():
        assert set(cell.normals) > {i for i in cell.train if items[i].label == 0}
        assert not set(cell.normals) & {*cell.val, *cell.test}
        assert all(items[i].label == 0 for i in cell.normals)
    assert all(len(c.val) > len(s.val) for c, s in zip(paper.cells.values(), strict.cells.values(), strict=True))


def test_a_prior_of_the_pool_spends_no_label_and_one_of_both_those_of_the_normals(planned: Planned) -> None:
    run = planned(methods="residual,residual-pool,residual-pool-normal,residual-median", fractions="0.2")
    pool = {i for i, item in enumerate(run.bank.items) if item.label is None}
    cells = {(cell.method, cell.fold): cell for cell in run.plan.cells.values()}
    for fold in range(3):
        normals = set(cells["residual", fold].normals)
        spent = {name: set(cells[name, fold].normals) for name in run.config.methods}
        assert normals and spent == {
            "residual": normals, "residual-pool": set(), "residual-pool-normal": normals, "residual-median": normals,
        }  # fmt: skip
        prior = {name: run.plan.stages[cells[name, fold].stages[0]] for name in run.config.methods}
        assert set(prior["residual-pool"].members) == pool
        assert set(prior["residual-pool-normal"].members) == pool | normals
        assert prior["residual-median"].volumes == 0
    both = planned(methods="residual-pool-normal", fractions="0.2", settings=("dataset.pool_patients=0",)).plan
    assert not any(cell.normals for cell in both.cells.values())  # the training part is seen without its labels


def test_what_a_stage_that_trains_nothing_does_not_use_is_not_in_its_key(planned: Planned) -> None:
    def keys(method: str, *settings: str) -> list[str]:
        plan = planned(methods=method, fractions="1.0", settings=settings).plan
        return [stage.key for stage in plan.stages.values() if stage.index == 0]

    assert keys("residual-median", "prior.volumes=24") == keys("residual-median", "prior.volumes=32")
    assert keys("residual", "prior.volumes=24") != keys("residual", "prior.volumes=32")
    moved = "methods.residual.augment=true"
    assert keys("residual", moved, "augmentation.geometric.rotation=3") != keys("residual", moved)
    assert keys("residual", "augmentation.geometric.rotation=3") == keys("residual")


def test_pretraining_that_sees_no_label_is_shared_by_folds_and_fractions(planned: Planned) -> None:
    shared = planned(methods="simclr", fractions="0.2,1.0", settings=("protocol.pretrain_per_fold=false",)).plan
    assert len(shared.stages) == 1
    own = planned(methods="simclr", fractions="0.2,1.0", settings=("protocol.pretrain_per_fold=true",)).plan
    assert len(own.stages) == 3
    residual = planned(methods="residual", fractions="0.2,1.0").plan
    # Three folds, two fractions: the autoencoder's normals differ in each, and so does all that follows.
    assert len(residual.stages) == 12


def test_pretraining_sees_the_pool_alone_where_there_is_one(planned: Planned) -> None:
    run = planned(methods="simclr")
    assert all(run.bank.items[i].label is None for stage in run.plan.stages.values() for i in stage.members)


def test_without_a_pool_pretraining_sees_the_training_part_without_labels(planned: Planned) -> None:
    run = planned(methods="simclr", settings=("dataset.pool_patients=0",))
    for cell in run.plan.cells.values():
        members = run.plan.stages[cell.stages[0]].members
        assert set(members) >= set(cell.train)
        assert not set(members) & {*cell.val, *cell.test}


def test_keys_follow_what_decides_a_result_and_nothing_else(planned: Planned) -> None:
    def keys(*settings: str, **given: object) -> set[str]:
        plan = planned(methods="simclr", settings=settings, **given).plan
        return {*plan.cells, *plan.stages}

    before = keys()
    assert keys(workers=4) == before
    assert not keys("methods.simclr.temperature=0.3") & before
    assert not keys("dataset.seed=5") & before
    # Fine-tuning does not decide a pretrained stage.
    assert len(keys("finetune.lr=0.01") & before) == 1
    assert keys("augmentation.geometric.noise=[0,0.3]") == before
    # A recipe of its own decides a method's results, and no other's.
    assert not keys("recipes.simclr.pretrain.lr=0.01") & before
    assert len(keys("recipes.simclr.finetune.lr=0.01") & before) == 1
    assert keys("recipes.byol.pretrain.lr=0.01", "recipes.simclr.prior.lr=0.01") == before


ONE_SIDE = """
from dataclasses import replace
from voxbench.datasets.sinus.phantom import SinusPhantom

class OneSide(SinusPhantom):
    name = "one-side"

    def items(self):
        # Every patient's right sinus is unlabelled, and so in the pool; its left one is labelled.
        return [replace(i, label=None, finding=None) if i.side == "right" else i for i in super().items()]

    def fingerprint(self):
        return "one-side" + super().fingerprint()
"""


def test_a_method_without_stages_or_options_has_the_key_that_it_always_had(planned: Planned) -> None:
    """Results of before methods could set weights, or be fitted, are found again."""
    run = planned(fractions="0.5")
    config, protocol = run.config, run.config.protocol
    for key, cell in run.plan.cells.items():
        before = {
            "version": RESULT_VERSION,
            "data": run.bank.fingerprint,
            "encoder": config.encoder.identity("encoders"),
            "finetune": config.finetune.model_dump(mode="json"),
            "augmentation": config.augmentation.get("finetune", {}),
            "members": [cell.train, cell.val, cell.test],
            "cell": ["supervised", protocol.name, 0.5, cell.fold, cell.seed, cell.replicate],
            "stages": [],
        }
        assert key == digest(before)


def test_the_other_side_of_a_tested_patient_is_not_pretrained_on(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "one_side.py").write_text(ONE_SIDE)
    run = planned(
        methods="simclr",
        dataset=f"{tmp_path / 'one_side.py'}:OneSide",
        settings=("dataset.patients=30", "dataset.pool_patients=6"),
    )
    items = run.bank.items
    for cell in run.plan.cells.values():
        members = run.plan.stages[cell.stages[0]].members
        tested = {items[i].patient for i in cell.test}
        assert not tested & {items[i].patient for i in members}
        assert {items[i].patient for i in cell.train} <= {items[i].patient for i in members}
    assert not audit_plan(run.plan, run.bank, AuditConfig()).findings


def test_a_method_that_volumes_do_not_suit_is_left_out_with_its_reason(planned: Planned) -> None:
    run = planned(methods="spark,supervised", settings=("methods.spark.patch=5",))
    assert {cell.method for cell in run.plan.cells.values()} == {"supervised"}
    assert "none of the encoder's strides" in run.plan.skipped["spark"]
