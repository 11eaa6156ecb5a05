"""Whether a stage trained the encoder: a row of a method that did not would be `supervised`'s under another name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.training.passes import Passes
from voxbench.benchmark.training.targets import evaluating
from voxbench.methods.base import Encoder, Method, Stage

BY_MORE_THAN = 1e-5  # of a tensor's length: less is rounding, or weight decay, which shrinks it as a whole


class Moved:
    """The encoder as a stage found it, to be held against what the stage made of it."""

    def __init__(self, method: Method, stage: Stage, passes: Passes) -> None:
        self.method, self.stage, self.passes = method, stage, passes
        self.before = {name: p.detach().clone() for name, p in method.encoder.named_parameters()}

    def count(self) -> int:
        """Of the encoder's parameters, how many are no longer where they were."""
        return sum(_moved(self.before[name], p.detach()) for name, p in self.method.encoder.named_parameters())

    def check(self) -> None:
        """Raises MethodError where the encoder was to be trained and was not, was not to be and was, or is lost."""
        lost = not_finite(self.method.encoder)
        if lost:
            raise ContractError(
                f"left the encoder with weights that are not finite, in {len(lost)} of "
                f"{len(self.method.encoder.state_dict())} tensors, first {lost[0]}: mend the method"
            )
        moved, total = self.count(), len(self.before)
        if self.stage.budget == "prior" and moved:
            raise ContractError(
                f"its budget is 'prior', and it trained the encoder ({moved} of {total} tensors changed): give the "
                "stage budget='pretrain', or keep the encoder out of its module"
            )
        if self.stage.budget == "pretrain" and not moved:
            raise ContractError(f"did not train the encoder (0 of {total} tensors changed): {self._why()}")

    def _why(self) -> str:
        held = {id(p) for p in self.stage.module.parameters()}
        own = list(self.method.encoder.parameters())
        if not any(id(p) in held for p in own):
            return "it is not in the stage's module, and only what that holds is trained"
        if not any(p.requires_grad for p in own):
            return "its parameters have requires_grad=False"
        if self.passes.countable and self.passes.own == 0:
            copies = " (a copy of it is trained)" if self.passes.trained else ""
            return f"the loss calls it under no_grad, or not at all{copies}"
        if not any(p.grad is not None and bool(p.grad.any()) for p in own):
            return "the loss does not depend on its features: they are detached, or nothing that is compared sees them"
        return "gradients reach it, but its weights are as they were: something puts them back"


def not_finite(encoder: Encoder) -> list[str]:
    """Names of its tensors with a value that is NaN or infinite."""
    return [name for name, value in encoder.state_dict().items() if not bool(torch.isfinite(value).all())]


def features_differ(encoder: nn.Module, volumes: Tensor) -> bool:
    """Whether `volumes` [B, C, D, H, W], in evaluation mode, get features that are not one and the same."""
    with torch.no_grad(), evaluating(encoder):
        features = encoder(volumes).float()  # [B, F]
    spread = (features - features[:1]).abs().max()
    return not bool(spread <= BY_MORE_THAN * features.abs().max())  # NaN is another fault, and has its own line


def _moved(before: Tensor, after: Tensor) -> bool:
    """Whether `after` is more than `before` shrunk: weight decay alone is no training."""
    if before.ndim <= 1 or not bool(before.any()):
        return not torch.equal(before, after)  # biases and norms do not decay
    old, new = before.double().flatten(), after.double().flatten()
    rest = new - old * (old @ new) / (old @ old)
    return bool(rest.norm() > BY_MORE_THAN * new.norm())
