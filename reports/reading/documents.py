"""JSON and YAML files of a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from voxbench.reports.reading.results import ReportError


def read_json(path: Path, *, needed: bool) -> Any:
    """Its content; None where there is none and none is needed. Raises ReportError."""
    if not path.is_file():
        if needed:
            raise ReportError(f"{path}: not found; a run folder has one, `bench run --out` writes it")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: is no JSON ({error}); run the same `bench run` again to write it anew") from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Its settings. Raises ReportError."""
    if not path.is_file():
        raise ReportError(f"{path}: not found; a run folder has one, `bench run --out` writes it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ReportError(f"{path}: is no YAML ({line}); run the same `bench run` again to write it anew") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path}: holds no settings; run the same `bench run` again to write it anew")
    return content
