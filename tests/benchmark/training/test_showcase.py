"""What a stage shows, and how its localisation score is drawn from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter as scipy_median
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from voxbench.benchmark.commands.run import Arguments, configuration
from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.running.setup import Setup, prepare_bank
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.showcase import write_examples
from voxbench.methods.base import Batch, Stage

POOL = (-2, -1)  # the last volumes of the bank: of the pool


@pytest.fixture
def context(arguments: Callable[..., Arguments]) -> Context:
    config, runtime = configuration(arguments())
    bank = prepare_bank(config, runtime, lambda done, total: None)
    with Setup(config=config, runtime=runtime, bank=bank.folder, provenance={}).opened() as opened:
        opened.store.stage_folder("key").mkdir(parents=True)
        return opened


def plan(members: tuple[int, ...] | None = None) -> StagePlan:
    members = POOL if members is None else members
    return StagePlan(
        key="key", method="m", index=0, name="s", seed=0, fold=None, members=members, labels=(), upstream=(), volumes=1
    )


def stage(reconstruct: Callable[[Tensor, torch.Generator], Tensor], **given: str) -> Stage:
    def loss(batch: Batch) -> Tensor:
        return batch.views[0].sum()

    return Stage(name="s", module=nn.Identity(), loss=loss, reconstruct=reconstruct, **given)  # type: ignore[arg-type]


def knows_lesions(context: Context) -> Callable[[Tensor], Tensor]:
    """The true lesion mask of each of the volumes, found by their values."""
    items = range(len(context.bank))
    known = {context.bank.batch([i], torch.device("cpu")).numpy().tobytes(): i for i in items}

    def masks(volumes: Tensor) -> Tensor:
        found = [context.bank.items[known[v[None].numpy().tobytes()]] for v in volumes]
        return torch.stack([torch.from_numpy(np.asarray(context.dataset.lesion_mask(i)))[None] for i in found])

    return masks


def test_a_residual_is_scored_as_it_stands(context: Context) -> None:
    masks = knows_lesions(context)
    perfect = write_examples(context, plan(), stage(lambda v, _: masks(v).float()))
    assert perfect["localisation"] == pytest.approx(1.0)
    blind = write_examples(context, plan(), stage(lambda v, _: torch.zeros_like(v)))
    assert blind["localisation"] == pytest.approx(blind["localisation_chance"])
    assert 0 < blind["localisation_chance"] < 0.5


def test_of_a_reconstruction_the_difference_is_scored(context: Context, tmp_path: Path) -> None:
    """Each draw takes half of the lesion away: no single one finds all of it, their mean does; brightness does not."""
    masks = knows_lesions(context)

    def half_healed(volumes: Tensor, rng: torch.Generator) -> Tensor:
        hidden = torch.rand(volumes.shape, generator=rng) < 0.5
        return torch.where(masks(volumes) & hidden, volumes + 0.5, volumes)

    found = write_examples(context, plan(), stage(half_healed, shows="reconstruction"))
    assert found["localisation"] > 0.9
    unchanged = write_examples(context, plan(), stage(lambda v, _: v, shows="reconstruction"))
    assert unchanged["localisation"] == pytest.approx(unchanged["localisation_chance"])
    with np.load(context.store.stage_folder("key") / "examples.npz") as images:
        assert {"volume", "reconstruction", "residual", "mask"} <= set(images)
        assert np.array_equal(images["volume"], images["reconstruction"])


def test_the_median_image_is_scored_beside_it(context: Context) -> None:
    """By scipy and numpy, from the volumes of the stage."""
    members = tuple(i for i, item in enumerate(context.bank.items) if item.label in (0, None))
    found = write_examples(context, plan(members), stage(lambda v, _: torch.zeros_like(v)))
    image = np.median(context.bank.batch(members).numpy(), axis=0)[0]
    scores = []
    for i, item in enumerate(context.bank.items):
        mask = context.dataset.lesion_mask(item)
        if item.label == 1 and mask is not None:
            apart = scipy_median(np.abs(context.bank.batch([i]).numpy()[0, 0] - image), 3, mode="nearest")
            scores.append(average_precision_score(mask.ravel(), apart.ravel()))
    assert 0 < len(scores) <= 48
    assert found["localisation_median"] == pytest.approx(np.mean(scores), abs=1e-3)
    assert found["localisation_median"] > found["localisation_chance"]


def test_volumes_of_the_stage_are_not_shown(context: Context) -> None:
    everything = tuple(range(len(context.bank)))
    assert write_examples(context, plan(everything), stage(lambda v, _: v)) == {}
