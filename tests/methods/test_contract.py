"""What every method must do, built in or not: the suite that a new method is held to."""

from __future__ import annotations

import importlib.util
import random
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from voxbench.methods.base import Batch, Encoder, Method, Stage
from voxbench.methods.parts.recompute import recompute

ROOT = Path(__file__).parents[2]
GROUP = "voxbench.methods"
SHAPE = (1, 32, 32, 32)
BATCH = 6


def _registered() -> dict[str, type[Method]]:
    """Installed entry points, or those that pyproject.toml would install."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    if not points:
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
        points = {name: EntryPoint(name, value, GROUP) for name, value in declared.items()}
    return {name: point.load() for name, point in points.items()}


def _example() -> type[Method]:
    """The worked example of docs/adding-a-method.md, from its file."""
    spec = importlib.util.spec_from_file_location("example_rotation", ROOT / "docs/examples/rotation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    example: type[Method] = module.Rotation
    return example


METHODS = {**_registered(), "rotation": _example()}
SAME = {"residual-pool", "residual-pool-normal"}  # they train as `residual` does, on other volumes
Volumes = Callable[..., Tensor]
MakeEncoder = Callable[..., Encoder]
Build = Callable[..., Method]


@pytest.fixture(params=sorted(METHODS.keys() - SAME))
def kind(request: pytest.FixtureRequest) -> type[Method]:
    return METHODS[request.param]


@pytest.fixture
def build(kind: type[Method], encoder: MakeEncoder) -> Build:
    """build(shape, seed) -> the method with its default options on a fresh encoder, made under the seed."""

    def make(shape: tuple[int, int, int, int] = SHAPE, seed: int = 0) -> Method:
        torch.manual_seed(seed)
        return kind(encoder(in_channels=shape[0]), kind.Options(), shape)

    return make


def make_batch(stage: Stage, volumes: Tensor, seed: int = 0) -> Batch:
    """Views differ by a little noise, from a generator of their own."""
    noise = torch.Generator().manual_seed(seed + 100)
    views = tuple((volumes + 0.1 * torch.rand(volumes.shape, generator=noise)).clamp(0, 1) for _ in stage.looks)
    target = None if stage.targets is None else stage.targets(volumes)
    return Batch(views=views, target=target, rng=torch.Generator().manual_seed(seed))


def train(stage: Stage, volumes: Tensor, steps: int) -> list[float]:
    """The harness's loop in small: losses of AdamW steps on one fixed batch, then the stage's end."""
    optimiser = torch.optim.AdamW([{"params": [p for p in stage.module.parameters() if p.requires_grad]}], lr=2e-3)
    batch, losses = make_batch(stage, volumes), []
    for step in range(steps if stage.loss is not None else 0):
        loss = stage.loss(replace(batch, rng=torch.Generator().manual_seed(0)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if stage.after_step is not None:
            stage.after_step((step + 1) / steps)
        losses.append(loss.item())
    if stage.finish is not None:
        stage.module.eval()
        with torch.no_grad():
            stage.finish([volumes])
        stage.module.train()
    return losses


def ready(method: Method, volumes: Tensor) -> list[Stage]:
    """The method's stages, each prior one finished (after a single step)."""
    stages = list(method.stages())
    for stage in stages:
        if stage.budget == "prior":
            train(stage, volumes, steps=1)
    return stages


def _with_loss(stages: Sequence[Stage]) -> list[Stage]:
    """Those that are trained."""
    return [stage for stage in stages if stage.loss is not None]


def test_the_six_of_the_benchmark_are_registered() -> None:
    assert {"residual", "byol", "simsiam", "simclr", "spark", "supervised"} <= set(_registered())


def test_the_worked_example_is_short_and_is_the_one_in_the_docs() -> None:
    example = (ROOT / "docs/examples/rotation.py").read_text()
    assert len(example.splitlines()) < 60
    assert f"```python\n{example}```" in (ROOT / "docs/adding-a-method.md").read_text()


def test_names_itself(kind: type[Method]) -> None:
    assert kind.name in METHODS
    assert METHODS[kind.name] is kind
    assert kind.about
    assert "\n" not in kind.about
    assert kind.Options.model_config["extra"] == "forbid"


def test_stages_are_valid(build: Build) -> None:
    method = build()
    stages = method.stages()
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    of_encoder = {id(p) for p in method.encoder.parameters()}
    for stage in stages:
        trained = {id(p) for p in stage.module.parameters() if p.requires_grad}
        assert bool(trained) == (stage.loss is not None)
        assert stage.looks
        if stage.budget == "pretrain":
            assert of_encoder <= trained
        else:
            assert not of_encoder & trained


