"""What `bench list` shows: read from the classes once, and then from the cache, for importing them takes seconds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from voxbench.datasets.machine import cache_folder

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Row = dict[str, Any]
PlugIns = Literal["methods", "datasets", "encoders"]


def catalogue(kind: Literal["methods", "datasets", "encoders", "presets"]) -> list[Row]:
    """A row each: name, what it is, its options and their defaults. A plug-in that does not import says why."""
    if kind == "presets":
        from voxbench.benchmark.settings.presets import presets

        return [{"name": name, "about": _header(text)} for name, text in sorted(presets().items())]
    stamp = _stamp(kind)
    kept = cache_folder()[0] / "catalogue" / f"{kind}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not there, or not whole: as good as none
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return list(known["rows"])
    rows, whole = _read(kind)
    if whole:
        _keep(kept, {"stamp": stamp, "rows": rows})
    return rows


def _read(kind: PlugIns) -> tuple[list[Row], bool]:
    """Of the classes themselves; and whether all of them could be imported."""
    from voxbench.benchmark.settings import registry
    from voxbench.benchmark.settings.errors import BenchError

    rows: list[Row] = []
    whole = True
    for name in registry.names(kind):
        try:
            found = registry.load(kind, name)
        except BenchError as error:
            rows.append({"name": name, "about": str(error), "options": {}})
            whole = False
            continue
        options = {key: _default(field) for key, field in found.Options.model_fields.items()}
        rows.append({"name": name, "about": found.about, "options": options})
    return rows, whole


def _stamp(kind: PlugIns) -> str:
    """Of what is registered, of which version, and of the files beside each: another one where any has changed."""
    told = hashlib.sha256()
    for point in sorted(entry_points(group=f"voxbench.{kind}")):
        version = point.dist.version if point.dist is not None else ""
        told.update(repr((point.name, point.value, version, *_files(point))).encode())
    return told.hexdigest()


def _files(point: EntryPoint) -> Iterator[tuple[str, int, int]]:
    """Those of the folder that a plug-in's module lies in: name, size and time of change."""
    try:
        module = importlib.util.find_spec(point.module)
    except Exception:  # a third party's package may fail in any way, and is asked again when it is imported
        return
    if module is not None and module.origin:
        for path in sorted(Path(module.origin).parent.rglob("*.py")):
            found = path.stat()
            yield str(path), found.st_size, found.st_mtime_ns


def _keep(path: Path, content: dict[str, Any]) -> None:
    """Written whole or not at all; where it cannot be, the classes are read again next time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(content, file)
        Path(file.name).replace(path)


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
