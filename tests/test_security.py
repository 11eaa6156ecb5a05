"""What lies on a disk is data: nothing that is read there is run, and no name leads to another place to write."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.presets import plain_yaml

ROOMS = ("benchmark", "datasets", "methods", "reports")
ROOT = Path(__file__).parents[1]
# How a call must be made that could otherwise run what it reads.
SAFE = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "open_memmap": ("allow_pickle", False),
}
NEVER = {"pickle.load", "pickle.loads", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Place, name and call of each call in the code."""
    for path in (file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def test_nothing_that_is_read_from_a_file_is_run() -> None:
    found = list(calls())
    assert len(found) > 1000
    for place, name, call in found:
        given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        assert name not in NEVER, place
        assert given.get("shell") in (None, False), place
        if name in SAFE:
            option, value = SAFE[name]
            assert given.get(option) is value, place
        if name == "yaml.load":  # _Scalars is a SafeLoader with fewer implicit types
            assert ast.unparse(call.args[1]) == "_Scalars", place


def test_yaml_makes_plain_values_only() -> None:
    with pytest.raises(Exception, match="could not determine a constructor"):
        plain_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("name", ["../outside", "a/b", "a\\b", "..", ".hidden", "", "x" * 200, "line\nbreak"])
def test_a_method_whose_name_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    lines = ("name, about = " + repr((name, "x")), "def stages(self): return ()")
    file.write_text("from voxbench.methods.base import Method\nclass Mine(Method):\n    " + "\n    ".join(lines))
    with pytest.raises(BenchError, match="is to name a folder"):
        registry.method_name(f"{file}:Mine")
