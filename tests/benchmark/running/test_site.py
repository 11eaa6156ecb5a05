"""A site's settings, and how a grid is cut into what the site allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxbench.benchmark.planning.plan import CellPlan, StagePlan
from voxbench.benchmark.running import slurm
from voxbench.benchmark.running.packs import packed
from voxbench.benchmark.running.queue import Task
from voxbench.benchmark.running.site import Site, site_settings
from voxbench.benchmark.settings.errors import BenchError

from ...conftest import Typed


def tasks(stages: int = 3, cells: int = 30, stage_effort: float = 100.0, cell_effort: float = 10.0) -> list[Task]:
    """Of one method with a prior stage and pretraining."""
    no: Any = ()
    made = []
    for number in range(stages):
        for index, name in enumerate(("prior", "pretrain")):
            job = StagePlan(
                key=f"{name}{number}", method="m", index=index, name=name, seed=0, fold=number, members=no, labels=no,
                upstream=(f"prior{number}",)[:index], volumes=1,
            )  # fmt: skip
            made.append(Task(job=job, after=job.upstream, effort=stage_effort))
    for number in range(cells):
        cell = CellPlan(
            key=f"c{number}", method="m", fraction=0.1, fold=0, seed=0, train=no, val=no, test=no,
            stages=("prior0", "pretrain0"), normals=no, replicate=0, hopeless=None,
        )  # fmt: skip
        made.append(Task(job=cell, after=cell.stages, effort=cell_effort))
    return made


def test_stages_stand_alone_and_short_cells_are_packed() -> None:
    arrays = packed(tasks(), Site(), limit=1000)
    assert [(array.what, len(array.packs)) for array in arrays] == [("m-prior", 3), ("m-pretrain", 3), ("m-cells", 3)]
    assert {len(pack) for pack in arrays[2].packs} == {10}
    assert [task.job.key for array in arrays for task in array.tasks if array.kind == "cells"] == [
        f"c{number}" for number in range(30)
    ]


def test_a_pack_that_is_asked_for_is_taken() -> None:
    assert len(packed(tasks(), Site(pack=4), limit=1000)[2].packs) == 8


def test_arrays_are_cut_at_the_limit_and_lose_nothing() -> None:
    arrays = packed(tasks(stages=5), Site(pack=1), limit=4)
    assert [len(array.packs) for array in arrays] == [4, 1, 4, 1, 4, 4, 4, 4, 4, 4, 4, 2]
    assert len({task.job.key for array in arrays for task in array.tasks}) == 40


@pytest.mark.parametrize("most", [4, 5, 8, 20])
def test_packs_grow_until_the_sites_limit_holds(most: int) -> None:
    arrays = packed(tasks(stages=20, cells=300), Site(max_jobs=most), limit=1000)
    assert sum(len(array.packs) for array in arrays) + 1 <= most
    assert len({task.job.key for array in arrays for task in array.tasks}) == 340


def test_a_limit_that_cannot_be_kept_is_said() -> None:
    with pytest.raises(BenchError, match="max_jobs=3: this grid needs 4 at least"):
        packed(tasks(), Site(max_jobs=3), limit=1000)


def test_settings_come_from_files_and_words_later_ones_winning(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("partition: gpu\ntime: 4:00:00\ngpus_per_node: 2\ncells: {mem: 8G}\n")
    site = Site(**site_settings([str(file), "gpus_per_node=1,account=lab", "stages.time=1-0,"]))
    both = {"partition": "gpu", "gpus_per_node": 1, "account": "lab"}
    assert site.parameters("cells") == {**both, "time": "4:00:00", "mem": "8G"}
    assert site.parameters("stages") == {**both, "time": "1-0"}
    assert site.parameters("collect") == {"partition": "gpu", "account": "lab", "time": "4:00:00"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such.yaml"], "not a readable YAML file"),
        (["partition=gpu,what"], "expected key=value"),
        (["pack=0"], r"pack: input should be greater than or equal to 1 \(given: 0\)"),
        (["dependency=afterok:1"], "voxbench sets it"),
        (["partion=gpu"], "did you mean partition"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(BenchError, match=message):
        slurm.check_here(site_settings(words))


def test_a_machine_without_slurm_is_told_before_anything_is_read(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, said = typed("run", "--executor", "slurm", "--out", tmp_path / "run")
    assert code == 2
    assert "there is no sbatch here: run it where you submit jobs of SLURM" in said
    code, _, said = typed("run", "--slurm", "partition=gpu", "--out", tmp_path / "run")
    assert code == 2
    assert "add --executor slurm" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59:30", 3570), ("1:00:00", 3600), ("2-01:00:05", 176405), ("0:45", 45), ("UNLIMITED", None), ("INVALID", None)],
)
def test_the_time_left_is_read_as_squeue_writes_it(
    text: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(slurm, "_ask", lambda *_: f"{text}\n")
    assert slurm.seconds_left() == seconds
