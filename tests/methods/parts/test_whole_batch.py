"""Batch norm over parts of a batch is PyTorch's of the whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from voxbench.methods.parts.whole_batch import batch_norm, part_of_batch, summed, uses_batch


def norms(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm3d)(shape[1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 2, 5)])
def test_two_equal_halves_are_normalised_as_the_whole(shape: tuple[int, ...]) -> None:
    """Of two processes with the same part, each sum is twice the part's, and so is what flows back through it."""
    norm = norms(shape)
    other = copy.deepcopy(norm)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    towards = torch.randn(shape, dtype=torch.float64)
    whole = norm(torch.cat((x, x)))
    (whole * torch.cat((towards, towards))).sum().backward()
    with part_of_batch(lambda part: 2 * part):
        half = batch_norm(other, y)
        (half * towards).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(half, whole[: len(half)])
    torch.testing.assert_close(2 * y.grad, x.grad)
    torch.testing.assert_close(2 * other.weight.grad, norm.weight.grad)
    torch.testing.assert_close(2 * other.bias.grad, norm.bias.grad)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(dict(other.named_buffers())[name], buffer)


def test_running_statistics_stay_where_torch_leaves_them() -> None:
    norm = norms((6, 4))
    norm.track_running_stats = False  # as of a target network
    before = norm.running_mean.clone()
    with part_of_batch(lambda part: part):
        batch_norm(norm, torch.randn(6, 4, dtype=torch.float64))
    assert torch.equal(norm.running_mean, before)
    assert uses_batch(norm)
    assert not uses_batch(norm.eval())


def test_outside_of_a_divided_network_a_sum_is_what_it_is() -> None:
    x = torch.ones(3)
    assert summed(x) is x

    def add(part: Tensor) -> Tensor:
        return part + 1

    with part_of_batch(add):
        assert torch.equal(summed(x), x + 1)
        with part_of_batch(None):
            assert summed(x) is x
