"""Maps computed twice: the same numbers, from less that is kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from voxbench.methods.encoders.resnet import ResNet
from voxbench.methods.parts.autoencoder import Autoencoder
from voxbench.methods.parts.decoder import UNetDecoder
from voxbench.methods.parts.patches import random_visible
from voxbench.methods.parts.recompute import Recomputing, recompute, without_trace

EXAMPLE = Path(__file__).parents[3] / "docs/examples/vit.py"
MakeEncoder = Callable[..., ResNet]
Volumes = Callable[..., Tensor]


def steps(network: nn.Module, loss: Callable[[nn.Module], Tensor], *, twice: bool) -> tuple[list[float], nn.Module]:
    """Losses of three steps of a copy, and the copy."""
    network = deepcopy(network).train()
    recompute(network, twice)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        value = loss(network)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    return losses, network


def same(network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> nn.Module:
    """Asserts that recomputation changes no bit of losses, weights and buffers; the trained network."""
    (kept, first), (again, second) = (steps(network, loss, twice=twice) for twice in (False, True))
    assert kept == again
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    return second


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_pool": True}, {"depth": 50}], ids=str)
def test_an_encoder_learns_to_the_same_bits(
    encoder: MakeEncoder, volumes: Volumes, options: dict[str, object], sparse: bool
) -> None:
    x = volumes(4, 1, 32, 32, 32)
    visible = random_visible(x, 16, 0.5, torch.Generator().manual_seed(0)) if sparse else None
    trained = same(encoder(**options), lambda net: sum(level.square().mean() for level in net.pyramid(x, visible)))
    counts = [int(part.num_batches_tracked) for part in trained.modules() if isinstance(part, nn.BatchNorm3d)]
    assert counts == [3] * len(counts)  # and not six


def test_decoder_and_autoencoder_learn_to_the_same_bits(encoder: MakeEncoder, volumes: Volumes) -> None:
    x, net = volumes(4, 1, 32, 32, 32), encoder(max_pool=True)
    maps = [level.detach() for level in net.pyramid(x)]
    same(UNetDecoder(net.widths, net.strides, 1), lambda decoder: (decoder(maps, x.shape[2:]) - x).abs().mean())
    same(Autoencoder((1, 32, 32, 32), (4, 8), 3, 4, 16), lambda draws: (draws(x) - x).abs().mean())


def test_the_example_of_an_encoder_does_so_too(volumes: Volumes) -> None:
    spec = importlib.util.spec_from_file_location("example_vit", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x, kind = volumes(4, 1, 32, 32, 32), module.ViT
    net = same(kind(kind.Options(depth=2), 1, (1, 32, 32, 32)), lambda net: net(x).square().mean())
    assert recompute(net, True)


class Dropping(Recomputing):
    """Random numbers from the global generator, frozen and free norms."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.frozen = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.net = nn.Sequential(nn.Linear(6, 6), self.free, nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 6), self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        self.frozen.eval()
        return self.recomputed(self.net, self.recomputed(self.net, x))


def test_dropout_and_frozen_norms_are_as_they_were(volumes: Volumes) -> None:
    x = torch.rand(8, 6)
    trained = same(Dropping(), lambda net: net(x).square().mean())
    assert isinstance(trained, Dropping)
    assert (int(trained.free.num_batches_tracked), int(trained.frozen.num_batches_tracked)) == (6, 0)


def test_norms_leave_a_trace_again_after_an_error() -> None:
    norm = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match="in between"), without_trace(norm):
        norm(torch.rand(4, 3))
        raise RuntimeError("in between")
    assert int(norm.num_batches_tracked) == 0
    norm(torch.rand(4, 3))
    assert int(norm.num_batches_tracked) == 1


def test_what_has_no_blocks_says_so() -> None:
    assert not recompute(nn.Linear(2, 2), True)
    assert recompute(nn.Sequential(Dropping()), True)
    assert not recompute(nn.Sequential(Dropping()), False)


def test_less_is_kept(encoder: MakeEncoder, volumes: Volumes) -> None:
    """Bytes of storages that the backward pass of a volume's features waits with, weights aside."""
    x, kept = volumes(4, 1, 64, 64, 64), []
    for twice in (False, True):
        net = encoder(depth=18, max_pool=True, stem_kernel=7)
        recompute(net, twice)
        own = {p.untyped_storage().data_ptr() for p in (*net.parameters(), *net.buffers(), x)}
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(t: Tensor, storages: dict[int, torch.UntypedStorage] = storages) -> Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            features = net(x)
        kept.append(sum(s.nbytes() for where, s in storages.items() if where not in own))
        features.sum().backward()
    assert kept[1] < kept[0] / 4, kept
