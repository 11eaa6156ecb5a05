"""The anatomy of the sinus phantom: a left maxillary sinus and its surroundings, in mm, before any scanner.

Axes: x to the nose (medial), y to the face (anterior), z up; origin: the mean centre of the sinus.
Every structure is a signed distance (negative inside), painted over what lies beneath it with a soft edge a
voxel wide: a voxel holds the share of each tissue in it (partial volume), and a wall thinner than a voxel is
still there, fainter. The sizes are those of a typical adult; no patient and no atlas was used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]  # three numbers
Numbers = Sequence[float] | Vector

# name: (mean, spread between patients, spread between a patient's sides), in mm and degrees; a spread is one
# standard deviation
SHAPE: Mapping[str, tuple[float, float, float]] = {
    "scale": (1.0, 0.055, 0.015),  # of the whole head, a factor
    "pitch": (0.0, 3.0, 1.0),
    "roll": (0.0, 2.0, 1.0),
    "yaw": (0.0, 3.0, 1.0),
    "medial": (10.0, 1.2, 0.6),  # the six walls of the pyramid: distance from its centre
    "roof": (14.0, 1.5, 0.7),
    "floor": (14.0, 2.6, 1.1),
    "anterior": (12.5, 1.4, 0.7),
    "posterior": (12.0, 1.3, 0.6),
    "back": (16.5, 1.6, 0.7),
    "lateral": (13.5, 1.8, 0.9),
    "slant": (0.28, 0.10, 0.05),  # how far the lateral wall leans in towards the floor
    "roof_slope": (0.12, 0.07, 0.03),
    "rounding": (2.0, 0.35, 0.2),
    "bone": (1.3, 0.2, 0.1),
    "mucosa": (0.75, 0.2, 0.15),
    "waviness": (1.1, 0.25, 0.15),
    "inferior_turbinate": (3.3, 0.35, 0.55),  # swells and shrinks with the nasal cycle, one side at a time
    "middle_turbinate": (2.1, 0.3, 0.35),
    "concha": (0.6, 0.5, 0.4),  # radius of the air cell in the middle turbinate; below 0.5 there is none
    "septum": (24.0, 1.3, 0.0),
    "globe": (12.0, 0.4, 0.1),
    "globe_height": (29.0, 1.4, 0.5),
    "face": (24.5, 2.2, 0.4),  # from the centre of the sinus to the skin
    "palate": (-15.5, 1.4, 0.4),
    "muscle": (7.5, 0.8, 0.3),
    "root": (0.2, 1.0, 0.9),  # how far a tooth's root stands into the sinus
    "canal": (0.6, 0.7, 0.4),  # how far the canal of the infraorbital nerve hangs down from the roof
    "plate": (
        -1.2,
        1.6,
        1.6,
    ),  # height of a bony septum that stands on the sinus floor; below 0 there is none
    "plate_at": (0.0, 4.0, 2.0),
}

# signal relative to the brightest fat: (mean, standard deviation between patients, that is between scanners)
SIGNAL: Mapping[str, tuple[float, float]] = {
    "air": (0.03, 0.008),
    "bone": (0.07, 0.015),
    "marrow": (0.55, 0.08),
    "fat": (0.85, 0.08),
    "skin": (0.55, 0.06),
    "muscle": (0.33, 0.05),
    "mucosa": (0.72, 0.08),
    "vitreous": (0.22, 0.10),
    "tooth": (0.08, 0.02),
}


@dataclass(frozen=True)
class Anatomy:
    """A side without a finding: shape in mm, signal by tissue, and the waves of its smooth texture."""

    shape: Mapping[str, float]
    signal: Mapping[str, float]
    phases: Array  # [WAVES, 4]: three wave numbers (rad/mm) and a phase


@dataclass(frozen=True)
class Scene:
    """A painted side. All arrays are [D, H, W]."""

    signal: Array  # of everything, the air of the sinus included
    air: Array  # share of the voxel that is air of the sinus
    cavity: Array  # signed distance to the bony wall of the sinus in mm, negative inside
    texture: Array  # smooth noise of about unit spread


WAVES = 12


def draw_anatomy(patient: np.random.Generator, side: np.random.Generator) -> Anatomy:
    """An anatomy: the larger part is the patient's (and the scanner's), the smaller is the side's own."""
    common = {name: patient.normal() for name in SHAPE}
    signal = {name: max(mean + sd * patient.normal(), 0.01) for name, (mean, sd) in SIGNAL.items()}
    own = {name: side.normal() for name in SHAPE}
    shape = {
        name: mean + between * float(np.clip(common[name], -2.2, 2.2)) + within * float(np.clip(own[name], -2.2, 2.2))
        for name, (mean, between, within) in SHAPE.items()
    }
    shared, alone = (_waves(rng, WAVES // 2) for rng in (patient, side))
    return Anatomy(shape, signal, np.concatenate([shared, alone]))


def _waves(rng: np.random.Generator, count: int) -> Array:
    """Wave vectors of 14 to 45 mm wavelength and their phases, [count, 4]."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    number = 2 * np.pi / rng.uniform(14, 45, size=(count, 1))
    return np.concatenate([direction * number, rng.uniform(0, 2 * np.pi, (count, 1))], axis=1).astype(np.float32)


def soft(distance: npt.NDArray[np.floating], voxel: float) -> Array:
    """The share of a voxel that lies inside, from the signed distance of its centre (mm)."""
    return np.asarray(np.clip(0.5 - distance / voxel, 0.0, 1.0), np.float32)


def ellipsoid(grid: Sequence[Array], centre: Numbers, radii: Numbers) -> Array:
    """Signed distance to an ellipsoid, mm; exact for a sphere and near enough at the surface otherwise."""
    square = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
    return np.asarray((np.sqrt(square) - 1.0) * min(radii), np.float32)


class Canvas:
    """Signal that structures are painted over, one after another."""

    def __init__(self, background: Array, voxel: float) -> None:
        self.signal = background
        self.voxel = voxel

    def paint(self, distance: npt.NDArray[np.floating], value: Array | float) -> None:
        """Paint the inside of a signed distance."""
        self.blend(soft(distance, self.voxel), value)

    def blend(self, share: Array, value: Array | float) -> None:
        """Paint a share of each voxel."""
        self.signal = self.signal + share * (value - self.signal)


def paint_side(anatomy: Anatomy, grid: Sequence[Array], voxel: float) -> Scene:
    """The side without a finding. `grid` holds x, y and z of the voxels' centres in mm, each [D, H, W]."""
    x, y, z = _pose(grid, anatomy.shape)
    waves = [np.sin(k[0] * x + k[1] * y + k[2] * z + k[3]) for k in anatomy.phases]
    texture = (sum(waves[1:], waves[0]) / np.sqrt(WAVES / 2)).astype(np.float32)
    bend = anatomy.shape["waviness"]
    warped = [axis + bend * 0.6 * (waves[i] + waves[WAVES // 2 + i]) for i, axis in enumerate((x, y, z))]

    canvas = Canvas(anatomy.signal["fat"] * (1.0 + 0.07 * texture), voxel)
    cavity = _cavity(anatomy, warped)
    _paint_face_and_back(canvas, anatomy, warped, texture)
    _paint_orbit(canvas, anatomy, warped)
    _paint_mouth(canvas, anatomy, warped, texture)
    _paint_nose(canvas, anatomy, warped, waves)
    air = _paint_sinus(canvas, anatomy, warped, cavity, texture)
    return Scene(canvas.signal, air, cavity, texture)


def _pose(grid: Sequence[Array], shape: Mapping[str, float]) -> list[Array]:
    """Coordinates in the anatomy's own frame: what is left of the head's size and tilt after registration."""
    a, b, c = (np.deg2rad(shape[name]) for name in ("pitch", "roll", "yaw"))
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = (turn_x @ turn_y @ turn_z / shape["scale"]).astype(np.float32)
    return [row[0] * grid[0] + row[1] * grid[1] + row[2] * grid[2] for row in matrix]


def _cavity(anatomy: Anatomy, grid: Sequence[Array]) -> Array:
    """Signed distance to the sinus: a pyramid, its base on the nose and its apex towards the cheekbone."""
    s = anatomy.shape
    x, y, z = grid
    walls = [
        x + 0.06 * z - s["medial"],
        z - s["roof_slope"] * (x + 0.6 * y) - s["roof"],  # the orbit's floor falls towards the face and the side
        -z - 0.1 * x - s["floor"],
        0.83 * y - 0.55 * x + 0.05 * z - s["anterior"],
        -0.70 * x - 0.71 * y + 0.1 * z - s["posterior"],
        -y + 0.1 * x - s["back"],
        -0.94 * x - s["slant"] * z - s["lateral"],
    ]
    # A smooth maximum rounds the edges between the walls.
    top = np.maximum.reduce(walls)
    total = sum(np.exp((wall - top) / s["rounding"]) for wall in walls)
    pyramid = top + s["rounding"] * np.log(total)
    root = ellipsoid(grid, (0.0, 2.0, -s["floor"] - 2.0 + s["root"]), (4.0, 4.0, 5.0))
    canal = ellipsoid(grid, (-2.0, 3.0, s["roof"] + 1.0 - s["canal"]), (2.2, 9.0, 2.2))
    return np.asarray(np.maximum.reduce([pyramid, -root, -canal]), np.float32)


def _paint_face_and_back(canvas: Canvas, anatomy: Anatomy, grid: Sequence[Array], texture: Array) -> None:
    """Cheekbone, muscles of the face and of chewing, skin, and the air in front of the face."""
    s, t = anatomy.shape, anatomy.signal
    x, y, z = grid
    muscle = t["muscle"] * (1.0 + 0.12 * texture)
    for centre, radii in (
        ((-4.0, 20.0, -3.0), (7.0, 1.6, 9.0)),  # levator of the lip
        ((-22.0, -12.0, 0.0), (s["muscle"] - 1.5, 9.0, 22.0)),  # temporal muscle and masseter
        ((-5.0, -27.0, -6.0), (s["muscle"] + 3.0, s["muscle"], 13.0)),  # lateral pterygoid
        ((9.0, -27.0, -12.0), (4.0, 7.0, 12.0)),  # medial pterygoid
    ):
        canvas.paint(ellipsoid(grid, centre, radii), muscle)
    cheekbone = ellipsoid(grid, (-21.5, 9.0, 8.0), (7.0, 6.0, 8.0))
    canvas.paint(cheekbone, t["bone"])
    canvas.paint(cheekbone + 1.8, t["marrow"])
    canvas.paint(ellipsoid(grid, (-25.5, -17.0, -4.0), (2.0, 4.5, 20.0)), t["bone"])  # ramus of the mandible
    canvas.paint(ellipsoid(grid, (6.0, -21.5, 4.0), (1.4, 1.4, 9.0)), t["bone"])  # vessels: flow void
    front = 0.90 * y - 0.40 * x - 0.12 * z - s["face"]
    canvas.paint(-front - 2.0, t["skin"])
    canvas.paint(-front, t["air"])


def _paint_orbit(canvas: Canvas, anatomy: Anatomy, grid: Sequence[Array]) -> None:
    """Globe and inferior rectus in the fat above the sinus."""
    s, t = anatomy.shape, anatomy.signal
    globe = ellipsoid(grid, (-3.0, 10.0, s["globe_height"]), (s["globe"],) * 3)
    canvas.paint(globe, t["muscle"])
    canvas.paint(globe + 1.2, t["vitreous"])
    canvas.paint(ellipsoid(grid, (-1.0, -6.0, s["roof"] + 5.5), (4.0, 15.0, 1.7)), t["muscle"])


def _paint_mouth(canvas: Canvas, anatomy: Anatomy, grid: Sequence[Array], texture: Array) -> None:
    """Alveolar process with molar roots below the sinus, hard palate, and the mouth under it."""
    s, t = anatomy.shape, anatomy.signal
    x, y, z = grid
    alveolar = np.maximum(ellipsoid(grid, (-1.0, 0.0, -s["floor"] - 9.0), (9.0, 24.0, 10.0)), -x - 12.0)
    canvas.paint(alveolar, t["bone"])
    canvas.paint(alveolar + 1.5, t["marrow"] * (1.0 + 0.12 * texture))
    for front in (-9.0, 2.0, 12.0):
        canvas.paint(ellipsoid(grid, (0.0, front, -s["floor"] - 8.0), (2.6, 3.2, 7.0)), t["tooth"])
    mouth = np.maximum.reduce([z - s["palate"], 10.0 - x, y - 18.0])
    canvas.paint(mouth, t["muscle"] * (1.0 + 0.12 * texture))
    palate = np.maximum(np.abs(z - s["palate"] - 0.8) - 1.6, 9.0 - x)
    canvas.paint(palate, t["bone"])
    canvas.paint(palate + 1.1, t["marrow"])


def _paint_nose(canvas: Canvas, anatomy: Anatomy, grid: Sequence[Array], waves: Sequence[Array]) -> None:
    """Nasal cavity with its septum, turbinates and lining, and the ethmoid cells above it."""
    s, t = anatomy.shape, anatomy.signal
    x, y, z = grid
    wall = s["medial"] + 1.9
    lining = t["mucosa"] * (1.0 + 0.1 * waves[3])
    nose = np.maximum.reduce([wall - x - 0.06 * z, s["palate"] + 2.4 - z, z - 24.0, np.abs(y) - 24.0])
    canvas.paint(nose - 1.0, t["bone"])
    canvas.paint(nose, lining)
    canvas.paint(nose + 0.9, t["air"])
    cells = np.abs(np.sin(y / 2.9 + waves[4])) * 3.0 - 0.9  # thin plates with their lining, some 9 mm apart
    ethmoid = np.maximum.reduce([10.0 - z + 0.2 * y, wall - 3.0 - x, x - s["septum"] + 4.0, np.abs(y) - 20.0])
    canvas.paint(ethmoid - 0.8, lining * 0.6)
    canvas.paint(np.maximum(ethmoid, -cells), t["air"])
    divide = np.abs(x - s["septum"] - 0.8 * waves[5])
    canvas.paint(divide - 1.9, lining)
    canvas.paint(divide - 0.7, t["bone"] + 0.15)
    inferior = s["inferior_turbinate"]
    at = wall + 2.2 + 0.5 * inferior
    middle = s["middle_turbinate"]
    for centre, radii in (
        ((at, -1.0, -8.0), (inferior, 17.0, 5.2)),
        ((at - 1.2, -1.0, -4.6), (1.6 + 0.3 * inferior, 15.0, 2.0)),  # its root on the wall
        ((wall + 4.8, -4.0, 5.0), (middle, 13.0, 5.5)),
    ):
        canvas.paint(ellipsoid(grid, centre, radii), lining)
    canvas.paint(ellipsoid(grid, (at - 0.3, -1.0, -8.0), (0.9, 14.0, 3.4)), t["mucosa"] * 0.45)  # its bone
    if s["concha"] > 0.5:
        canvas.paint(ellipsoid(grid, (wall + 4.8, -4.0, 5.5), (s["concha"], 5.0, 2.8)), t["air"])


def _paint_sinus(canvas: Canvas, anatomy: Anatomy, grid: Sequence[Array], cavity: Array, texture: Array) -> Array:
    """Bone shell, mucosa, and air with or without a bony plate in it; returns the share of air, [D, H, W]."""
    s, t = anatomy.shape, anatomy.signal
    canvas.paint(cavity - max(s["bone"], 0.7), t["bone"])
    # The lining of a healthy sinus is uneven too, and thicker on the floor: thickness alone does not tell.
    thickness = np.clip(s["mucosa"] * (1.0 + 0.45 * texture - 0.015 * grid[2]), 0.15, 1.9)
    canvas.paint(cavity, t["mucosa"] * (1.0 + 0.06 * texture))
    air = soft(cavity + thickness, canvas.voxel)
    if s["plate"] > 0:
        height = grid[2] + s["floor"] - 2.5 * s["plate"] - 1.5
        plate = np.maximum(np.abs(grid[1] - s["plate_at"] + 0.3 * grid[0]) - 0.9, height)
        air = air * (1.0 - soft(plate, canvas.voxel))
        canvas.blend(soft(np.maximum(cavity, plate), canvas.voxel), 0.6 * t["mucosa"])
    canvas.blend(air, t["air"])
    return air
