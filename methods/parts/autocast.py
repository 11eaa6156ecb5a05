"""Forward passes in bfloat16, but for the convolutions that a CPU's library gets wrong in it.

Over an axis that has one voxel before or after it, with a kernel that is longer, oneDNN 3.x on a processor with AMX
reads memory that it has not written: in 1, 2 and 3 dimensions, forward and backward, with and without stride,
transposed or not. What comes back differs from call to call, and is now and then NaN. With two voxels and more before
and after, kernels of one, and linear layers gave equal bits in all of some 500 cases drawn at random (PyTorch 2.15).
Such maps are tiny, so float32 costs nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


@contextmanager
def autocast(device: torch.device, kind: torch.dtype) -> Iterator[None]:
    """`torch.autocast` of `device` to `kind`, float32 for none, with `OneVoxelInFloat32` where it is needed."""
    if kind == torch.float32:
        yield
        return
    with torch.autocast(device.type, kind), OneVoxelInFloat32() if device.type == "cpu" else nullcontext():
        yield


class OneVoxelInFloat32(TorchFunctionMode):
    """Convolutions over or to an axis of one voxel are in float32 under a CPU's autocast; they return its type."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As PyTorch calls it, for every function of its own."""
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        if function in _CONVOLUTIONS and torch.is_autocast_enabled("cpu") and found.device.type == "cpu":
            x, weight = (args[at] if len(args) > at else kwargs[name] for at, name in enumerate(("input", "weight")))
            axes = weight.ndim - 2
            if 1 in (*x.shape[-axes:], *found.shape[-axes:]):
                with torch.autocast("cpu", enabled=False):
                    exact = function(*map(_float, args), **{name: _float(value) for name, value in kwargs.items()})
                return exact.to(found.dtype)
        return found


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
