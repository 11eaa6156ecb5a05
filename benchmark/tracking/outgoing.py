"""What may leave the machine: no patient or volume id (not even salted), no path, no host name."""

from __future__ import annotations

import base64
import csv
import html
import re
import shutil
import socket
from collections.abc import Iterable, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import escape

from voxbench.benchmark.records.store import read_json, write_text
from voxbench.benchmark.settings.errors import BenchError
from voxbench.reports.reading.redact import redact

GONE = "(left out)"
# Settings that hold places of files, by where in the configuration they stand: a method's own `out` is a number.
_PLACES = frozenset({"source", "root", "data_root", "cache"})
PRIVATE_SETTINGS = {"": frozenset({"sources"}), "dataset": _PLACES, "encoder": _PLACES}
TEXTS = frozenset({".html", ".svg", ".md", ".tex", ".csv", ".txt", ".json"})
PICTURES = frozenset({".png"})
SLICES = "examples-"  # in the names of plots that show volumes
NO_SLICES = "<p>(left out: slices of real volumes stay on the machine where they were drawn)</p>"

_EMBEDDED = re.compile(r"(data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+)")  # a picture inside a page is not text
_IMAGE = re.compile(r"<img\b[^>]*>")
_CODE = re.compile(r"\b[pv][0-9a-f]{12}\b")  # privacy.Coder
_STEP = r"[\w.@+-]+"
# Two folders deep at least, blanks only inside the path, nothing before it that makes it a URL, a tag or a fraction.
_PATH = re.compile(
    rf"(?<![\w/:.<>+=&-])(?:(?:/{_STEP}(?: {_STEP}){{0,3}}(?=/))+/[\w.@+-]{{2,}}/?|~(?:/{_STEP})+)"
    r"|\b[A-Za-z]:\\[^\s\"'<>|]+"
)
_WORD = re.compile(r"[A-Za-z0-9_.\-]*[A-Za-z0-9_]")
_ERROR_NAME = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?::|$)")


def public_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without the settings that hold places of files, and `without_paths`."""
    kept = {key: value for key, value in config.items() if key not in PRIVATE_SETTINGS[""]}
    for name in kept.keys() & PRIVATE_SETTINGS.keys():
        if isinstance(kept[name], Mapping):
            kept[name] = {key: value for key, value in kept[name].items() if key not in PRIVATE_SETTINGS[name]}
    if isinstance(kept.get("encoders"), Mapping):
        kept["encoders"] = {
            name: {key: value for key, value in one.items() if key not in _PLACES}
            for name, one in kept["encoders"].items()
        }
    return dict(without_paths(kept))


def without_paths(value: Any) -> Any:
    """A JSON-like value in which everything that looks like a path is left out."""
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str) and ("/" in value or "\\" in value or value.startswith("~")):
        return GONE
    return value


def error_name(record: Mapping[str, Any]) -> str:
    """The kind of error in a failed record. Its message stays at home: it may name a volume or a file."""
    lines = [line for line in str(record.get("traceback") or "").splitlines() if line and not line[0].isspace()]
    found = [match[1] for line in lines if (match := _ERROR_NAME.match(line)) and not line.startswith("Traceback")]
    return found[-1] if found else "Error"


class Redactor:
    """Takes out of a text what may not leave: messages of failed jobs, ids and codes, paths, this machine's name."""

    def __init__(self, run: Path) -> None:
        self.messages: dict[str, str] = {}
        for path in [*(run / "cells").glob("*/*.json"), *(run / "stages").glob("*/stage.json")]:
            try:
                record = read_json(path) or {}
            except BenchError:  # damaged: the pass over the records says so
                continue
            told = f"{error_name(record)} {GONE}"
            # A stage that came to its end has a message too where its slices could not be drawn.
            for key in ("traceback", "error", "showcase_error"):
                self.messages.update(dict.fromkeys(_forms(record.get(key)), told))
        self.words = _ids(run)
        host = socket.gethostname()
        self.words |= {host, host.partition(".")[0]} - {"", "localhost"}

    def text(self, text: str) -> str:
        """`text` without them; pictures embedded in it stay as they are."""
        parts = _EMBEDDED.split(text)
        return "".join(part if _EMBEDDED.fullmatch(part) else self._plain(part) for part in parts)

    def _plain(self, text: str) -> str:
        for message in sorted(self.messages, key=len, reverse=True):
            text = text.replace(message, self.messages[message])
        for pattern in (_CODE, _PATH):
            text = pattern.sub(GONE, text)
        text = _WORD.sub(lambda word: GONE if word[0] in self.words else word[0], text)
        for word in self.words:
            if not _WORD.fullmatch(word):
                text = text.replace(word, GONE)
        return text


def outgoing_report(run: Path, redactor: Redactor) -> list[Path]:
    """Copies ``RUN/report`` to ``RUN/wandb/report``, redacted, and returns the copies: they show what leaves.

    Slices of volumes are left out, also those inside the page, unless dataset.json says that a program made them.
    """
    source, target = run / "report", run / "wandb" / "report"
    shutil.rmtree(target, ignore_errors=True)
    real = (read_json(run / "dataset.json") or {}).get("real_images") is not False
    files = [path for path in sorted(source.rglob("*")) if not (real and SLICES in path.name)]
    plots = {base64.b64encode(path.read_bytes()).decode() for path in files if path.suffix == ".svg"}
    copies = []
    for path in files:
        copy = target / path.relative_to(source)
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            write_text(copy, redactor.text(_with_plots_only(text, plots) if real else text))
        elif path.suffix in PICTURES:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        else:
            continue
        copies.append(copy)
    return copies


def _with_plots_only(text: str, plots: Set[str]) -> str:
    """`text` without any embedded picture that is not one of `plots` (base64): what is not known stays at home."""

    def known(picture: str) -> bool:
        return picture.partition(";base64,")[2] in plots

    text = _IMAGE.sub(lambda tag: tag[0] if all(map(known, _EMBEDDED.findall(tag[0]))) else NO_SLICES, text)
    return _EMBEDDED.sub(lambda picture: picture[0] if known(picture[0]) else GONE, text)


def _forms(message: object) -> Iterable[str]:
    """A message as it may stand in a text or a page: whole, cut to one line, and as the report redacts it."""
    text = str(message or "").strip()
    plain = {text, " ".join(text.split()), repr(text)[1:-1]}
    plain |= {redact(form) for form in plain}
    escaped = {str(escape(form)) for form in plain} | {
        html.escape(form, quote=quote) for form in plain for quote in (False, True)
    }
    return {form for form in plain | escaped if len(form) >= 4}


def _ids(run: Path) -> set[str]:
    """Ids in ``private/ids.csv``. Those of a phantom name no person; bare numbers cannot be told from other numbers."""
    path = run / "private" / "ids.csv"
    if not path.exists() or (read_json(run / "dataset.json") or {}).get("is_phantom"):
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(map(partial(dict[str, str]), csv.DictReader(file)))
    found = {str(value) for row in rows for value in row.values()}
    return {value for value in found if len(value) >= 4 and not value.isdecimal()}
