"""Finding methods, encoders and datasets by name: built-in and third-party ones come the same way, as entry points."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from voxbench.benchmark.settings.errors import BenchError, nearest
from voxbench.benchmark.settings.imports import followed
from voxbench.datasets.base import Dataset
from voxbench.methods.base import Encoder, Method

Kind = Literal["methods", "encoders", "datasets"]
_PLAIN = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99}")  # results lie in a folder of this name
_BASES: Mapping[Kind, type] = {"methods": Method, "encoders": Encoder, "datasets": Dataset}


@cache  # a grid asks for each of its cells, and reading what is installed takes milliseconds
def names(kind: Kind) -> Mapping[str, EntryPoint]:
    """Registered names, in alphabetical order."""
    return {point.name: point for point in sorted(entry_points(group=f"voxbench.{kind}"), key=lambda p: p.name)}


def load(kind: Kind, spec: str) -> Any:
    """The class registered as `spec`, or the one that ``path/to/file.py:Class`` names.

    Raises BenchError for an unknown name, a file that does not import, a class of another kind, or one whose own name
    cannot name a folder.
    """
    found = _from_file(kind, spec) if ".py:" in spec else _from_entry_point(kind, spec)
    base = _BASES[kind]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise BenchError(f"{spec}: this is not a subclass of voxbench's {base.__name__}")
    name = getattr(found, "name", None)
    if isinstance(name, str) and not _PLAIN.fullmatch(name):
        raise BenchError(f"{spec}: its name {name!r} is to name a folder: use no slash, and no dot to begin with")
    return found


def broken(kind: Kind) -> Mapping[str, str]:
    """Registered names that cannot be had, such as of a package without what it needs, and why."""
    why = {}
    for name in names(kind):
        try:
            load(kind, name)
        except BenchError as error:
            why[name] = str(error)
    return why


def method_name(spec: str) -> str:
    """The name under which results of `spec` are kept: a file's class says it itself."""
    if ".py:" not in spec:
        return spec
    found = load("methods", spec)
    if not isinstance(getattr(found, "name", None), str):
        raise BenchError(f"{spec}: the class needs a `name`, under which its results are kept")
    return str(found.name)


def source_digest(kind: Kind, spec: str) -> str | None:
    """A third party's class by its name and its file's hash, and its package's version. None: our own.

    A changed one gives other results, and so does a changed module that its file imports from beside it.
    """
    if ".py:" in spec:
        file, _, name = spec.rpartition(":")
        return " ".join([name, *map(file_digest, sources(Path(file)))])
    point = names(kind).get(spec)
    package = None if point is None else _package(kind, spec)
    if point is None or package is None or package[0] == "voxbench":
        return None
    module = importlib.util.find_spec(point.module)
    content: list[str] = []
    if module is not None and module.has_location and module.origin:
        content = [file_digest(path) for path in _of_package(Path(module.origin), point.module)]
    return " ".join([*package, point.value, *content])  # an editable package keeps its version


@cache  # each look reads and parses all that a package says of itself
def _package(kind: Kind, name: str) -> tuple[str, str] | None:
    """Name and version of the package that registers a plug-in."""
    package = names(kind)[name].dist
    return None if package is None else (package.name, package.version)


def sources(path: Path) -> tuple[Path, ...]:
    """A plug-in's file, and the files beside it that it imports."""
    return (path, *followed(path, path.resolve().parent))


def file_digest(path: Path) -> str:
    """Of a file's content: 16 hexadecimal digits of its SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _of_package(origin: Path, module: str) -> tuple[Path, ...]:
    """The file of an installed module, and those of its package that it imports."""
    depth = len(module.split(".")) - (origin.name != "__init__.py")
    return (origin, *followed(origin, origin.resolve().parents[depth], module.split(".")[0]))


def _from_entry_point(kind: Kind, name: str) -> Any:
    known = names(kind)
    if name not in known and name.endswith(".py"):
        raise BenchError(f"{name}: which class of this file is the {kind[:-1]}? Write {name}:CLASS")
    if name not in known:
        raise BenchError(f"no {kind[:-1]} is called {name!r}: {nearest(name, known)}")
    try:
        return known[name].load()
    except Exception as error:  # a third party's package may fail in any way
        raise BenchError(f"{kind[:-1]} {name!r} cannot be imported ({error}): install what it needs") from error


def _from_file(kind: Kind, spec: str) -> Any:
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise BenchError(f"{file}: no such file (given as {kind[:-1]} {spec!r})")
    # A stable module name lets worker processes and pickles find the class again.
    module_name = f"voxbench_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    module = sys.modules.get(module_name)
    if module is None:
        loader = importlib.util.spec_from_file_location(module_name, path)
        if loader is None or loader.loader is None:
            raise BenchError(f"{file}: not a Python file")
        module = importlib.util.module_from_spec(loader)
        sys.modules[module_name] = module
        try:
            with _neighbours(path):
                loader.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            if isinstance(error, BenchError):
                raise
            raise BenchError(f"{file}: importing it fails: {type(error).__name__}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module_name]
        classes = [value.__name__ for value in own if isinstance(value, type)]
        raise BenchError(f"{file} has no class {name!r}: {nearest(name, classes)}") from None


_folders: list[str] = []  # of plug-in files, at the end of sys.path


@contextmanager
def _neighbours(path: Path) -> Iterator[None]:
    """Lets a plug-in's file import those beside it, now and later; what is installed comes first, as always.

    Raises BenchError where a name means another module.
    """
    folder = path.resolve().parent
    beside = {file for file in sources(path)[1:] if file.parent == folder}
    for file in beside:  # another plug-in's neighbour of the same name
        loaded = _file_of(file.stem)
        if loaded is not None and loaded != file and str(loaded.parent) in _folders:
            del sys.modules[file.stem]
    sys.path[:] = [one for one in sys.path if one not in _folders]
    _folders[:] = [*(one for one in _folders if one != str(folder)), str(folder)]
    sys.path += reversed(_folders)  # the latest first
    importlib.invalidate_caches()
    yield
    for file in beside:
        loaded = _file_of(file.stem)
        if loaded is not None and loaded != file:
            raise BenchError(f"{path}: `import {file.stem}` gives {loaded}, not the file beside it: rename {file.name}")


def _file_of(module: str) -> Path | None:
    """Where a module that is loaded came from."""
    origin = getattr(sys.modules.get(module), "__file__", None)
    return None if origin is None else Path(origin).resolve()
