"""The configuration of a run: a preset, the command line's flags and `--set` laid over one another, and validated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.errors import BenchError, nearest
from voxbench.datasets.views.policies import policies

Fraction = Annotated[float, Field(gt=0, le=1)]
Evaluation = Literal["finetune", "linear", "knn"]
VARIANT = "~"  # between a method's name and what a sweep sets it to
OWN = "own"  # in place of an evaluation: of a method that brings its own predictor
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound="Recipe")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Recipe(_Model):
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


class OwnRecipes(_Model):
    """Where a method's recipes differ from the run's: keys of those, such as ``{"lr": 0.001}``."""

    prior: dict[str, Any] = {}
    pretrain: dict[str, Any] = {}
    finetune: dict[str, Any] = {}

    @field_validator("finetune")
    @classmethod
    def _shared(cls, value: dict[str, Any]) -> dict[str, Any]:
        kept = next((key for key in ("selection", "mirrored") if key in value), None)
        if kept:
            raise ValueError(f"{kept} is the same for all methods: set finetune.{kept}")
        return value


class TunedMethod(_Model):
    """What a search found for one method."""

    trials: int
    failed: int
    auprc: float | None = Field(default=None, description="of the best trial, on validation")
    default_auprc: float | None = Field(default=None, description="of trial 0, the settings as they were")
    seconds: float = 0.0
    chosen: dict[str, Any] = Field(default={}, description="settings by name; empty = the default was best")


class Tuned(_Model):
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


class Protocol(_Model):
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


class AuditConfig(_Model):
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


class Config(_Model):
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


class Runtime(_Model):
    """Where and how fast: recorded with a result, but it does not decide it."""

    out: Path
    data_root: Path | None = None
    cache: Path
    device: str = "cpu"
    workers: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)


def presets() -> dict[str, str]:
    """Built-in presets: name -> text."""
    folder = resources.files("voxbench.configs")
    return {f.name[:-5]: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".yaml")}


def read_preset(name: str) -> dict[str, Any]:
    """A built-in preset, or a YAML file of the user's; ``extends: NAME`` lays it over a built-in one."""
    builtin = presets()
    if name in builtin:
        text = builtin[name]
    elif Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BenchError(f"preset {name}: not a readable text file ({error}): give a YAML file") from error
    else:
        raise BenchError(f"no preset and no file is called {name!r}: {nearest(name, builtin)}")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BenchError(f"preset {name}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise BenchError(f"preset {name}: expected a mapping of settings")
    if "extends" not in data:
        return data
    base = str(data.pop("extends"))
    if base not in builtin:
        raise BenchError(f"preset {name}: extends: no built-in preset is called {base!r}: {nearest(base, builtin)}")
    return merge(read_preset(base), data)


class _Scalars(yaml.SafeLoader):
    """YAML in which words stay words: yes, no, on and off are class names, 02 is one too, and 12:30 is no number."""


_PLAIN = {"bool": "true|false|True|False", "int": "[-+]?(0|[1-9][0-9]*)"}
_Scalars.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] not in (*_PLAIN, "timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _PLAIN.items():
    _Scalars.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^({_pattern})$"), list("tTfF-+0123456789")
    )


def plain_yaml(text: str) -> Any:
    """YAML as people mean it: 12:30 is no number, and `no` is a word. Raises yaml.YAMLError."""
    return yaml.load(text, _Scalars)


