"""A right method, and what its author may do wrong: one mistake a class, as a third party would write them."""

from copy import deepcopy
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from voxbench.methods.base import Method, Stage


class Right(Method):
    name: ClassVar[str] = "right"
    about: ClassVar[str] = "contrast of two views"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.head = nn.Linear(encoder.widths[-1], 8)

    def stages(self):
        return (self.stage(),)

    def stage(self, **other):
        return Stage(**{"name": "only", "module": self, "loss": self.loss, "views": 2, "embed": self.embed, **other})

    def embed(self, x):
        return functional.normalize(self.head(self.encoder(x)).float(), dim=1)

    def loss(self, batch):
        return self.contrast(*map(self.embed, batch.views[:2]))

    def contrast(self, one, two):
        return functional.cross_entropy(one @ two.T / 0.2, torch.arange(len(one)))


class DetachedLoss(Right):
    name = "detached-loss"

    def loss(self, batch):
        return super().loss(batch).detach()


class DetachedFeatures(Right):
    name = "detached-features"

    def embed(self, x):
        return functional.normalize(self.head(self.encoder(x).detach()).float(), dim=1)


class NotANumberAtOnce(Right):
    name = "nan-at-once"

    def loss(self, batch):
        return super().loss(batch) * float("nan")


class NotANumberLater(Right):
    name = "nan-later"

    def loss(self, batch):
        return super().loss(batch) * (float("nan") if batch.progress > 0.05 else 1)


class VectorLoss(Right):
    name = "vector-loss"

    def contrast(self, one, two):
        return functional.cross_entropy(one @ two.T, torch.arange(len(one)), reduction="none")


class FloatLoss(Right):
    name = "float-loss"

    def loss(self, batch):
        return super().loss(batch).item()


class FlatEmbedding(Right):
    name = "flat-embedding"

    def stages(self):
        return (self.stage(embed=lambda x: self.embed(x).mean(1)),)


class SmallTargets(Right):
    name = "small-targets"

    def stages(self):
        return (self.stage(targets=lambda volumes: volumes[..., ::2]),)


class BadInit(Right):
    name = "bad-init"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.other = nn.Linear(options.no_such_option, 8)


class NoStages(Right):
    name = "no-stages"

    def stages(self):
        self.stage()


class NoViews(Right):
    name = "no-views"

    def stages(self):
        return (self.stage(views=0),)


class OtherEncoder(Right):
    name = "other-encoder"

    def __init__(self, encoder, options, shape):
        super().__init__(deepcopy(encoder), options, shape)


class LargerEncoder(Right):
    name = "larger-encoder"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        encoder.mask_token = nn.Parameter(torch.zeros(4))


class ExtraState(Right):
    name = "extra-state"

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        del state


class UnderNoGrad(Right):
    name = "no-grad"

    def embed(self, x):
        with torch.no_grad():
            features = self.encoder(x)
        return functional.normalize(self.head(features).float(), dim=1)


class OutsideModule(Right):
    name = "outside"

    def stages(self):
        return (self.stage(module=self.head),)


class TrainsACopy(Right):
    name = "copy"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.mine = deepcopy(encoder)

    def embed(self, x):
        return functional.normalize(self.head(self.mine(x)).float(), dim=1)


class PlainState(Right):
    name = "plain-state"
    steps = 0

    def loss(self, batch):
        self.steps += 1
        return super().loss(batch) * (1 + self.steps)


class GlobalRandom(Right):
    name = "global-random"

    def loss(self, batch):
        return self.contrast(*(self.embed(view + 0.01 * torch.randn(view.shape)) for view in batch.views))


class InPlace(Right):
    name = "in-place"

    def loss(self, batch):
        return self.contrast(*(self.embed(view.mul_(0.5)) for view in batch.views))


class LazyHead(Right):
    name = "lazy-head"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.head = nn.LazyLinear(8)


class SameNames(Right):
    name = "same-names"

    def stages(self):
        return (self.stage(), self.stage())


class SmallReconstruction(Right):
    name = "small-reconstruction"

    def stages(self):
        return (self.stage(reconstruct=lambda volumes, rng: volumes[:, :, ::2]),)


class UnknownAugmentation(Right):
    name = "unknown-augmentation"

    def stages(self):
        return (self.stage(augmentation="geometry"),)


class WrongSign(Right):
    name = "wrong-sign"

    def contrast(self, one, two):
        return -super().contrast(one, two)


class WrongSignOfOneView(Right):
    name = "wrong-sign-of-one-view"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.draw = nn.Linear(encoder.widths[-1], shape[1] ** 3)

    def stages(self):
        return (Stage(name="only", module=self, loss=self.loss, augmentation="none"),)

    def loss(self, batch):
        return -functional.mse_loss(self.draw(self.encoder(batch.views[0])).float(), batch.views[0].flatten(1))


class OneViewTwice(Right):
    name = "one-view-twice"

    def loss(self, batch):
        return self.contrast(self.embed(batch.views[0]), self.embed(batch.views[0]))


class FinishZeroes(Right):
    name = "finish-zeroes"

    def stages(self):
        return (self.stage(finish=self.zero),)

    def zero(self, volumes):
        for parameter in self.encoder.parameters():
            parameter.zero_()


class HiddenPasses(Right):
    name = "hidden-passes"

    def loss(self, batch):
        return torch.stack([super(HiddenPasses, self).loss(batch) for _ in range(8)]).mean()


class HalfLoss(Right):
    name = "half-loss"

    def loss(self, batch):
        return super().loss(batch).bfloat16()


class TrainsInPrior(Right):
    name = "trains-in-prior"

    def stages(self):
        return (self.stage(budget="prior"),)


class DrawnAnew(Right):
    name = "drawn-anew"

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        generator = torch.Generator()
        generator.seed()
        self.register_buffer("anchor", torch.randn(8, generator=generator))


class NothingTrained(Right):
    name = "nothing-trained"

    def stages(self):
        return (self.stage(loss=None, embed=None),)


class HoldsOutForNothing(Right):
    name = "holds-out-for-nothing"

    def stages(self):
        return (self.stage(held_out=0.2),)


class ForgetsItsImage(Right):
    name = "forgets-its-image"
    image = torch.tensor(0.0)

    def stages(self):
        prior = Stage(
            name="image", module=self.head, loss=None, budget="prior", finish=self.finish,
            reconstruct=lambda x, _: self.image.expand_as(x),
        )  # fmt: skip
        return (prior, self.stage())

    def finish(self, volumes):
        self.image = torch.stack([batch.mean() for batch in volumes]).mean()
