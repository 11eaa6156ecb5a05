"""Ways in which a scan of the same head may look otherwise: lying, cut, thick, spoilt; with the sinuses moved along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from voxbench.datasets.prepare.volume import Matrix, Volume, to_voxel

from . import heads

Change = Callable[[Volume, Matrix], Volume]  # scan and its sinus centroids [2, 3] -> scan


@dataclass(frozen=True)
class Variant:
    """One way."""

    change: Change
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)  # degrees about x, y, z: how the patient then lies
    scale: float = 1.0  # of the head: a child's, a giant's
    spoilt: bool = False  # refusing it is right

    def apply(self, volume: Volume, centroids: Matrix) -> tuple[Volume, Matrix]:
        """The changed scan and where its sinuses are."""
        made = heads.turned(self.change(volume, centroids), self.turn)
        size = np.diag([self.scale, self.scale, self.scale, 1.0])
        moved = centroids @ Rotation.from_euler("xyz", self.turn, degrees=True).as_matrix().T * self.scale
        return replace(made, affine=size @ made.affine), moved


def same(volume: Volume, _known: Matrix) -> Volume:
    """Nothing changed but how the patient lies."""
    return volume


def kept(volume: Volume, low: Matrix, high: Matrix, anchor: Matrix) -> Volume:
    """Only the voxels between two world places [3] as seen from `anchor`; infinite: up to the edge."""
    corners = np.where(np.isfinite([low, high]), [low, high], anchor)
    index = np.round(to_voxel(volume, corners))
    first = np.where(np.isfinite(low), np.maximum(index[0], 0), 0).astype(int)
    last = np.where(np.isfinite(high), np.minimum(index[1], volume.data.shape), volume.data.shape).astype(int)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return replace(
        volume, data=volume.data[tuple(slice(a, b) for a, b in zip(first, last, strict=True))], affine=affine
    )


def window(
    x: tuple[float, float] = (-np.inf, np.inf),
    y: tuple[float, float] = (-np.inf, np.inf),
    z: tuple[float, float] = (-np.inf, np.inf),
) -> Change:
    """Only so many mm around the middle of both sinuses were scanned."""
    box = np.array([x, y, z]).T

    def change(volume: Volume, known: Matrix) -> Volume:
        middle = known.mean(axis=0)
        return kept(volume, middle + box[0], middle + box[1], middle)

    return change


def through(volume: Volume, known: Matrix) -> Volume:
    """A sagittal edge through the right sinus: what lies further right was not scanned."""
    return kept(volume, np.full(3, -np.inf), np.array([known[1, 0], np.inf, np.inf]), known[1])


def slices(axis: int, mm: float) -> Change:
    """Slices of `mm` along one axis."""

    def change(volume: Volume, _known: Matrix) -> Volume:
        count = max(1, round(mm / volume.spacing[axis]))
        order = [a for a in range(3) if a != axis] + [axis]
        moved = replace(volume, data=volume.data.transpose(order), affine=volume.affine[:, [*order, 3]])
        thick = heads.thick(moved, count)
        back = list(np.argsort(order))
        return replace(thick, data=np.ascontiguousarray(thick.data.transpose(back)), affine=thick.affine[:, [*back, 3]])

    return change


def resampled(mm: float) -> Change:
    """Voxels of `mm` along all axes."""

    def change(volume: Volume, _known: Matrix) -> Volume:
        zoom = np.array(volume.spacing) / mm
        affine = volume.affine.copy()
        affine[:3, :3] = affine[:3, :3] / zoom
        affine[:3, 3] += affine[:3, :3] @ ((zoom - 1) / 2)
        shape = tuple(int(n) for n in np.array(volume.data.shape) * zoom)
        data = ndimage.affine_transform(volume.data, 1 / zoom, (1 / zoom - 1) / 2, shape, order=1, mode="nearest")
        return replace(volume, data=data, affine=affine)

    return change


def bias(volume: Volume, _known: Matrix) -> Volume:
    """A coil near the right front: three times as bright there as far from it."""
    d, h, w = (np.linspace(-1, 1, n) for n in volume.data.shape)
    field = np.exp(0.35 * (d[:, None, None] + h[None, :, None]) - 0.25 * w[None, None, :])
    return replace(volume, data=(volume.data * field).astype(np.float32))


def contrast(power: float) -> Change:
    """Values above the lowest raised to a power."""

    def change(volume: Volume, _known: Matrix) -> Volume:
        low, high = (float(v) for v in np.percentile(volume.data, (0, 99.9)))
        part = np.clip((volume.data - low) / (high - low), 0, 1.2)
        return replace(volume, data=(part**power * 1000).astype(np.float32))

    return change


def inverted(volume: Volume, _known: Matrix) -> Volume:
    """Bright tissue dark and dark tissue bright; air stays dark."""
    high = float(np.percentile(volume.data, 99.5))
    part = np.clip(volume.data / high, 0, 1)
    return replace(volume, data=(part * (1.15 - part) * 4 * 300).astype(np.float32))


def hounsfield(padding: float, shift: float = 0.0, radius: float = 0.0) -> Change:
    """Air at -1000 in a round field of view (mm; 0: none) shifted to the right, filled with `padding` around."""

    def change(volume: Volume, known: Matrix) -> Volume:
        data = volume.data * (1000.0 / float(np.percentile(volume.data, 75) or 1000)) - 1000
        if radius:
            place = heads.world(volume)
            middle = (place[0, 0, 0] + place[-1, -1, -1]) / 2
            far = np.hypot(place[..., 0] - known[:, 0].mean() - shift, place[..., 1] - middle[1]) > radius
            data = np.where(far, padding, data)
        return replace(volume, data=data.astype(np.float32), modality="ct")

    return change


def blurred_face(volume: Volume, known: Matrix) -> Volume:
    """Defaced by blurring: the face is still bright, but no face."""
    gone = heads.defaced(volume, known.mean(axis=0)).data != volume.data
    smooth = ndimage.gaussian_filter(volume.data, 15 / np.array(volume.spacing))
    return replace(volume, data=np.where(gone, smooth, volume.data))


def sheared(volume: Volume, known: Matrix) -> Volume:
    """Defaced by one slanting plane, from the brow to behind the chin."""
    place = heads.world(volume) - known.mean(axis=0)
    return replace(volume, data=np.where(place[..., 1] > 0.7 * place[..., 2] - 20, volume.data.min(), volume.data))


def scraped(volume: Volume, known: Matrix) -> Volume:
    """Only the skin of the face taken off: everything in front of the front wall of the sinuses."""
    place = heads.world(volume) - known.mean(axis=0)
    face = (place[..., 1] > 12) & (place[..., 2] < 25)
    return replace(volume, data=np.where(face, volume.data.min(), volume.data))


INF = np.inf
VARIANTS = {
    "plain": Variant(same),
    "on the left": Variant(same, (0.0, 90.0, 0.0)),
    "on the right": Variant(same, (0.0, -90.0, 0.0)),
    "looking up": Variant(same, (90.0, 0.0, 0.0)),
    "looking down": Variant(same, (-90.0, 0.0, 0.0)),
    "looking left": Variant(same, (0.0, 0.0, 90.0)),
    "oblique": Variant(same, (12.0, -8.0, 15.0)),
    "far turned": Variant(same, (35.0, -25.0, 50.0)),
    "turned about": Variant(same, (0.0, 0.0, 180.0), spoilt=True),
    "upside down": Variant(same, (0.0, 180.0, 0.0), spoilt=True),
    "through right sinus": Variant(through),
    "left half": Variant(window(x=(-INF, 0))),
    "left two thirds": Variant(window(x=(-INF, 35))),
    "cut at the centre": Variant(window(z=(0, INF))),
    "cut at the roof": Variant(window(z=(22, INF))),
    "cut above the sinus": Variant(window(z=(-INF, 25))),
    "sinus scan": Variant(window(z=(-35, 50))),
    "small sinus scan": Variant(window((-60, 60), (-60, 45), (-30, 45))),
    "cut in front": Variant(window(y=(-INF, 0))),
    "front half": Variant(window(y=(-50, INF))),
    "5 mm axial": Variant(slices(2, 5)),
    "5 mm sagittal": Variant(slices(0, 5)),
    "5 mm coronal": Variant(slices(1, 5)),
    "7 mm axial": Variant(slices(2, 7)),
    "0.4 mm": Variant(lambda v, k: resampled(0.4)(window((-75, 75), (-110, 60), (-50, 60))(v, k), k)),
    "bias": Variant(bias),
    "gamma 0.5": Variant(contrast(0.5)),
    "gamma 2": Variant(contrast(2.0)),
    "inverted": Variant(inverted),
    "noise": Variant(lambda v, _: heads.noisy(v, 0.1)),
    "table": Variant(lambda v, _: heads.with_table(v)),
    "HU": Variant(hounsfield(-1000)),
    "HU round": Variant(hounsfield(-2000, radius=115)),
    "HU round off-centre": Variant(hounsfield(-3024, shift=45, radius=95)),
    "small head": Variant(same, scale=0.8),
    "large head": Variant(same, scale=1.15),
    "defaced": Variant(lambda v, k: heads.defaced(v, k.mean(axis=0)), spoilt=True),
    "defaced by a plane": Variant(sheared, spoilt=True),
    "defaced by blurring": Variant(blurred_face, spoilt=True),
    "skin off": Variant(scraped, spoilt=True),
    "far turned sinus scan": Variant(window(z=(-35, 50)), (20.0, 60.0, 15.0)),
    "sinus scan on the left": Variant(window(z=(-35, 50)), (0.0, 90.0, 0.0)),
}
