"""The configuration of a run: all that decides its results, and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.model import Model, validated
from voxbench.benchmark.settings.recipes import FinetuneRecipe, OwnRecipes, R, StageRecipe

Fraction = Annotated[float, Field(gt=0, le=1)]
Evaluation = Literal["finetune", "linear", "knn"]
VARIANT = "~"  # between a method's name and what a sweep sets it to
OWN = "own"  # in place of an evaluation: of a method that brings its own predictor


class PluginConfig(BaseModel):
    """A plug-in's name and its own options beside it; the options are validated by the plug-in's model."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str
    source: str | None = Field(default=None, description="path/to/file.py:Class of a plug-in that is not installed")

    @property
    def options(self) -> dict[str, Any]:
        """The plug-in's own options."""
        return dict(self.model_extra or {})

    @property
    def spec(self) -> str:
        """What `registry.load` takes."""
        return self.source or self.name

    def identity(self, kind: registry.Kind) -> dict[str, Any]:
        """All that decides what the plug-in does, and nothing of where it lies."""
        return {"name": self.name, "source": registry.source_digest(kind, self.spec), **self.options}


class TunedMethod(Model):
    """What a search found for one method."""

    trials: int
    failed: int
    auprc: float | None = Field(default=None, description="of the best trial, on validation")
    default_auprc: float | None = Field(default=None, description="of trial 0, the settings as they were")
    seconds: float = 0.0
    chosen: dict[str, Any] = Field(default={}, description="settings by name; empty = the default was best")


class Tuned(Model):
    """How `bench tune` chose recipes and options: recorded with a run, it decides nothing."""

    data: str = Field(description="fingerprint of the data set that was searched on")
    dataset: str
    fraction: float
    folds: tuple[int, ...] = Field(description="whose validation parts judged; their test patients were not read")
    of_folds: int
    seeds: tuple[int, ...] = Field(description="of splits and trainings")
    search_seed: int
    sampler: str
    methods: dict[str, TunedMethod]


class Protocol(Model):
    """Who is trained and tested on what."""

    name: Literal["strict", "paper"] = "strict"
    folds: int = Field(default=5, ge=2)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    fractions: tuple[Fraction, ...] = Field(default=(0.1, 0.5, 1.0), min_length=1)
    evaluate: tuple[Evaluation, ...] = Field(
        default=("finetune",), min_length=1, description="what an encoder is judged by; the first is the main table's"
    )
    val_share: float = Field(default=0.2, gt=0, lt=1, description="share of a fold's training part for selection")
    min_val_per_class: int = Field(default=10, ge=1, description="strict: labels a class that validation keeps")
    pretrain_per_fold: bool = Field(
        default=True,
        description="a pretraining run of its own for each fold; false = one a seed where data allow",
    )

    @field_validator("fractions", "seeds")
    @classmethod
    def _ordered(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @field_validator("evaluate")
    @classmethod
    def _by_cost(cls, value: tuple[Evaluation, ...]) -> tuple[Evaluation, ...]:
        return tuple(name for name in get_args(Evaluation) if name in value)


class AuditConfig(Model):
    """What the leak audit refuses."""

    near_duplicates: Literal["refuse", "warn", "off"] = "refuse"
    patient_ids: Literal["refuse", "warn"] = Field(
        default="refuse", description="ids on both sides of a split that may be one person's in two spellings"
    )
    likeness: float = Field(
        default=0.92,
        ge=0.85,
        le=1,
        description="correlation of two registered volumes' edges, from which they are copies",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_threshold(cls, data: Any) -> Any:
        """A config.yaml of before has one, of another measure: it means nothing to this one."""
        return {key: value for key, value in data.items() if key != "threshold"} if isinstance(data, Mapping) else data


class Config(Model):
    """All that decides a run's results."""

    dataset: PluginConfig
    encoder: PluginConfig
    encoders: dict[str, PluginConfig] = Field(default={}, description="further ones, by name: each method under each")
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    sources: dict[str, str] = Field(default={}, description="methods from files: name -> path/to/file.py:Class")
    protocol: Protocol
    prior: StageRecipe
    pretrain: StageRecipe
    finetune: FinetuneRecipe
    recipes: dict[str, OwnRecipes] = Field(default={}, description="by method, where its own differ from those above")
    augmentation: dict[str, dict[str, Any]] = Field(default={}, description="strengths that differ from a policy's own")
    audit: AuditConfig = AuditConfig()
    tuned: Tuned | None = Field(default=None, description="by `bench tune`: how recipes and options were chosen")

    @property
    def rows(self) -> tuple[str, ...]:
        """What stands in a table: each method, and as METHOD@ENCODER each under each further encoder."""
        return (*self.methods, *(f"{name}@{encoder}" for encoder in self.encoders for name in self.methods))

    def stage_recipe(self, row: str, budget: Literal["prior", "pretrain"]) -> StageRecipe:
        """That of a stage of this budget of the method in a row."""
        shared: StageRecipe = getattr(self, budget)
        return self._own(row, budget, shared)

    def finetune_recipe(self, row: str) -> FinetuneRecipe:
        """That of the method in a row."""
        return self._own(row, "finetune", self.finetune)

    def _own(self, row: str, kind: str, shared: R) -> R:
        own = self.recipes.get(self.method_of(row))
        changes: dict[str, Any] = getattr(own, kind) if own else {}
        where = f"recipes.{self.method_of(row)}.{kind}"
        return validated(type(shared), {**shared.model_dump(), **changes}, where) if changes else shared

    def method_of(self, row: str) -> str:
        """The name of the method in a row, METHOD~VARIANT@ENCODER."""
        return row.partition("@")[0].partition(VARIANT)[0]

    def options_of(self, row: str) -> dict[str, Any]:
        """The options of the method in a row."""
        return self.methods[row.partition("@")[0]]

    def encoder_of(self, row: str | None) -> PluginConfig:
        """The encoder of a row; None, the first."""
        other = (row or "").partition("@")[2]
        return self.encoders[other] if other else self.encoder

    def method_spec(self, row: str) -> str:
        """What `registry.load` takes for the method in a row."""
        return self.sources.get(row.partition("@")[0], self.method_of(row))

    def without_grid(self) -> dict[str, Any]:
        """The part that must be the same for results to stand in one table, methods' options and own recipes aside."""
        data = self.model_dump(mode="json", exclude={"methods", "sources", "encoders", "recipes", "tuned"})
        data |= {"dataset": self.dataset.identity("datasets"), "encoder": self.encoder.identity("encoders")}
        for grid in ("fractions", "seeds", "evaluate"):
            del data["protocol"][grid]
        del data["audit"]  # decides whether a run is refused, not what it finds
        return data


Precision = Literal["auto", "float32", "bfloat16"]
Recompute = Literal["auto", "never", "always"]


class Runtime(Model):
    """Where and how fast: recorded with a result, but it does not decide it."""

    out: Path
    data_root: Path | None = None
    cache: Path
    device: str = "cpu"
    precision: Precision = Field(default="auto", description="that forward passes of training compute in")
    workers: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    recompute: Recompute = Field(
        default="auto", description="maps are computed again in backward passes: auto, where a step does not fit"
    )
    gpus_per_stage: int = Field(default=1, ge=1, description="processes that share the steps of a pretraining stage")