def test_the_seed_decides_the_initialisation(build: Build) -> None:
    first, again, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("shape", [SHAPE, (2, 20, 24, 36), (1, 28, 28, 28)], ids=str)
def test_loss_is_finite_and_gradients_reach_the_encoder(
    build: Build, volumes: Volumes, shape: tuple[int, int, int, int]
) -> None:
    method, data = build(shape), volumes(2, *shape)
    for stage in _with_loss(ready(method, data)):
        method.zero_grad()
        loss = stage.loss(make_batch(stage, data))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        loss.backward()
        gradients = [p.grad for p in method.encoder.parameters()]
        if stage.budget == "pretrain":
            assert all(g is not None and g.isfinite().all() for g in gradients)
            assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
        else:
            assert all(g is None for g in gradients)


def test_loss_falls(build: Build, volumes: Volumes) -> None:
    method, data = build(), volumes(BATCH, *SHAPE)
    keys = list(method.encoder.state_dict())
    encoder = method.encoder
    for stage in method.stages():
        losses = train(stage, data, steps=25) or [1.0, 0.0]  # without a loss, there is none to fall
        assert losses[-1] < losses[0] - 0.05 * max(1.0, abs(losses[0])), losses
    assert method.encoder is encoder
    assert list(method.encoder.state_dict()) == keys


def test_it_is_trained_to_the_same_bits_with_maps_computed_twice(build: Build, volumes: Volumes) -> None:
    data, ends = volumes(BATCH, *SHAPE), []
    for twice in (False, True):
        method = build()
        assert recompute(method, twice) == twice
        losses = [train(stage, data, steps=3) for stage in method.stages()]
        ends.append((losses, method.state_dict()))
    (kept, weights), (again, others) = ends
    assert kept == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_draws_nothing_from_global_generators_and_changes_no_argument(build: Build, volumes: Volumes) -> None:
    method, data = build(), volumes(BATCH, *SHAPE)
    stages, kept = ready(method, data), data.clone()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    for stage in _with_loss(stages):
        batch = make_batch(stage, data)
        views = [view.clone() for view in batch.views]
        stage.loss(batch)
        assert all(torch.equal(a, b) for a, b in zip(batch.views, views, strict=True))
        if stage.reconstruct is not None:
            stage.reconstruct(data, torch.Generator().manual_seed(0))
    method.stages()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert str(before[2]) == str(after[2])
    assert torch.equal(data, kept)


def test_the_same_generator_gives_the_same_loss(build: Build, volumes: Volumes) -> None:
    data = volumes(BATCH, *SHAPE)
    first, again = ready(build(), data), ready(build(), data)
    for one, two in zip(_with_loss(first), _with_loss(again), strict=True):
        assert one.loss(make_batch(one, data)).item() == two.loss(make_batch(two, data)).item()


def test_the_state_of_its_modules_is_all_there_is(build: Build, volumes: Volumes) -> None:
    """A stage that is loaded into a method of another seed goes on exactly like the one that was saved."""
    data = volumes(BATCH, *SHAPE)
    trained, loaded = build(seed=0), build(seed=1)
    for stage in trained.stages():
        train(stage, data, steps=2)
    for ours, theirs in zip(loaded.stages(), trained.stages(), strict=True):
        ours.module.load_state_dict(load(save(theirs.module.state_dict())), strict=True)
    trained.eval(), loaded.eval()
    assert torch.equal(loaded.encoder(data), trained.encoder(data)) or not trained.stages()
    for ours, theirs in zip(_with_loss(loaded.stages()), _with_loss(trained.stages()), strict=True):
        assert ours.loss(make_batch(ours, data)).item() == theirs.loss(make_batch(theirs, data)).item()


def test_what_stages_offer_has_the_promised_shape(build: Build, volumes: Volumes) -> None:
    data = volumes(3, *SHAPE)
    method = build()
    stages = ready(method, data)
    method.eval()
    with torch.no_grad():
        for stage in stages:
            if stage.embed is not None:
                embedding = stage.embed(data)
                assert embedding.ndim == 2
                assert len(embedding) == 3
            maps = [] if stage.targets is None else [stage.targets(data)]
            maps += [] if stage.reconstruct is None else [stage.reconstruct(data, torch.Generator())]
            for shown in maps:
                assert shown.shape == data.shape
                assert 0.0 <= float(shown.min()) <= float(shown.max()) <= 1.0


def test_mixed_precision_gives_a_finite_float32_loss(build: Build, volumes: Volumes) -> None:
    data = volumes(4, *SHAPE)
    for stage in _with_loss(ready(build(), data)):
        batch = make_batch(stage, data)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = stage.loss(batch)
        assert loss.isfinite()
        assert loss.dtype == torch.float32
