"""bfloat16 on a CPU: the same bits again and again, whatever memory held before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from voxbench.methods.encoders.resnet import ResNet
from voxbench.methods.parts.autocast import autocast
from voxbench.methods.parts.recompute import recompute

CPU = torch.device("cpu")
HAS_AMX = "amx_bf16" in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "")
LAYERS: dict[str, Callable[[], _ConvNd]] = {
    "stem": lambda: nn.Conv3d(1, 16, 7, 2, 3),
    "conv": lambda: nn.Conv3d(16, 16, 3, 2, 1),
    "transposed": lambda: nn.ConvTranspose3d(16, 16, 2, 2),
    "to_one": lambda: nn.Conv3d(8, 64, 5, 3, 2),
    "conv2d": lambda: nn.Conv2d(16, 16, 3, 2, 1),
    "conv1d": lambda: nn.Conv1d(16, 16, 3, 2, 1),
}


def dirty_memory() -> None:
    """Leaves NaN in what the allocator hands out next."""
    for length in (100, 1_000, 5_000, 20_000, 100_000, 400_000):
        torch.full((length,), float("nan"))


def trained(network: nn.Module, x: Tensor) -> tuple[Tensor, torch.dtype]:
    """Result and gradients of one pass, in one vector, and the result's type."""
    network.zero_grad()
    dirty_memory()
    with autocast(CPU, torch.bfloat16):
        y = network(x)
    dirty_memory()
    y.float().square().mean().backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    return torch.cat([y.detach().float().flatten(), *gradients]), y.dtype


@pytest.mark.parametrize("layer", LAYERS)
def test_over_or_to_an_axis_of_one_voxel_it_is_float32s_result(layer: str) -> None:
    torch.manual_seed(0)
    network = LAYERS[layer]()
    channels, axes = int(network.in_channels), len(network.kernel_size)
    size = (8, 14, 3) if layer == "to_one" else (4, 4, 1)
    x = torch.randn(8, channels, *size[-axes:])
    exact = network(x).detach().to(torch.bfloat16).float().flatten()
    for _ in range(10):
        found, kind = trained(network, x)
        assert kind == torch.bfloat16
        assert torch.equal(found[: len(exact)], exact)
        assert bool(found.isfinite().all())


def test_elsewhere_it_is_bfloat16() -> None:
    torch.manual_seed(0)
    network, x = nn.Conv3d(16, 16, 3, 1, 1), torch.randn(4, 16, 4, 4, 4)
    with autocast(CPU, torch.bfloat16):
        found = network(x)
    exact = network(x)
    assert found.dtype == torch.bfloat16
    assert not torch.equal(found, exact.to(torch.bfloat16))  # its inputs were rounded
    with autocast(CPU, torch.float32):
        assert torch.equal(network(x), exact)


@pytest.mark.parametrize("twice", [False, True], ids=["kept", "recomputed"])
def test_an_encoder_that_ends_at_one_voxel_has_the_same_gradients_each_time(
    encoder: Callable[..., ResNet], twice: bool
) -> None:
    network = encoder().train()
    recompute(network, twice)
    x = torch.rand(8, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert network.pyramid(x)[-2].shape[2:] == (1, 1, 1)  # what the last level's convolutions get
    found = [trained(network, x)[0] for _ in range(10)]
    assert all(torch.equal(one, found[0]) for one in found[1:])


@pytest.mark.skipif(not HAS_AMX, reason="no AMX here")
def test_without_the_rule_the_bits_differ() -> None:
    """When this fails, PyTorch's library has been mended, and the rule can go."""
    torch.manual_seed(0)
    network, x = nn.Conv3d(32, 64, 3, 2, 1).to(memory_format=torch.channels_last_3d), torch.randn(8, 32, 2, 2, 1)
    found = []
    for _ in range(10):
        network.zero_grad()
        dirty_memory()
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
        y.float().square().mean().backward()
        assert network.weight.grad is not None
        found.append(network.weight.grad.clone())
    assert not all(torch.equal(one, found[0]) for one in found[1:])
