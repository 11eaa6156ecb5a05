"""What a plug-in's file imports from beside it: code that decides its results as much as its own does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def followed(path: Path, root: Path, package: str | None = None) -> tuple[Path, ...]:
    """The files below `root` that `path` imports, and those that they import, in a fixed order; `path` is not one.

    With `package`, only modules of that package are followed: beside it lies all else that is installed.
    """
    path, found, left = path.resolve(), set[Path](), [path.resolve()]
    while left:
        current = left.pop()
        for other in _imported(current, root.resolve(), package):
            if other != path and other not in found:
                found.add(other)
                left.append(other)
    return tuple(sorted(found))


def _imported(path: Path, root: Path, package: str | None) -> Iterator[Path]:
    stat = path.stat()
    for folder, name in _names(path, root, stat.st_mtime_ns, stat.st_size):
        if package is None or folder != root or name.split(".")[0] == package:
            yield from _files(folder, name)


@cache  # a grid asks for each of its cells
def _names(path: Path, root: Path, changed_ns: int, size: int) -> tuple[tuple[Path, str], ...]:
    """(folder, dotted name) of each import in a file; relative ones from the folder that they start in."""
    del changed_ns, size  # an edited file is read anew
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return ()  # importing it says so
    found: list[tuple[Path, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = root if node.level == 0 else path.parents[node.level - 1]
            base = f"{node.module}." if node.module else ""
            found += [(folder, f"{base}{alias.name}") for alias in node.names]
    return tuple(found)


def _files(folder: Path, name: str) -> Iterator[Path]:
    """The files that importing `name` runs: packages on the way, and the module; its last part may be no module."""
    for part in name.split("."):
        for file in (folder / f"{part}.py", folder / part / "__init__.py"):
            if file.is_file():
                yield file.resolve()
        folder = folder / part
