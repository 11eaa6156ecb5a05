"""What fine-tuning notes of validation while it selects a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.running.work import perform
from voxbench.benchmark.settings.recipes import FinetuneRecipe
from voxbench.benchmark.training import checkpoints
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.evaluate import called
from voxbench.benchmark.training.finetune import _scored, class_counts, class_weights, predict, run_cell
from voxbench.benchmark.training.selection import BestOnValidation, LastStep
from voxbench.benchmark.training.train import Training
from voxbench.methods.parts.prior import at_own_shares


class Brightness(nn.Module):
    """Calls bright volumes positive, as far as `scale` goes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.scale * x.mean(dim=(1, 2, 3, 4))
        return torch.stack([-mean, mean], dim=1)


@pytest.fixture
def opened(planned: Callable[..., Run]) -> Iterator[tuple[Context, CellPlan]]:
    run = planned(("finetune.selection=validation",))
    with Setup(config=run.config, runtime=run.runtime, bank=run.bank.folder, provenance={}).opened() as context:
        yield context, next(iter(run.plan.cells.values()))


def training(step: int, steps: int, loss: float, model: nn.Module | None = None) -> Training:
    model = model or Brightness()
    optimizer = torch.optim.SGD(model.parameters())
    return Training(module=model, optimizer=optimizer, steps=steps, step=step, loss=torch.tensor(loss))


def chooser(context: Context, plan: CellPlan, model: nn.Module, steps: int = 1) -> BestOnValidation:
    def logits(members: tuple[int, ...], seen: set[int]) -> Tensor:
        return torch.from_numpy(predict(context, members, model, seen))

    return BestOnValidation(context, plan, class_weights(class_counts(context, plan)), logits, steps)


def selected(context: Context, plan: CellPlan) -> list[dict[str, float | None]]:
    model = Brightness()
    selection = chooser(context, plan, model)
    selection(training(1, 1, 0.5, model))
    return selection.curve


def test_the_curve_has_the_average_precision_on_validation(opened: tuple[Context, CellPlan]) -> None:
    context, plan = opened
    (point,) = selected(context, plan)
    labels = [context.bank.items[i].label for i in plan.val]
    brightness = context.bank.batch(plan.val, torch.device("cpu")).mean(dim=(1, 2, 3, 4))
    assert 0 < sum(label == 1 for label in labels) < len(labels)
    assert point["val_auprc"] == pytest.approx(average_precision_score(labels, brightness))
    assert (point["step"], point["train_loss"]) == (1, 0.5)


def test_it_has_none_where_validation_lacks_a_class(opened: tuple[Context, CellPlan]) -> None:
    context, plan = opened
    normal = tuple(i for i in plan.val if context.bank.items[i].label == 0)
    (point,) = selected(context, replace(plan, val=normal))
    assert point["val_auprc"] is None
    assert point["val_loss"] is not None


def test_nothing_is_stopped_while_the_rate_rises(opened: tuple[Context, CellPlan]) -> None:
    """Five evaluations can be fewer steps than the warm-up: a network that had learnt nothing was stopped there."""
    context, plan = opened
    model = Brightness()
    selection = chooser(context, plan, model, steps=100)
    stopped_at = None
    model.scale.data *= -1  # wrong, and surer of it at each look
    for step in range(1, 101):
        model.scale.data *= 1.1
        if selection(training(step, 100, 0.5, model)):
            stopped_at = step
            break
    recipe = context.config.finetune
    assert recipe.stop_from == 0.5
    assert stopped_at == 50 + 5 * (recipe.patience - 1)  # an evaluation every 5 steps
    assert selection.best_step == 5


def test_the_last_step_is_taken_and_the_curve_holds_means() -> None:
    selection = LastStep(40)
    for step in range(1, 41):
        assert not selection(training(step, 40, float(step)))
    assert selection.best_step == 40
    assert not selection.seen
    assert [point["step"] for point in selection.curve] == list(range(2, 41, 2))
    assert [point["train_loss"] for point in selection.curve] == [step - 0.5 for step in range(2, 41, 2)]
    assert all(point["val_loss"] is None for point in selection.curve)


