"""Phantom findings in two real heads. Skipped where the heads are absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from voxbench.datasets.base import DatasetError
from voxbench.datasets.sinus.implant import SinusImplant, SinusImplantOptions

ROOT = Path(__file__).parents[3]
HEADS = Path(os.environ.get("VOXBENCH_TEST_DATA", ROOT.parent / "shared" / "data")) / "heads"
FILES = ("vtkjs-headsq-ct/headsq_ct.nii.gz", "fnndsc-adi/adi_T2w_axfse_half_inplane.nii.gz")
needs_heads = pytest.mark.skipif(not HEADS.is_dir(), reason=f"the real heads are not at {HEADS}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SinusImplant:
    root = tmp_path_factory.mktemp("heads")
    for name in (*FILES, "mni-reference/MNI152_T1_2mm.nii.gz"):
        shutil.copyfile(HEADS / name, root / Path(name).name)
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        made = SinusImplant(SinusImplantOptions(patients=12, pool_patients=2), root)
        made.items()
    return made


@needs_heads
def test_two_volumes_a_patient_and_findings_only_with_labels(data: SinusImplant) -> None:
    items = data.items()
    assert len(items) == 28
    assert {(i.label, i.finding == "normal") for i in items if i.label is not None} == {(0, True), (1, False)}
    assert all(i.finding is None for i in items if i.label is None)


@needs_heads
def test_a_finding_fills_air_and_leaves_the_rest(data: SinusImplant) -> None:
    for item in data.items()[:12]:
        volume, mask = data.read(item)[0], data.lesion_mask(item)
        assert mask is not None
        assert volume.shape == mask.shape == (32, 32, 32)
        assert volume.dtype == np.float32
        assert 0 <= volume.min() <= volume.max() <= 1
        assert mask.any() == (item.label == 1)
        if mask.any():
            bent, _ = data._bent(item)
            air = volume[(bent.cavity < -1) & ~mask]
            assert air.size < 50 or volume[mask].mean() > 1.5 * air.mean()
            assert bent.cavity[mask].max() < 1.8  # mm: nothing grows through the wall


@needs_heads
def test_variants_are_distinct_and_reproducible(data: SinusImplant) -> None:
    items = [i for i in data.items() if i.side == "left"]
    volumes = np.stack([data.read(i).ravel() for i in items])
    np.testing.assert_array_equal(volumes[0], data.read(items[0]).ravel())
    likeness = np.corrcoef(volumes) - np.eye(len(volumes))
    assert likeness.max() < 0.97
    assert data.fingerprint() == SinusImplant(data.options, data.root).fingerprint()


def test_heads_are_needed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--data-root"):
        SinusImplant(SinusImplantOptions(), None).items()
    with pytest.raises(DatasetError, match="no NIfTI heads"):
        SinusImplant(SinusImplantOptions(), tmp_path).items()
