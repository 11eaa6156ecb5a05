"""What `bench list` shows."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic.fields import FieldInfo

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.presets import presets


def catalogue(kind: Literal["methods", "datasets", "encoders", "presets"]) -> list[dict[str, Any]]:
    """A row each: name, what it is, its options and their defaults. A plug-in that does not import says why."""
    if kind == "presets":
        return [{"name": name, "about": _header(text)} for name, text in sorted(presets().items())]
    rows = []
    for name in registry.names(kind):
        try:
            found = registry.load(kind, name)
        except BenchError as error:
            rows.append({"name": name, "about": str(error), "options": {}})
            continue
        options = {key: _default(field) for key, field in found.Options.model_fields.items()}
        rows.append({"name": name, "about": found.about, "options": options})
    return rows


def _default(field: FieldInfo) -> Any:
    """An option's default as JSON has it."""
    if field.is_required():
        return "required"
    return json.loads(json.dumps(field.get_default(call_default_factory=True), default=str))


def _header(text: str) -> str:
    """The comment that a preset opens with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines)
