"""Tensors that claim to lie on a GPU and are computed on the CPU, for machines without one.

What would fail on a GPU for its device fails here too: an operation on tensors of two devices, or a NumPy view of a
tensor of the GPU. Autocast gives bfloat16 as there, but to the operations that it has on a CPU, where the losses are
not among those kept in float32. What this cannot show is speed, memory, or a kernel that a GPU lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}  # from one device to another
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class OnGPU(Tensor):
    """A tensor of the GPU; `values` has its numbers. What PyTorch itself sees has no storage, like its fake tensors."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> OnGPU:
        with torch._C._DisableTorchDispatch():
            shell = torch.empty_strided(values.size(), values.stride(), dtype=values.dtype, device="meta")
        made = Tensor._make_subclass(cls, shell, False, dispatch_device=True, device_for_backend_keys=CPU)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def data(self) -> Tensor:
        return OnGPU(self.values)

    @data.setter
    def data(self, new: OnGPU) -> None:
        self.values = new.values

    def cpu(self) -> Tensor:
        return Leave.apply(self)

    def numpy(self) -> Any:
        raise TypeError("can't convert a tensor of the GPU to numpy: copy it with .cpu() first")

    def to(self, *where: Any, **how: Any) -> Tensor:
        if where and isinstance(where[0], Tensor):
            where = (where[0].device, where[0].dtype)
        device, dtype, _, _ = torch._C._nn._parse_to(*where, **how)
        cast = self if dtype in (None, self.dtype) else aten._to_copy(self, dtype=dtype)
        return cast.cpu() if device == CPU else cast


class Leave(torch.autograd.Function):
    """From the GPU to the CPU: an operation of its own, for autograd takes all for a CPU's and copies within it."""

    @staticmethod
    def forward(_: Any, x: OnGPU) -> Tensor:
        return x.values.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return OnGPU(gradient)


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU; raises RuntimeError where it mixes devices as no GPU would allow."""
    tensors = [x for y in (*args, *kwargs.values()) for x in (y if isinstance(y, (list, tuple)) else (y,))]
    tensors = [x for x in tensors if isinstance(x, Tensor)]
    here = [t for t in tensors if not isinstance(t, OnGPU) and t.ndim > 0]  # single numbers may come from anywhere
    there = [t for t in tensors if isinstance(t, OnGPU)]
    asked = kwargs.get("device")
    wanted = asked is not None and torch.device(asked).type == "cuda"
    index_from_cpu = func in INDEXED and isinstance(args[0], OnGPU)
    if here and there and func not in COPIES and not index_from_cpu:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cpu and {GPU}")
    if wanted:
        kwargs = {**kwargs, "device": CPU}
    result = func(*map(_values, args), **{name: _values(x) for name, x in kwargs.items()})
    if func is aten.copy_.default or (func._schema.name.endswith("_") and there and args[0] is there[0]):
        return args[0]  # in place
    if not there and not wanted:
        return result
    return _on_gpu(result)


def _values(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return [_values(one) for one in x]
    return x.values if isinstance(x, OnGPU) else x


def _on_gpu(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(_on_gpu(one) for one in x)
    return OnGPU(x) if isinstance(x, Tensor) else x


class PretendGPU(TorchDispatchMode):
    """While entered, `device="cuda:0"` gives tensors of the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """nn.Module.to, which PyTorch refuses for tensors of one's own kind."""
    if torch.device(device).type == "cuda":
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None and not isinstance(value, OnGPU):
                    part._parameters[name] = nn.Parameter(OnGPU(value.detach()), requires_grad=value.requires_grad)
            for name, value in part._buffers.items():
                if value is not None and not isinstance(value, OnGPU):
                    part._buffers[name] = OnGPU(value)
    return module


class AnyGenerator(torch.Generator):
    """A generator of any device: all draw on the CPU."""

    def __new__(cls, device: object = "cpu") -> AnyGenerator:
        return super().__new__(cls)

    def __init__(self, device: object = "cpu") -> None:
        """The device is not looked at."""


@contextmanager
def forked(devices: object = (), **_: object) -> Iterator[None]:
    """torch.random.fork_rng without asking the driver for its generators."""
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def pretended(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with one GPU, as far as this process can tell."""
    tensor, autocast = torch.tensor, torch.autocast

    def made(data: Any, *args: Any, device: Any = None, **how: Any) -> Tensor:
        value = tensor(data, *args, **how)
        return OnGPU(value) if device is not None and torch.device(device).type == "cuda" else value

    with patch.context() as now:
        for name in ("_lazy_init", "synchronize", "reset_peak_memory_stats"):
            now.setattr(torch.cuda, name, lambda *_: None)
        now.setattr(torch.cuda, "max_memory_allocated", lambda *_: 2**30)
        now.setattr(torch.cuda, "get_device_name", lambda *_: "pretended GPU")
        now.setattr(torch.cuda, "device_count", lambda: 1)
        now.setattr(torch.cuda, "mem_get_info", lambda *_: (2**34, 2**34))
        now.setattr(torch, "autocast", lambda _, *args, **how: autocast("cpu", *args, **how))
        now.setattr(torch.random, "fork_rng", forked)
        now.setattr(torch, "Generator", AnyGenerator)
        now.setattr(torch, "tensor", made)
        now.setattr(nn.Module, "to", moved)
        with PretendGPU():
            yield
