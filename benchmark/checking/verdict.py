"""What came of one rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from voxbench.benchmark.settings.errors import BenchError, ContractError, unexpected
from voxbench.benchmark.training.train import NonFiniteLossError
from voxbench.methods.errors import MethodError

Outcome = Literal["ok", "note", "broken"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A line of `bench check`."""

    rule: str  # what the contract asks for
    outcome: Outcome = "ok"
    said: str = ""  # what was found, where that is more than "ok"


class BrokenRuleError(Exception):
    """A rule does not hold; the message says what was found and what to do."""


class NoteError(Exception):
    """A rule holds, and its author should know something."""


def verdict(rule: str, holds: Callable[[], object]) -> Verdict:
    """What comes of `holds`, which raises where the rule does not; the global generator is left alone."""
    try:
        with torch.random.fork_rng(devices=[]):
            holds()
    except NoteError as note:
        return Verdict(rule=rule, outcome="note", said=str(note))
    except (BrokenRuleError, ContractError, NonFiniteLossError, BenchError) as error:
        return Verdict(rule=rule, outcome="broken", said=" ".join(str(error).split()))
    except MethodError as error:  # its own word that it is not for this
        return Verdict(rule=rule, outcome="note", said=f"it leaves itself out: {error}")
    except Exception as error:  # a third party's code may fail in any way
        return Verdict(rule=rule, outcome="broken", said=unexpected(error))
    return Verdict(rule=rule)