@pytest.mark.parametrize("how", ["none", "validation"])
def test_a_fine_tuning_that_is_killed_goes_on_to_the_same_scores(
    planned: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """To the last bit, on a CPU; and nothing is left of its checkpoints once its record is written."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    run = planned((f"finetune.selection={how}", "finetune.steps=9", "finetune.evaluations=4"))
    plan = next(iter(run.plan.cells.values()))
    steps: list[int] = []

    def told(step: int, _: int) -> None:
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt  # before the checkpoint of this step

    with run.setup().opened() as context:
        straight = run_cell(context, plan, lambda *_: None)
        context.store.drop_checkpoint(plan.key)
        with pytest.raises(KeyboardInterrupt):
            run_cell(context, plan, told)
        assert len(list(tmp_path.glob("run/checkpoints/*"))) == 2
        resumed = run_cell(context, plan, told)
        assert steps == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9]
        assert resumed["test"].scores.tolist() == straight["test"].scores.tolist()
        same = ("metrics", "threshold", "curve", "best_step", "falling", "seen")
        assert {name: resumed[name] for name in same} == {name: straight[name] for name in same}
        assert perform(context, plan, {}, lambda *_: None) == "ok"
        assert not list(tmp_path.glob("run/checkpoints/*"))


def test_without_a_selection_validation_labels_are_trained_on(planned: Callable[..., Run]) -> None:
    """A fraction is one of all labels that are not tested; test parts are the same."""
    chosen, last = (
        next(iter(planned((f"finetune.selection={how}",), fractions="1.0").plan.cells.values()))
        for how in ("validation", "none")
    )
    assert chosen.val
    assert not last.val
    assert set(last.train) == {*chosen.train, *chosen.val}
    assert last.test == chosen.test


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_a_tenth_of_the_labels_is_a_tenth(planned: Callable[..., Run], protocol: str) -> None:
    run = planned(("dataset.patients=60",), protocol=protocol, fractions="0.1")
    for cell in run.plan.cells.values():
        assert len(cell.train) / (120 - len(cell.test)) == pytest.approx(0.1, abs=0.03)


def test_steps_do_not_depend_on_the_fraction_unless_epochs_ask_for_more() -> None:
    recipe = FinetuneRecipe(lr=0.001, batch=16, steps=100)
    assert [recipe.steps_for(labels) for labels in (10, 160, 16_000)] == [100, 100, 100]
    longer = recipe.model_copy(update={"epochs": 20})
    assert [longer.steps_for(labels) for labels in (10, 160, 1600)] == [100, 200, 2000]


def test_scores_are_the_mean_over_a_volume_and_its_mirror_image(opened: tuple[Context, CellPlan]) -> None:
    class LeftEdge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            edge = x[:, 0, :8].mean(dim=(1, 2, 3))
            return torch.stack([-edge, 4 * edge], dim=1)

    context, plan = opened
    assert context.config.finetune.mirrored
    volumes = context.bank.batch(plan.test, torch.device("cpu"))
    both = [LeftEdge()(x).double().softmax(dim=1)[:, 1] for x in (volumes, volumes.flip(2))]
    assert not torch.allclose(both[0], both[1], atol=1e-3)  # the volumes are not symmetric
    seen: set[int] = set()
    scored = _scored(context, plan.test, LeftEdge(), np.array([10, 10]), seen)
    assert seen == set(plan.test)
    assert scored.scores[:, 1] == pytest.approx(((both[0] + both[1]) / 2).numpy(), abs=1e-6)
    rare = _scored(context, plan.test, LeftEdge(), np.array([90, 10]), seen)
    odds = scored.scores[:, 1] / scored.scores[:, 0]
    assert rare.scores[:, 1] / rare.scores[:, 0] == pytest.approx(odds / 9)  # the logit is shifted, no rank changes


def test_an_ideal_model_has_its_brier_score_and_not_that_of_the_class_weights() -> None:
    """What a network that minimises the weighted loss says, and what is scored of it, at a prevalence of 0.10."""
    rng = np.random.default_rng(0)
    truth = 1 / (1 + np.exp(-(rng.normal(size=40_000) * 1.5 - 3)))
    labels = (rng.random(truth.size) < truth).astype(np.int64)
    counts = np.bincount(labels)
    weight = class_weights(counts).numpy()
    learnt = np.stack([(1 - truth) * weight[0], truth * weight[1]], axis=1)
    learnt /= learnt.sum(axis=1, keepdims=True)
    scored = at_own_shares(learnt, counts)
    assert scored[:, 1] == pytest.approx(truth)
    raw, mended, constant = (np.mean((p - labels) ** 2) for p in (learnt[:, 1], scored[:, 1], labels.mean()))
    assert mended < constant < raw  # an ideal model used to look worse than no model
    shares = counts / counts.sum()
    assert (called(scored, shares) == called(learnt, [0.5, 0.5])).mean() > 0.9999  # the same class is called


@pytest.mark.parametrize(
    ("losses", "falling"),
    [
        ([0.7 - 0.03 * i for i in range(20)], True),  # a straight line
        ([0.1 + 0.6 * 0.75**i for i in range(20)], False),
        ([0.7 + 0.001 * (i % 2) for i in range(20)], True),  # nothing learnt
    ],
)
def test_a_curve_that_still_falls_is_told(losses: list[float], falling: bool) -> None:
    selection = LastStep(20)
    for step, loss in enumerate(losses, start=1):
        selection(training(step, 20, loss))
    assert selection.falling is falling


def test_fewer_steps_than_points_of_a_curve_are_too_few() -> None:
    selection = LastStep(4)
    for step in range(1, 5):
        selection(training(step, 4, 0.5**step))
    assert selection.falling
