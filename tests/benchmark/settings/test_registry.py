"""What is registered: a package that cannot be imported costs its own method, and no other."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import MappingProxyType

import pytest
from rich.console import Console

from voxbench.benchmark.commands.run import Arguments, execute
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.errors import BenchError


@pytest.fixture
def with_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_package_of_voxbench:Broken", "voxbench.methods")
    known = {kind: registry.names(kind) for kind in ("methods", "encoders", "datasets")}  # type: ignore[arg-type]
    more = {**known, "methods": MappingProxyType({**known["methods"], "broken": broken})}
    monkeypatch.setattr(registry, "names", lambda kind: more[kind])


@pytest.mark.usefixtures("with_a_broken_one")
def test_all_leaves_out_what_cannot_be_imported_and_says_so(arguments: Callable[..., Arguments]) -> None:
    said = io.StringIO()
    assert execute(arguments(methods="all", dry_run=True), Console(file=said)) == 0
    assert "method 'broken' cannot be imported" in said.getvalue()
    assert said.getvalue().count("left out") >= 1
    assert "supervised" in said.getvalue()


@pytest.mark.usefixtures("with_a_broken_one")
def test_asked_for_by_name_it_is_an_error(arguments: Callable[..., Arguments]) -> None:
    with pytest.raises(BenchError, match=r"method 'broken' cannot be imported .*: install what it needs"):
        execute(arguments(methods="supervised,broken", dry_run=True), Console(quiet=True))
