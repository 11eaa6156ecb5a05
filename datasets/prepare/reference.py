"""The reference head and the mean sinus centroids in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxbench.datasets.base import DatasetError
from voxbench.datasets.prepare.pyramid import STAGES_MM, Target, make_target
from voxbench.datasets.prepare.quality import SIDES, surroundings
from voxbench.datasets.prepare.volume import Matrix, box_corners, hash_file, read_volume, to_grid

# Mean centroids of the maxillary sinuses in MNI152 (RAS+ mm), left then right. The template ends at z = -72, within the
# sinus floor, so its own air has a higher centroid (about -62) than a whole sinus has.
MNI_CENTROIDS = ((-25.0, 38.0, -66.0), (25.0, 38.0, -66.0))
MNI_EDGES = np.array([[-93.0, -129.0, -75.0], [93.0, 94.0, 111.0]])  # RAS+ mm: between the 6th and 2009 generations
EDGE_TOLERANCE_MM = 12.0
MIN_TISSUE = 2000  # points of tissue on the lattice around a sinus: MNI152 has 4800, a wrong place far fewer
TEMPLATE = {
    "template": "MNI152NLin6Asym",
    "resolution": 2,
    "desc": None,
    "suffix": "T1w",
    "extension": "nii.gz",
}


@dataclass(frozen=True)
class Reference:
    """A head image and where its sinuses lie."""

    path: Path
    sha256: str
    centroids: tuple[tuple[float, float, float], tuple[float, float, float]]  # left, right; RAS+ mm
    name: str  # for records: never a path

    def target(self) -> Target:
        """Read it and make it ready for registration."""
        try:
            return make_target(to_grid(read_volume(self.path), STAGES_MM[-1]))
        except DatasetError as error:
            raise DatasetError(f"reference {self.path}: {error.message}") from error

    def check(self) -> None:
        """Raises DatasetError if it cannot be read, or shows no face where its sinuses should be."""
        target = self.target()
        for side, centroid in zip(SIDES, self.points(), strict=True):
            tissue = len(surroundings(target, centroid, side)[0])
            if tissue < MIN_TISSUE:
                raise DatasetError(
                    f"reference {self.path}: hardly any tissue around the {side} sinus at {centroid.tolist()}; "
                    "it must be a whole head with its face, and --centroids must be in its mm"
                )

    def points(self) -> Matrix:
        """The centroids [2, 3], left then right."""
        return np.array(self.centroids)


def find_reference(path: Path | None, centroids: str | None) -> Reference:
    """The user's reference with its centroids (those of MNI152 if it is one), or MNI152 through templateflow."""
    if path is None:
        if centroids is not None:
            raise DatasetError("--centroids belong to a head: give --reference too")
        found = fetch_template()
        return Reference(found, hash_file(found), MNI_CENTROIDS, "MNI152NLin6Asym")
    if not path.is_file():
        raise DatasetError(f"--reference {path}: there is no such file")
    if centroids is not None:
        return Reference(path, hash_file(path), parse_centroids(centroids), "user")
    if not is_mni152(path):
        raise DatasetError(
            f"--reference {path}: where its sinuses lie is not known (only MNI152 is, by the file's name and extent); "
            "add --centroids x,y,z/x,y,z in mm RAS+, left sinus, then right"
        )
    return Reference(path, hash_file(path), MNI_CENTROIDS, "MNI152")


def is_mni152(path: Path) -> bool:
    """Whether a file is an MNI152 template: it is called so, and its edges lie where those of all its releases lie."""
    if re.search("mni.*152", path.name, flags=re.IGNORECASE) is None:
        return False
    try:
        volume = read_volume(path)
    except DatasetError:
        return False  # what is wrong with the file is said when it is read in earnest
    corners = box_corners(volume.data.shape) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    edges = np.array([corners.min(axis=0), corners.max(axis=0)])
    return bool(np.abs(edges - MNI_EDGES).max() <= EDGE_TOLERANCE_MM)


def parse_centroids(
    text: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """ "x,y,z/x,y,z" in mm, the left sinus first."""
    number = r"\s*([-+]?\d+(?:\.\d+)?)\s*"
    found = re.fullmatch("/".join([",".join([number] * 3)] * 2), text)
    if found is None:
        raise DatasetError(f"--centroids {text}: write x,y,z/x,y,z in mm, e.g. -25,38,-66/25,38,-66")
    a, b, c, d, e, f = (float(v) for v in found.groups())
    if a >= d:
        raise DatasetError(f"--centroids {text}: the left sinus comes first, and x grows to the right (RAS+)")
    return (a, b, c), (d, e, f)


def fetch_template() -> Path:
    """MNI152 from templateflow's cache or its server."""
    remedy = "; or give --reference head.nii.gz --centroids x,y,z/x,y,z"
    try:
        from templateflow import api
    except ImportError as error:
        raise DatasetError(
            f"the built-in reference MNI152 needs templateflow: pip install templateflow{remedy}"
        ) from error
    try:
        found: Any = api.get(**TEMPLATE)
    except Exception as error:  # requests, S3 and cache errors have no common base
        raise DatasetError(
            f"templateflow could not fetch MNI152 ({type(error).__name__}); is there a network?{remedy}"
        ) from error
    paths = [Path(p) for p in (found if isinstance(found, list) else [found])]
    if len(paths) != 1 or not paths[0].is_file() or paths[0].stat().st_size == 0:
        raise DatasetError(f"templateflow has no complete MNI152 in its cache{remedy}")
    return paths[0]
