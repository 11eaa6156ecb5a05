"""What a stage shows, and how its localisation score is drawn from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxbench.benchmark.commands.run import Arguments, configuration
from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.running.setup import Setup, prepare_bank
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.showcase import write_examples
from voxbench.methods.base import Batch, Stage


@pytest.fixture
def context(arguments: Callable[..., Arguments]) -> Context:
    config, runtime = configuration(arguments())
    bank = prepare_bank(config, runtime, lambda done, total: None)
    with Setup(config=config, runtime=runtime, bank=bank.folder, provenance={}).opened() as opened:
        opened.store.stage_folder("key").mkdir(parents=True)
        return opened


def plan(members: tuple[int, ...] = ()) -> StagePlan:
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


def test_volumes_of_the_stage_are_not_shown(context: Context) -> None:
    everything = tuple(range(len(context.bank)))
    assert write_examples(context, plan(everything), stage(lambda v, _: v)) == {}
