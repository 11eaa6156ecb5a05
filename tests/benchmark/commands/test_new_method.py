"""`bench new-method`: a file that holds to the contract as it is written."""

from __future__ import annotations

from pathlib import Path

from ...conftest import Typed

ENCODER = f"{Path(__file__).parents[1] / 'checking' / 'encoders.py'}:Deaf"


def test_what_it_writes_passes_the_check(typed: Typed, cache: Path, tmp_path: Path) -> None:
    code, out, _ = typed("new-method", "my-method", "--folder", tmp_path)
    file = tmp_path / "my_method.py"
    assert code == 0 and f"bench check {file}:MyMethod" in out.replace("\n", "")
    assert len(file.read_text().splitlines()) < 60
    code, out, _ = typed("check", f"{file}:MyMethod", "--size", "16", "--encoder", ENCODER, "--cache", cache)
    assert code == 0, out
    assert "method my-method on encoder deaf" in out and "FAIL" not in out


def test_names_that_cannot_be_or_are_taken_are_refused(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "there.py").touch()
    for name, said in (("My", "is no name for a method"), ("simclr", "another method"), ("there", "is there already")):
        code, _, err = typed("new-method", name, "--folder", tmp_path)
        assert code == 2 and said in err and "Traceback" not in err
