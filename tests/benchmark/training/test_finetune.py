"""What fine-tuning notes of validation while it selects a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.finetune import _Selection, class_weights
from voxbench.benchmark.training.train import Training


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
    run = planned()
    with Setup(config=run.config, runtime=run.runtime, bank=run.bank.folder, provenance={}).opened() as context:
        yield context, next(iter(run.plan.cells.values()))


def selected(context: Context, plan: CellPlan) -> list[dict[str, float | None]]:
    model = Brightness()
    weight = class_weights(context, plan)
    selection = _Selection(context, plan, model, weight, 1, lambda done, total: None)
    curve = [{"step": 1, "loss": 0.5}]
    selection(Training(module=model, optimizer=torch.optim.SGD(model.parameters()), steps=1, step=1, curve=curve))
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
