"""SimCLR, SimSiam and BYOL against their papers' formulas, written out again in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn

from voxbench.methods.base import Batch, Method, MethodError
from voxbench.methods.byol import BYOL, BYOLOptions
from voxbench.methods.encoders.resnet import ResNet
from voxbench.methods.parts.contrast import nt_xent
from voxbench.methods.simclr import SimCLR, SimCLROptions
from voxbench.methods.simsiam import SimSiam, SimSiamOptions

Volumes = Callable[..., Tensor]
MakeEncoder = Callable[..., ResNet]
SHAPE = (1, 32, 32, 32)


def pair(volumes: Volumes, size: int = 4) -> Batch:
    views = (volumes(size, *SHAPE, seed=1), volumes(size, *SHAPE, seed=2))
    return Batch(views=views, target=None, rng=torch.Generator())


def cosines(a: Tensor, b: Tensor) -> npt.NDArray[np.float64]:
    x, y = a.detach().double().numpy(), b.detach().double().numpy()
    return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def test_nt_xent_by_hand_for_four_vectors(encoder: MakeEncoder, volumes: Volumes) -> None:
    """Two volumes, two views each, at (1, 0), (0, 1) and (0.6, 0.8), (0, 1): every cosine can be read off."""
    method = SimCLR(encoder(), SimCLROptions(temperature=0.5), SHAPE)
    by_view = iter([torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])])
    method.embed = lambda x: next(by_view)  # type: ignore[method-assign]
    # Cosines: a1.a2 = 0.6, b1.b2 = 1, a1.b1 = 0, a1.b2 = 0, a2.b1 = 0.8, a2.b2 = 0.8; divided by 0.5.
    e = math.exp
    a1 = -math.log(e(1.2) / (e(1.2) + e(0) + e(0)))
    a2 = -math.log(e(1.2) / (e(1.2) + e(1.6) + e(1.6)))
    b1 = -math.log(e(2) / (e(2) + e(0) + e(1.6)))
    b2 = -math.log(e(2) / (e(2) + e(0) + e(1.6)))
    assert method.loss(pair(volumes, 2)).item() == pytest.approx((a1 + a2 + b1 + b2) / 4, rel=1e-5)


def test_nt_xent_against_numpy(encoder: MakeEncoder, volumes: Volumes) -> None:
    method = SimCLR(encoder(), SimCLROptions(temperature=0.07), SHAPE)
    batch = pair(volumes, 5)
    z = torch.cat([method.embed(view) for view in batch.views]).detach().double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    scores = np.exp(z @ z.T / 0.07) * (1 - np.eye(10))
    expected = np.mean([-np.log(scores[i, (i + 5) % 10] / scores[i].sum()) for i in range(10)])
    assert method.loss(batch).item() == pytest.approx(expected, rel=1e-4)


def test_nt_xent_is_lightlys_where_no_patient_has_two_volumes() -> None:
    first, second = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    expected = NTXentLoss(temperature=0.3, gather_distributed=False)(first, second)
    torch.testing.assert_close(nt_xent(first, second, 0.3), expected)
    torch.testing.assert_close(nt_xent(first, second, 0.3, (3, 1, 4, 15, 9, 2, 6)), expected)


def test_other_volumes_of_a_patient_are_no_negatives() -> None:
    """By numpy: both views of the other volumes of the same patient are left out of the sum, and nothing else."""
    first, second = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
    patients = (8, 3, 8, 5, 8)
    z = torch.cat((first, second)).double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(10):
        against = [j for j in range(10) if j % 5 == i % 5 or patients[j % 5] != patients[i % 5]]
        scores = {j: math.exp(z[i] @ z[j] / 0.2) for j in against if j != i}
        terms.append(-math.log(scores[(i + 5) % 10] / sum(scores.values())))
    assert nt_xent(first, second, 0.2, patients).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_a_batch_of_one_patient_has_no_negatives_and_a_loss_of_zero() -> None:
    first = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    loss = nt_xent(first, first.detach() + 1, 0.2, (1, 1, 1))
    loss.backward()
    assert loss.item() == 0
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


@pytest.mark.parametrize(("negatives", "patients"), [("patients", (1, 1, 2, 3)), ("volumes", ())])
def test_simclr_asks_who_is_whose(
    encoder: MakeEncoder, volumes: Volumes, negatives: Literal["patients", "volumes"], patients: tuple[int, ...]
) -> None:
    method = SimCLR(encoder(), SimCLROptions(negatives=negatives, temperature=0.4), SHAPE)
    batch = replace(pair(volumes), patients=(1, 1, 2, 3))
    expected = nt_xent(*(method.embed(view) for view in batch.views), 0.4, patients)
    torch.testing.assert_close(method.loss(batch), expected)


def test_simsiam_loss_by_hand_and_its_stop_gradient(encoder: MakeEncoder, volumes: Volumes) -> None:
    method = SimSiam(encoder(), SimSiamOptions(), SHAPE)
    projections: list[Tensor] = []
    embed = method.embed

    def watched(x: Tensor) -> Tensor:
        projection = embed(x)
        projection.retain_grad()
        projections.append(projection)
        return projection

    method.embed = watched  # type: ignore[method-assign]
    loss = method.loss(pair(volumes))
    first, second = projections
    predicted = [method.predictor(z) for z in projections]  # batch statistics: the same as in the loss
    expected = -0.5 * (cosines(predicted[0], second).mean() + cosines(predicted[1], first).mean())
    assert loss.item() == pytest.approx(expected, rel=1e-4)

    loss.backward()
    # Gradient through the predictor's branch only: that of a loss whose other side is a constant.
    constants = [z.detach().clone() for z in projections]
    for z, own, other in zip(projections, constants, reversed(constants), strict=True):
        own.requires_grad_()
        direct = -0.5 * nn.functional.cosine_similarity(method.predictor(own), other.detach()).mean()
        (gradient,) = torch.autograd.grad(direct, own)
        assert z.grad is not None
        assert float(gradient.abs().sum()) > 0
        torch.testing.assert_close(z.grad, gradient, rtol=1e-4, atol=1e-7)


def test_byol_loss_by_hand(encoder: MakeEncoder, volumes: Volumes) -> None:
    method = BYOL(encoder(), BYOLOptions(), SHAPE)
    batch = pair(volumes)
    first, second = batch.views
    predicted = [method.predictor(method.embed(view)) for view in (first, second)]
    wanted = [method.target(view) for view in (second, first)]
    expected = np.mean([(2 - 2 * cosines(p, t)).mean() for p, t in zip(predicted, wanted, strict=True)])
    assert method.loss(batch).item() == pytest.approx(expected, rel=1e-4)


def test_byol_target_starts_as_the_online_network_and_gets_no_gradient(encoder: MakeEncoder, volumes: Volumes) -> None:
    method = BYOL(encoder(), BYOLOptions(), SHAPE)
    view = volumes(4, *SHAPE)
    torch.testing.assert_close(method.target(view), method.embed(view))
    method.loss(pair(volumes)).backward()
    targets = [*method.target_encoder.parameters(), *method.target_projector.parameters()]
    assert targets
    assert all(p.grad is None and not p.requires_grad for p in targets)
    assert all(p.grad is not None for p in method.predictor.parameters())


@pytest.mark.parametrize(("progress", "momentum"), [(0.5, 0.95), (0.0, 0.9), (1.0, 1.0), (1 / 3, 0.925)])
def test_byol_target_moves_by_the_moving_average_alone_buffers_too(
    encoder: MakeEncoder, volumes: Volumes, progress: float, momentum: float
) -> None:
    """With a base of 0.9: 1 - 0.1 (cos(pi progress) + 1) / 2, so 0.925 after a third and 0.95 half-way."""
    method = BYOL(encoder(), BYOLOptions(momentum=0.9), SHAPE)
    nets = ((method.target_encoder, method.encoder), (method.target_projector, method.projector))
    before = [{k: v.clone() for k, v in target.state_dict().items()} for target, _ in nets]
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    method.loss(pair(volumes)).backward()
    optimiser.step()
    for (target, online), start in zip(nets, before, strict=True):  # the step itself moved the online side only
        assert all(torch.equal(v, start[k]) for k, v in target.state_dict().items())
        assert not torch.equal(next(online.parameters()), next(target.parameters()))
    assert not torch.equal(method.encoder.net.bn1.running_mean, before[0]["net.bn1.running_mean"])

    method.move_target(progress)
    for (target, online), start in zip(nets, before, strict=True):
        for key, new in online.state_dict().items():
            got = target.state_dict()[key].double()
            if key.endswith("num_batches_tracked"):
                assert got == new
            else:
                expected = momentum * start[key].double() + (1 - momentum) * new.double()
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "base"), [(640, 1 - 20 / 640), (10, 0.0), (20, 0.0), (10**6, 0.996)])
def test_byol_target_remembers_a_twentieth_of_its_stage(
    encoder: MakeEncoder, volumes: Volumes, steps: int, base: float
) -> None:
    method = BYOL(encoder(), BYOLOptions(), SHAPE)
    target, online = next(method.target_projector.parameters()), next(method.projector.parameters())
    with torch.no_grad():
        target.fill_(0.0)
        online.fill_(1.0)
    (stage,) = method.stages()
    assert stage.before_step is not None
    assert stage.after_step is not None
    third = steps // 3
    stage.before_step(third / steps)
    stage.after_step((third + 1) / steps)
    moved = (1 - base) * (math.cos(math.pi * (third + 1) / steps) + 1) / 2
    torch.testing.assert_close(target, torch.full_like(target, moved))


@pytest.mark.parametrize("kind", [BYOL, SimSiam])
def test_the_predictor_learns_faster(encoder: MakeEncoder, kind: type[BYOL] | type[SimSiam]) -> None:
    method = kind(encoder(), kind.Options(predictor_rate=7), SHAPE)
    (stage,) = method.stages()
    (group,) = stage.groups
    assert group.rate == 7
    assert [id(p) for p in group.parameters] == [id(p) for p in method.predictor.parameters()]


@pytest.mark.parametrize("kind", [BYOL, SimSiam, SimCLR])
def test_a_batch_of_one_is_refused_in_one_line(encoder: MakeEncoder, volumes: Volumes, kind: type[Method]) -> None:
    with pytest.raises(MethodError, match=f"{kind.name} needs at least 2 volumes a batch, got 1"):
        next(iter(kind(encoder(), kind.Options(), SHAPE).stages())).loss(pair(volumes, 1))
