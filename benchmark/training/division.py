"""The steps of a stage divided over processes: each computes a part of the batch in the networks, and all of the loss.

Every process draws the same batch and computes the same loss of the whole of it, so a method's loss, its negatives and
its heads are those of one process, and it need not know of the others. What costs is divided: an `Encoder`, and any
`Recomputing` network such as a decoder, computes this process's part of the volumes that it is given, and what it
returns is joined. Its batch norms take their statistics over all parts (`whole_batch`), and the gradients of its
parameters are summed. All other networks are computed whole by each process, as is a batch with fewer volumes than
there are processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from voxbench.benchmark.settings.errors import ContractError
from voxbench.benchmark.training.ranks import ALONE, Ranks, add, cut, join, lend
from voxbench.methods.base import Encoder
from voxbench.methods.parts.recompute import Recomputing
from voxbench.methods.parts.whole_batch import batch_norm, part_of_batch, summing, uses_batch

ALIKE = 1e-3  # relative: by more than this, two processes' numbers are not one number rounded differently
CALL, RANK = 0x9E3779B97F4A7C15, 0x632BE59BD9B4E019  # keep the random numbers of calls and of processes apart


class Division:
    """Divides the networks of a stage for the span of a ``with``: of its forward and backward pass.

    Outside, they are as they always are. Of networks within one another the outermost that is called is divided. Those
    that draw from PyTorch's global generator, as dropout does, draw other numbers in each process; what is drawn
    outside of them is what one process draws.
    """

    def __init__(self, ranks: Ranks, *modules: nn.Module) -> None:
        """`modules` hold all that a loss calls."""
        self.ranks = ranks
        found = dict.fromkeys(part for module in modules for part in module.modules())
        networks = [part for part in found if isinstance(part, Encoder | Recomputing)]
        inner = dict.fromkeys(part for network in networks for part in network.modules())
        self.held = {id(p) for network in networks for p in network.parameters()}
        self.norms = [part for part in inner if isinstance(part, _BatchNorm)]
        self.networks = [_Network(ranks, network) for network in networks]

    def __enter__(self) -> Self:
        if self.ranks.count > 1:
            seed = torch.initial_seed()
            for network in self.networks:
                network.install(seed)
            for norm in self.norms:
                norm.forward = partial(_normed, norm)  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.count > 1:
            for network in self.networks:
                network.remove()
            for norm in self.norms:
                del norm.forward

    def settle(self, module: nn.Module) -> None:
        """Gradients of what every process computed whole become the first one's, lest rounding lead them apart."""
        if self.ranks.count == 1:
            return
        grads = [p.grad for p in module.parameters() if p.grad is not None and id(p) not in self.held]
        if grads:
            flat = self.ranks.first(torch.cat([grad.reshape(-1) for grad in grads]))
            for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def check_start(self, step: int) -> None:
        """Waits for all processes. Raises MethodError where another does not begin at `step`."""
        if self.ranks.count > 1:
            self._check_alike(torch.tensor([step]), ["the step to go on from"])

    def check_losses(self, losses: Sequence[Tensor], step: int) -> None:
        """`losses` are those of the last steps up to `step`. Raises MethodError where another process has others."""
        if self.ranks.count > 1:
            names = [f"its loss at step {step - number}" for number in reversed(range(len(losses)))]
            self._check_alike(torch.stack(tuple(losses)), names)

    def check_state(self, module: nn.Module) -> None:
        """Raises MethodError where another process has another state of `module`."""
        state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        if self.ranks.count > 1 and state:
            lengths = torch.stack([value.double().norm() for value in state.values()])
            self._check_alike(lengths, [f"{name}, after its last step," for name in state])

    def _check_alike(self, here: Tensor, names: Sequence[str]) -> None:
        there = self.ranks.first(here)
        differ = self.ranks.total((~torch.isclose(here, there, rtol=ALIKE, atol=1e-8, equal_nan=True)).int()) > 0
        if bool(differ.any()):
            what = names[int(differ.nonzero()[0])]
            raise ContractError(
                f"{what} differs between the {self.ranks.count} processes that share its steps, which draw the same "
                "batch: take random numbers from `Batch.rng`, and keep what looks at the whole batch out of the "
                "networks that are divided, or use --gpus-per-stage 1 (docs/performance.md)"
            )


