"""Files that are whole or absent, and claims that expire."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from voxbench.benchmark.records import store as store_module
from voxbench.benchmark.records.store import Store, read_json, write_json
from voxbench.benchmark.settings.errors import BenchError


def test_a_killed_writer_leaves_no_cut_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from voxbench.benchmark.records.store import write_json\n"
        "i = 0\n"
        "while True:\n"
        "    write_json(Path(sys.argv[1]) / f'{i % 5}.json', {'i': i, 'pad': 'x' * 200000}); i += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("?.json"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    files = list(tmp_path.glob("?.json"))
    assert len(files) == 5
    for file in files:
        assert len(json.loads(file.read_text())["pad"]) == 200000


def test_nan_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_json_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": ')
    with pytest.raises(BenchError, match=r"a\.json: not valid JSON .* delete the file"):
        read_json(path)


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path)
    module = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
    store.save_weights("k", "module", module.state_dict())
    loaded = store.load_weights("k", "module")
    assert all(torch.equal(loaded[key], value) for key, value in module.state_dict().items())


def test_a_claim_is_exclusive_until_released(tmp_path: Path) -> None:
    store = Store(tmp_path)
    claim = store.claim("k")
    assert claim is not None
    assert store.claim("k") is None
    claim.release()
    again = store.claim("k")
    assert again is not None
    again.release()


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from voxbench.benchmark.records.store import Store\n"
    code += "Store(Path(sys.argv[1])).claim('k'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "claims" / "k").exists()
    claim = Store(tmp_path).claim("k")
    assert claim is not None
    claim.release()


def test_a_claim_of_another_host_expires_when_not_kept_fresh(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "k"
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert Store(tmp_path).claim("k") is None
    old = time.time() - store_module.CLAIM_STALE_S - 1
    os.utime(path, (old, old))
    claim = Store(tmp_path).claim("k")
    assert claim is not None
    claim.release()


def test_private_files_are_the_owners_alone(tmp_path: Path) -> None:
    Store(tmp_path).write_private("ids.csv", "a")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "private" / "ids.csv").stat().st_mode & 0o777 == 0o600
