"""What every yardstick, and the worked example of a predictor, must do: the contract that the harness relies on."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from voxbench.methods.base import Encoder, MethodError, Predictor
from voxbench.methods.block_means import BlockMeans
from voxbench.methods.block_means_trees import BlockMeansTrees
from voxbench.methods.pca import PCA
from voxbench.methods.random_encoder import RandomEncoder
from voxbench.methods.shape import Shape

from .in_memory import InMemory, balls, labelled

ROOT = Path(__file__).parents[2]
SHAPE = (1, 20, 20, 20)
MakeEncoder = Callable[..., Encoder]


def _example() -> type[Predictor]:
    spec = importlib.util.spec_from_file_location("example_histogram", ROOT / "docs/examples/histogram.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    example: type[Predictor] = module.Histogram
    return example


KINDS: dict[str, type[Predictor]] = {
    kind.name: kind for kind in (BlockMeans, BlockMeansTrees, PCA, RandomEncoder, Shape, _example())
}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> type[Predictor]:
    return KINDS[request.param]


@pytest.fixture
def build(kind: type[Predictor], encoder: MakeEncoder) -> Callable[..., Predictor]:
    def make(shape: tuple[int, int, int, int] = SHAPE) -> Predictor:
        torch.manual_seed(0)
        return kind(encoder(in_channels=shape[0]), kind.Options(), shape).eval()

    return make


Build = Callable[..., Predictor]


def test_it_learns_what_is_plain_to_see(build: Build) -> None:
    """Which of two sizes a ball has, on balls elsewhere than those it learnt from."""
    method = build()
    method.fit(labelled(*balls(60, 2, SHAPE)))
    volumes, labels = balls(40, 2, SHAPE, seed=1)
    scores = method.scores(InMemory(volumes))
    assert scores.shape == (40, 2)
    assert np.allclose(scores.sum(axis=1), 1)
    assert roc_auc_score(labels, scores[:, 1]) > 0.8


@pytest.mark.parametrize("shape", [(2, 20, 24, 21), (1, 40, 36, 34)], ids=str)
def test_any_size_channels_and_number_of_classes(build: Build, shape: tuple[int, int, int, int]) -> None:
    method = build(shape)
    volumes, labels = balls(24, 3, shape)
    method.fit(labelled(volumes, labels))
    scores = method.scores(InMemory(volumes))
    assert scores.shape == (24, 3)
    assert np.isfinite(scores).all()
    assert scores.min() >= 0
    assert np.allclose(scores.sum(axis=1), 1)


def test_equal_seeds_give_equal_bits_and_no_other_randomness_is_used(build: Build) -> None:
    volumes, labels = balls(24, 2, SHAPE)
    kept = volumes.clone()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    first, second = build(), build()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    found = []
    for method in (first, second):
        method.fit(labelled(volumes, labels, seed=3))
        found.append(method.scores(InMemory(volumes)))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    assert np.array_equal(*found)
    assert torch.equal(volumes, kept)
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert str(before[2]) == str(after[2])


def test_how_the_test_part_is_cut_into_batches_does_not_matter(build: Build) -> None:
    volumes, labels = balls(24, 2, SHAPE)
    method = build()
    method.fit(labelled(volumes, labels))
    whole, single = (method.scores(InMemory(volumes, batch)) for batch in (24, 1))
    assert np.allclose(whole, single, atol=1e-5)


def test_few_labels_will_do(build: Build) -> None:
    """One patient of a class: no inner fold can be made, and nothing warns (a warning fails a test here)."""
    volumes, _ = balls(6, 2, SHAPE)
    method = build()
    method.fit(labelled(volumes, [0, 0, 0, 0, 1, 1]))
    assert np.isfinite(method.scores(InMemory(volumes))).all()


def test_volumes_in_which_nothing_varies_are_no_skill(build: Build) -> None:
    """Empty and full ones, all alike: no score tells one from another, and nothing divides by zero."""
    for value in (0.0, 1.0):
        method = build()
        volumes = torch.full((12, *SHAPE), value)
        method.fit(labelled(volumes, [0, 0, 1, 1] * 3))
        scores = method.scores(InMemory(volumes))
        assert np.isfinite(scores).all()
        assert np.allclose(scores, scores[0])


def test_the_encoder_stays_as_it_was(build: Build) -> None:
    method = build()
    before = {name: weights.clone() for name, weights in method.encoder.state_dict().items()}
    volumes, labels = balls(12, 2, SHAPE)
    method.fit(labelled(volumes, labels))
    method.scores(InMemory(volumes))
    assert all(torch.equal(before[name], weights) for name, weights in method.encoder.state_dict().items())


def test_components_come_from_the_pool_too(encoder: MakeEncoder) -> None:
    """Labelled volumes that differ in nothing but noise, and a pool that varies where the labels' finding is."""
    noise = torch.Generator().manual_seed(0)
    volumes = torch.rand((12, *SHAPE), generator=noise) * 0.01
    pool = torch.zeros((40, *SHAPE))
    pool[::2, :, :4] = 1.0
    data = labelled(volumes, [0, 0, 1, 1] * 3)
    method = PCA(encoder(), PCA.Options(), SHAPE)
    method.fit(type(data)(**{**vars(data), "pool": InMemory(pool)}))
    first = method.components.directions[:, 0].reshape(SHAPE)
    assert float(first[:, :4].square().sum()) > 0.99
    assert PCA.learns_from_pool
    assert not BlockMeans.learns_from_pool


def test_the_worked_example_is_the_one_in_the_docs() -> None:
    example = (ROOT / "docs/examples/histogram.py").read_text()
    assert len(example.splitlines()) < 45
    assert f"```python\n{example}```" in (ROOT / "docs/adding-a-method.md").read_text()


def shape_of(encoder: MakeEncoder) -> Shape:
    return Shape(encoder(), Shape.Options(), SHAPE)


def test_shape_takes_masks_also_resampled_or_faint_ones(encoder: MakeEncoder) -> None:
    masks, _ = balls(12, 2, SHAPE)
    resampled = torch.nn.functional.interpolate(masks, scale_factor=1.5, mode="trilinear")
    assert len(resampled.unique()) > 20
    for volumes in (masks, 0.4 * masks + 0.1, resampled, 1 - masks):
        shape_of(encoder).suits(InMemory(volumes))


def test_shape_leaves_images_alone(encoder: MakeEncoder) -> None:
    smooth = torch.rand((12, 1, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(smooth, size=SHAPE[1:], mode="trilinear")
    masks, _ = balls(12, 2, SHAPE)
    mostly = torch.cat([images, masks[:6]])
    labels = torch.randint(0, 3, (12, *SHAPE), generator=torch.Generator().manual_seed(0)) / 2
    for volumes in (images, mostly, labels):
        with pytest.raises(MethodError, match="shape is for masks"):
            shape_of(encoder).suits(InMemory(volumes))
