"""How training is optimised: recipes of pretraining and fine-tuning, and where a method's own differ."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from voxbench.benchmark.settings.model import Model

R = TypeVar("R", bound="Recipe")


class Recipe(Model):
    """How one kind of training is optimised; the same for all methods, but for what `Config.recipes` says."""

    optimizer: Literal["adamw", "lars"] = "adamw"
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    total_decay: float = Field(
        default=0.0,
        ge=0,
        description="in place of weight_decay: without gradients weights would end at exp(-total_decay) of their start",
    )
    batch: int = Field(ge=2, description="volumes a step; a smaller cohort makes it smaller")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps with a rising learning rate")
    clip: float = Field(default=0.0, ge=0, description="largest norm of the gradient; 0 = no limit")

    @model_validator(mode="after")
    def _adapts(self) -> Self:
        """lightly's LARS adapts the rate of weights that decay only: without decay it is plain SGD."""
        if self.optimizer == "lars" and self.weight_decay == 0:
            raise ValueError("lars needs a weight_decay above 0, e.g. 0.000001, or it does not adapt its rates")
        if self.optimizer == "lars" and self.total_decay:
            raise ValueError("total_decay is of adamw: lars takes the rate of each weight as a factor too")
        return self


class StageRecipe(Recipe):
    """Budget of a pretraining stage."""

    volumes: int = Field(ge=2, description="volumes that pass forward and backward: two views count as two")


class FinetuneRecipe(Recipe):
    """Fine-tuning on labels, the same for all methods."""

    steps: int = Field(ge=1, description="optimiser steps of the fewest labels")
    epochs: int = Field(default=0, ge=0, description="passes over the labels, where those are more steps")
    selection: Literal["none", "validation"] = Field(
        default="none",
        description="none = the last step, and validation labels are trained on; validation = the lowest loss there",
    )
    evaluations: int = Field(default=20, ge=1, description="how often the validation part is looked at")
    patience: int = Field(default=5, ge=1, description="evaluations without a better validation loss before stopping")
    stop_from: float = Field(default=0.5, ge=0, le=1, description="share of the steps before which nothing is stopped")
    mirrored: bool = Field(
        default=True, description="scores are the mean over a volume and its mirror images, where training flips it"
    )
    hidden: int = Field(default=0, ge=0, description="units of the head's hidden layer; 0 = half of the features")
    linear_first: float = Field(
        default=0.0, ge=0, lt=1, description="share of the steps in which the head learns alone"
    )
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="rate of a layer, as a share of the next coarser's")
    freeze_norm: bool = Field(default=False, description="whether the encoder's batch statistics stay pretraining's")

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later settings that are not used: their coming must not change the key of any earlier result."""
        later = ("linear_first", "layer_decay", "freeze_norm")
        fields = type(self).model_fields
        unused = {name for name in later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in whole(self).items() if name not in unused}

    def steps_for(self, labels: int) -> int:
        """Optimiser steps on so many labelled volumes."""
        return max(self.steps, self.epochs * (labels // min(self.batch, labels)))


class OwnRecipes(Model):
    """Where a method's recipes differ from the run's: keys of those, such as ``{"lr": 0.001}``."""

    prior: dict[str, Any] = Field(default={})
    pretrain: dict[str, Any] = Field(default={})
    finetune: dict[str, Any] = Field(default={})

    @field_validator("finetune")
    @classmethod
    def _shared(cls, value: dict[str, Any]) -> dict[str, Any]:
        kept = next((key for key in ("selection", "mirrored") if key in value), None)
        if kept:
            raise ValueError(f"{kept} is the same for all methods: set finetune.{kept}")
        return value
