"""The encoder that an evaluation starts from: as the method's last stage left it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.settings.assemble import build_encoder, build_method, load_encoder
from voxbench.benchmark.training.context import Context
from voxbench.methods.base import Encoder, MethodError


def pretrained(context: Context, plan: CellPlan) -> Encoder:
    """A fresh encoder with the weights that the method hands over; on the CPU."""
    encoder = build_encoder(context.config, context.dataset.shape, plan.seed, plan.replicate, plan.method)
    load_encoder(encoder, _handed_over(context, plan))
    return encoder


def _handed_over(context: Context, plan: CellPlan) -> Mapping[str, Tensor]:
    """The encoder's weights as the method's last stage left them; without a stage as its `__init__` did.

    Raises MethodError where there are some that are not finite: all scores would be.
    """
    if plan.stages:
        state: Mapping[str, Tensor] = context.store.load_weights(plan.stages[-1], "encoder")
    else:
        shape = context.dataset.shape
        state = build_method(context.config, plan.method, shape, plan.seed, plan.replicate).encoder.state_dict()
    lost = [name for name, weights in state.items() if not bool(torch.isfinite(weights).all())]
    if lost:
        left = "pretraining" if plan.stages else "__init__"
        raise MethodError(
            f"{plan.method}: its {left} left the encoder with weights that are not finite, in {len(lost)} of "
            f"{len(state)} tensors, first {lost[0]}: mend the method"
        )
    return state
