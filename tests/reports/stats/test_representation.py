"""Statistics of a representation against small computations by other means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from voxbench.reports.stats.representation import alignment, rankme, uniformity


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(30, 7)) * np.arange(1, 8)


def test_rankme_is_the_exponential_of_the_entropy_of_singular_values(features: np.ndarray) -> None:
    eigenvalues = np.linalg.eigvalsh(features.T @ features)  # their roots are the singular values
    shares = torch.tensor(np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum())
    expected = float(torch.distributions.Categorical(probs=shares).entropy().exp())
    assert rankme(features) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rankme_counts_equal_directions(rank: int) -> None:
    features = np.zeros((8, 6))
    features[range(rank), range(rank)] = 2.0
    assert rankme(features) == pytest.approx(rank, rel=1e-3)
    assert rankme(np.zeros((4, 3))) == 1.0


def test_alignment_and_uniformity_are_their_sums_written_out(features: np.ndarray) -> None:
    other = features[::-1] + 1.0

    def unit(row: np.ndarray) -> np.ndarray:
        return row / np.sqrt((row**2).sum())

    apart = [((unit(a) - unit(b)) ** 2).sum() for a, b in zip(features, other, strict=True)]
    assert alignment(features, other) == pytest.approx(np.mean(apart))
    pairs = [((unit(a) - unit(b)) ** 2).sum() for a, b in itertools.combinations(features, 2)]
    assert uniformity(features) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(pairs)))))


def test_ends_of_the_scales() -> None:
    row = np.array([[1.0, 2.0]])
    assert alignment(row, 3 * row) == pytest.approx(0)  # length does not count
    assert alignment(row, -row) == pytest.approx(4)
    assert uniformity(np.repeat(row, 5, axis=0)) == pytest.approx(0)
    assert uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    assert np.isfinite(uniformity(np.zeros((3, 2))))  # features that are all 0 have no direction
