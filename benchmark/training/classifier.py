"""What is fine-tuned: the encoder with a head, and the options of the recipe that say which part learns when."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxbench.benchmark.settings.recipes import FinetuneRecipe
from voxbench.benchmark.training.train import Training
from voxbench.methods.base import Encoder, Group


class Classifier(nn.Module):
    """Encoder and head: features F -> F/2 -> ReLU -> classes (Bhattacharya et al. 2024: 512-256-ReLU-2)."""

    def __init__(self, encoder: Encoder, classes: int, hidden: int, *, freeze_norm: bool = False) -> None:
        """`freeze_norm` keeps batch statistics as they are: pretraining's, in place of those of few labels."""
        super().__init__()
        features = encoder.widths[-1]
        hidden = hidden or max(features // 2, classes)
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        self.freeze_norm = freeze_norm
        self.head_alone = False  # whether the head learns on features of the frozen encoder

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> logits [B, K]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.head_alone):
            features = self.encoder(x)
        logits: Tensor = self.head(features)
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """As PyTorch's; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.head_alone:
            self.encoder.eval()
        elif mode and self.freeze_norm:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def groups(self, layer_decay: float, *, apart: bool) -> tuple[Group, ...]:
        """The encoder's parameters, a group a layer: each is given `layer_decay` times the rate of the next coarser.

        The head has the recipe's rate (Clark et al., ICLR 2020, section 3.1 of BEiT: Bao et al., ICLR 2022). What is in
        none of `Encoder.layers` is a layer of its own before them. () where there is one rate for all, unless they are
        wanted `apart`.
        """
        if layer_decay == 1 and not apart:
            return ()
        layers = [[p for module in layer for p in module.parameters()] for layer in self.encoder.layers()]
        told = {id(p) for layer in layers for p in layer}
        rest = [p for p in self.encoder.parameters() if id(p) not in told]
        every = [layer for layer in (rest, *layers) if layer]
        return tuple(
            Group(parameters=layer, rate=layer_decay ** (len(every) - number)) for number, layer in enumerate(every)
        )


class HeadFirst:
    """The head learns alone for a share of the steps, then all of it (Kumar et al., ICLR 2022).

    The encoder's rate then rises as the recipe's does at its beginning: Adam's first steps are as large as its rate.
    A function of the step alone, so a training may go on from any.
    """

    def __init__(self, model: Classifier, recipe: FinetuneRecipe, training: Training) -> None:
        self.model = model
        self.training = training
        self.first = round(recipe.linear_first * training.steps)
        self.warm = max(1, round(recipe.warmup * (training.steps - self.first)))
        self.encoder = {id(p) for p in model.encoder.parameters()}

    def before_loss(self) -> None:
        """Freezes the encoder, or sets it free."""
        alone = self.training.step < self.first
        if alone != self.model.head_alone:
            self.model.head_alone = alone
            self.model.train()

    def before_step(self, progress: float) -> None:
        """Holds the encoder's rate back while it is new to the training."""
        del progress
        rise = (self.training.step - self.first + 1) / self.warm
        if self.first and 0 < rise < 1:
            for group in self.training.optimizer.param_groups:
                if any(id(p) in self.encoder for p in group["params"]):
                    group["lr"] *= rise
