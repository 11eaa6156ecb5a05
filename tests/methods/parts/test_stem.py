"""The stem by blocks is the convolution it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voxbench.methods.parts.stem import by_blocks


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(16, 16, 16), (15, 16, 13), (8, 7, 9)])
@pytest.mark.parametrize("channels", [1, 2])
def test_equals_the_convolution_and_its_gradients(kernel: int, size: tuple[int, int, int], channels: int) -> None:
    conv = nn.Conv3d(channels, 5, kernel, stride=2, padding=kernel // 2, bias=False).double()
    x = torch.rand(2, channels, *size, dtype=torch.float64, requires_grad=True)
    expected, got = conv(x), by_blocks(conv, x)
    torch.testing.assert_close(got, expected)
    pull = torch.rand_like(expected)
    for a, b in zip(
        torch.autograd.grad(expected, (conv.weight, x), pull),
        torch.autograd.grad(got, (conv.weight, x), pull),
        strict=True,
    ):
        torch.testing.assert_close(b, a)
