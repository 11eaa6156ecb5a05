"""Copies of plug-in files in the run folder: results can be made again when the originals have changed or are gone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from voxbench.benchmark.records.store import Store
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.registry import sources
from voxbench.datasets.files import write_whole

FOLDER = "plugins"


def keep_plugins(store: Store, config: Config) -> None:
    """Copies each file that a class of this run comes from, with those beside it that it imports."""
    for path in _files(config):
        origin = path.resolve().parent
        for file in sources(path):
            content = file.read_bytes()
            target = store.root / FOLDER / path.stem / file.resolve().relative_to(origin)
            write_whole(target, lambda out, content=content: out.write(content))  # type: ignore[misc]


def _files(config: Config) -> Iterable[Path]:
    plugins = (config.dataset, config.encoder, *config.encoders.values())
    specs = [*config.sources.values(), *(plugin.spec for plugin in plugins)]
    return dict.fromkeys(Path(spec.rpartition(":")[0]) for spec in specs if ".py:" in spec)
