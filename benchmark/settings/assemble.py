"""From names in a configuration to encoders, methods and datasets, initialised under a seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import USER_ERRORS, BenchError, ContractError, unexpected
from voxbench.benchmark.settings.keys import derive_seed
from voxbench.datasets.base import Dataset
from voxbench.methods.base import Encoder, Method

Shape = tuple[int, int, int, int]
Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def seeded(*parts: str | int | float | None) -> Iterator[None]:
    """PyTorch initialises modules from its global generator: seeded here, and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*parts))  # torch.manual_seed would seed every GPU too
        yield


@contextmanager
def blamed(kind: str, spec: str) -> Iterator[None]:
    """A plug-in that cannot be made is its author's to mend: one line that says where it failed."""
    try:
        yield
    except USER_ERRORS:
        raise
    except Exception as error:  # a third party's code may fail in any way
        raise BenchError(f"{kind} {spec} cannot be made: {unexpected(error)}") from error


def build_dataset(config: Config, root: Path | None) -> Dataset:
    """The dataset; nothing is read yet."""
    kind = registry.load("datasets", config.dataset.spec)
    with blamed("dataset", config.dataset.spec):
        dataset: Dataset = kind(kind.Options(**config.dataset.options), root)
    return dataset


def build_encoder(config: Config, shape: Shape, seed: int, fold: int | None, row: str | None = None) -> Encoder:
    """The common encoder of a row: one initialisation a seed (and fold, with a pretraining a fold) for all methods."""
    plugin = config.encoder_of(row)
    kind = registry.load("encoders", plugin.spec)
    told = {"shape": shape} if "shape" in inspect.signature(kind).parameters else {}
    with seeded(seed, fold, "encoder"), blamed("encoder", plugin.spec):
        encoder: Encoder = kind(kind.Options(**plugin.options), shape[0], **told)
    return encoder


def build_method(config: Config, row: str, shape: Shape, seed: int, fold: int | None) -> Method:
    """The method of a row around a fresh encoder."""
    spec = config.method_spec(row)
    kind = registry.load("methods", spec)
    encoder = build_encoder(config, shape, seed, fold, row)
    with seeded(seed, fold, "method"), blamed("method", spec):
        sizes = _sizes(encoder)
        method: Method = kind(encoder, kind.Options(**config.options_of(row)), shape)
        if method.encoder is not encoder:
            raise ContractError(f"{row}: puts another encoder in the place of the one it is given: train that one")
        if _sizes(encoder) != sizes:
            changed = sorted({one for one, _ in _sizes(encoder) ^ sizes})
            raise ContractError(f"{row}: changes what the encoder is made of ({changed[0]}): put heads beside it")
    return method


def _sizes(encoder: Encoder) -> set[tuple[str, tuple[int, ...]]]:
    """What fine-tuning will look for: names and shapes of the encoder's state."""
    return {(name, tuple(value.shape)) for name, value in encoder.state_dict().items()}


def placed(module: Module, device: torch.device) -> Module:
    """`module` on `device`, its 3D kernels channels last: a third faster on a CPU, and right for a GPU's bfloat16."""
    module.to(device)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 5:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last_3d)
    return module


def load_encoder(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Pretrained weights into `encoder`. Raises BenchError unless every key and shape matches."""
    own = encoder.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or surplus or shapes:
        raise BenchError(
            "the method's encoder does not fit the one to fine-tune: "
            f"{len(missing)} keys missing {missing[:3]}, {len(surplus)} unknown {surplus[:3]}, "
            f"{len(shapes)} of another shape {shapes[:3]}"
        )
    encoder.load_state_dict(dict(state), strict=True)
