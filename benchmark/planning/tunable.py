"""Which of a method's options a search may try, held to the contract."""

from __future__ import annotations

from voxbench.benchmark.settings.errors import ContractError, nearest
from voxbench.methods.base import Method, Range, Tunable

MOST_OWN = 2  # options a method: so all have about as much to be searched


def checked_tunable(name: str, method: Method) -> Tunable:
    """What a method says may be searched. Raises ContractError, in a line that names method and rule."""
    said = method.tunable
    if len(said) > MOST_OWN:
        raise ContractError(f"method {name}: {len(said)} options are tunable: name at most {MOST_OWN}")
    options = type(method).Options.model_fields
    for option, span in said.items():
        if option not in options:
            raise ContractError(f"method {name}: tunable {option!r} is no option of it: {nearest(option, options)}")
        if not isinstance(span, Range):
            if not span.values:
                raise ContractError(f"method {name}: tunable {option!r} has no values to choose from")
        elif span.low >= span.high or (span.log and span.low <= 0):
            raise ContractError(f"method {name}: tunable {option!r}: a range rises, with log from above 0")
    return said