UNDIVIDED = Division(ALONE)


class _Network:
    """One network, and what stands in place of its methods while its passes are divided."""

    def __init__(self, ranks: Ranks, network: nn.Module) -> None:
        self.ranks = ranks
        self.network = network
        self.names = ("forward", "pyramid", "pooled", "filled") if isinstance(network, Encoder) else ("forward",)
        self.places = [(part._parameters, name) for part in network.modules() for name in part._parameters]
        self.lent: dict[int, Tensor] = {}  # parameters by id, for this step
        self.calls = 0
        self.seed = 0

    def install(self, seed: int) -> None:
        """`seed` is the step's."""
        self.lent, self.calls, self.seed = {}, 0, seed
        for name in self.names:
            setattr(self.network, name, _Method(self, name))

    def remove(self) -> None:
        self.lent = {}
        for name in self.names:
            delattr(self.network, name)

    def call(self, function: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]) -> Any:
        """function(*args, **given) of the whole batch, of which this process computes its part."""
        tensors = [x for x in tree_leaves((args, given)) if isinstance(x, Tensor) and x.ndim]
        batch = len(tensors[0]) if tensors else 0
        if summing() is not None or batch < self.ranks.count:  # within a network that is divided; or too few volumes
            return function(*args, **given)
        parts, more = tree_map(partial(self._part, batch), (tuple(args), dict(given)))
        with part_of_batch(partial(add, self.ranks)), self._own_numbers(tensors[0].device), self._parameters():
            made = function(*parts, **more)
        return tree_map(partial(self._whole, batch), made)

    def _part(self, batch: int, x: Any) -> Any:
        """Of a tensor an entry a volume, this process's; another, such as a token, as a parameter is."""
        if not isinstance(x, Tensor):
            return x
        if x.ndim == 0 or len(x) != batch or isinstance(x, nn.Parameter):
            return lend(self.ranks, [x])[0] if x.requires_grad else x
        return cut(self.ranks, x) if x.requires_grad else x.narrow(0, *self.ranks.own(batch))

    def _whole(self, batch: int, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.ndim == 0 or len(x) != self.ranks.own(batch)[1]:
            raise ContractError(
                f"{type(self.network).__name__} gives a tensor {list(x.shape)} for a part of the batch: what several "
                "processes compute must have an entry a volume along its first axis, or use --gpus-per-stage 1"
            )
        return join(self.ranks, x, batch) if x.requires_grad else self.ranks.joined(x, batch)

    @contextmanager
    def _parameters(self) -> Iterator[None]:
        """The network's parameters, lent to this part of the batch; once a step, so that gradients are sent once."""
        own = {id(p): p for held, name in self.places if (p := held[name]) is not None and p.requires_grad}
        if not own or not torch.is_grad_enabled():
            yield
            return
        if self.lent.keys() != own.keys():
            self.lent = dict(zip(own, lend(self.ranks, list(own.values())), strict=True))
        before = [(held, name, held[name]) for held, name in self.places]
        for held, name, parameter in before:
            held[name] = self.lent.get(id(parameter), parameter)  # type: ignore[assignment]
        try:
            yield
        finally:
            for held, name, parameter in before:
                held[name] = parameter

    @contextmanager
    def _own_numbers(self, device: torch.device) -> Iterator[None]:
        """The global generator for one pass: as many numbers as it may draw, none is missing afterwards."""
        self.calls += 1
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((self.seed + CALL * self.calls + RANK * self.ranks.rank) % 2**63)
            yield


class _Method:
    """In place of a method of a network, while its passes are divided."""

    def __init__(self, network: _Network, name: str) -> None:
        self.network, self.name = network, name

    def __call__(self, *args: Any, **given: Any) -> Any:
        function = getattr(type(self.network.network), self.name)
        return self.network.call(partial(function, self.network.network), args, given)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise ContractError("its loss makes a copy of a network: make it in __init__, or use --gpus-per-stage 1")


def _normed(norm: _BatchNorm, x: Tensor) -> Tensor:
    if summing() is None or not uses_batch(norm):
        own: Tensor = type(norm).forward(norm, x)
        return own
    return batch_norm(norm, x)
