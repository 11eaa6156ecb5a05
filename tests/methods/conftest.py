"""Small volumes and a small encoder: the quick preset's shape, half its widths."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from voxbench.methods.encoders.resnet import ResNet, ResNetOptions

MakeVolumes = Callable[..., Tensor]
MakeEncoder = Callable[..., ResNet]


@pytest.fixture(autouse=True)
def _one_thread_and_own_seed() -> Iterator[None]:
    """Modules draw initial values from the global generator: each test has its own, and leaves no trace."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def volumes() -> MakeVolumes:
    """volumes(B, C, D, H, W, seed=0) -> smooth random volumes in [0, 1], unlike one another."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        batch, channels, *size = shape
        coarse = torch.rand(batch, channels, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
        return functional.interpolate(coarse, size=size, mode="trilinear").square()

    return make


@pytest.fixture
def encoder() -> MakeEncoder:
    """encoder(in_channels=1, **options) -> ResNet-10, widths 4 to 32, stride 16, or as options say."""

    def make(in_channels: int = 1, **options: object) -> ResNet:
        small: dict[str, object] = {
            "depth": 10,
            "widths": (4, 8, 16, 32),
            "stem_kernel": 3,
            "max_pool": False,
        }
        return ResNet(ResNetOptions.model_validate(small | options), in_channels)

    return make
