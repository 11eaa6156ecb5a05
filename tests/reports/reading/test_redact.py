"""What a machine wrote, without what names a person, a place or a machine."""

import pytest

from voxbench.reports.reading.redact import facts, redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OSError: /data/Miller, Ann/head.nii.gz: truncated", "OSError: <path>, <file>: truncated"),
        ("cannot read 'C:\\Users\\ann\\scan.npy'", "cannot read '<file>'"),
        ("ann@ward7.example.org saw https://host/x?y", "<address> saw <address>"),
        ("~/scans is empty", "<path> is empty"),
        ("miller.nii is 4D", "<file> is 4D"),
        ("loss is nan at step 3/40, lr 1e-3", "loss is nan at step 3/40, lr 1e-3"),
        ("results.csv and predictions.csv differ", "results.csv and predictions.csv differ"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_facts_leave_out_who_and_where() -> None:
    record = {
        "host": "ward7",
        "user": "ann",
        "packages": {"torch": "2.15", "none": None},
        "data_root": "x",
        "n": [1, 2],
    }
    assert facts(record) == [("packages.torch", "2.15"), ("n", "1, 2")]