def parse_setting(text: str) -> dict[str, Any]:
    """``a.b.c=value`` as nested mappings; the value is read as YAML. Raises BenchError without '='."""
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BenchError(f"--set {text!r}: expected key=value, e.g. --set finetune.lr=0.001")
    try:
        value: Any = plain_yaml(raw)
    except yaml.YAMLError:
        value = raw
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def resolve(layers: Sequence[Mapping[str, Any]], methods: Sequence[str] | None) -> Config:
    """One validated configuration from layers, later ones winning, every plug-in option filled in.

    `methods` are names or ``file.py:Class`` specs; None = those that the layers name. Raises BenchError with every
    wrong key, its nearest valid name, and every wrong value.
    """
    data: dict[str, Any] = {}
    for layer in layers:
        data = merge(_without_replaced(data, layer), layer)
    options = data.get("methods") or {}
    if not isinstance(options, Mapping) or not all(isinstance(value, Mapping | None) for value in options.values()):
        raise BenchError("methods: expected options by method, e.g. --set methods.spark.mask_ratio=0.5")
    for name, own in options.items():
        base, _ = split_variant(name)
        if base in registry.names("methods"):  # also of methods that do not run: a mistyped option is a mistake
            validated(registry.load("methods", base).Options, own or {}, f"methods.{name}")
    if methods is not None:
        specs = _specs(methods)
        known = registry.names("methods")
        unknown = [name for name in options if name not in specs and split_variant(name)[0] not in known]
        if unknown:
            raise BenchError(f"methods.{unknown[0]}: no such method: {nearest(unknown[0], registry.names('methods'))}")
        data["methods"] = {name: options.get(name) or {} for name in specs}
        data["sources"] = {name: spec for name, spec in specs.items() if ".py:" in spec}
        lacking = [name for name in specs if VARIANT in name and name not in options]
        if lacking:
            raise BenchError(f"--methods {lacking[0]}: no configuration has this variant: make it with --sweep")
    config = validated(Config, data, "")
    _check_recipes(config)
    running = {config.method_of(row) for row in config.methods}
    filled: dict[str, Any] = {
        "dataset": _filled("datasets", config.dataset),
        "encoder": _filled("encoders", config.encoder),
        "encoders": {name: _filled("encoders", plugin, name) for name, plugin in config.encoders.items()},
        "methods": {
            name: validated(
                registry.load("methods", config.method_spec(name)).Options, options, f"methods.{name}"
            ).model_dump(mode="json")
            for name, options in config.methods.items()
        },
    }
    policies(config.augmentation)  # raises DatasetError for strengths that no policy has
    return config.model_copy(
        update={
            "dataset": PluginConfig(**filled["dataset"]),
            "encoder": PluginConfig(**filled["encoder"]),
            "encoders": {name: PluginConfig(**plugin) for name, plugin in filled["encoders"].items()},
            "methods": filled["methods"],
            "recipes": {name: own for name, own in config.recipes.items() if name in running},
        }
    )


def _check_recipes(config: Config) -> None:
    """Raises BenchError for recipes of a method that there is not, and for wrong keys and values in them."""
    known = {*registry.names("methods"), *map(config.method_of, config.methods)}
    for name in config.recipes:
        if name not in known:
            raise BenchError(f"recipes.{name}: no such method: {nearest(name, known)}")
        config.stage_recipe(name, "prior"), config.stage_recipe(name, "pretrain"), config.finetune_recipe(name)


def _without_replaced(data: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`data` less the options of a dataset or encoder in whose place `layer` puts another: they are not the other's."""
    kept = dict(data)
    for kind in ("dataset", "encoder"):
        old, new = data.get(kind), layer.get(kind)
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)) or "name" not in new:
            continue
        if new["name"] not in (old.get("name"), old.get("source")):
            del kept[kind]
        if kind == "encoder":
            kept.pop("encoders", None)  # who names an encoder names all
    return kept


def split_variant(spec: str) -> tuple[str, str]:
    """A method's name or file, and what follows it where it is a variant: (`residual`, `~median=3`)."""
    place, colon, name = spec.rpartition(".py:")
    name, mark, label = name.partition(VARIANT)
    return f"{place}{colon}{name}", f"{mark}{label}"


def _specs(methods: Sequence[str]) -> dict[str, str]:
    """Name -> spec. Raises BenchError where two have one name."""
    specs: dict[str, str] = {}
    for given in methods:
        spec, label = split_variant(given)
        name = f"{registry.method_name(spec)}{label}"
        if specs.get(name, spec) != spec or (".py:" in spec and name in registry.names("methods")):
            raise BenchError(f"{spec}: another method is called {name!r}: give the class another `name`")
        specs[name] = spec
    return specs


def validated(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """`data` as `model`; a BenchError names each wrong key with the nearest right one, and each wrong value."""
    lists = {
        key: [word.strip() for word in value.split(",")]
        for key, value in data.items()
        if isinstance(value, str) and key in model.model_fields and "tuple" in str(model.model_fields[key].annotation)
    }
    try:
        return model.model_validate({**data, **lists})
    except ValidationError as error:
        raise BenchError(_readable(error, where, model.model_fields)) from error


def _filled(kind: Literal["datasets", "encoders"], plugin: PluginConfig, further: str = "") -> dict[str, Any]:
    found = registry.load(kind, plugin.spec)
    options = validated(found.Options, plugin.options, f"{kind}.{further}" if further else kind[:-1])
    source = plugin.spec if ".py:" in plugin.spec else None
    return {"name": found.name, "source": source, **options.model_dump(mode="json")}


def _readable(error: ValidationError, where: str, fields: Mapping[str, Any]) -> str:
    lines = []
    found = error.errors()
    for problem in found:
        path = [str(part) for part in problem["loc"]]
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in found):
            continue  # its items are wrong, and have a line each
        key = ".".join(filter(None, [where, *path]))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: no such setting: {nearest(path[-1], _known(fields, path[:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            lines.append(f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]} (given: {problem['input']!r})")
    return "\n".join(lines)


def _known(fields: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    rest = iter(path)
    for part in rest:
        inner = fields[part].annotation if part in fields else None
        if get_origin(inner) is dict:  # of models by name
            inner = get_args(inner)[1]
            next(rest, None)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        fields = inner.model_fields
    return list(fields)
