"""One head for the contact sheet: three planes in the head's own axes, both boxes drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from voxbench.datasets.prepare.crop import Box
from voxbench.datasets.prepare.pyramid import Target
from voxbench.datasets.prepare.quality import Side, apply
from voxbench.datasets.prepare.volume import Grid, Matrix, nearest_rotation

PIXEL_MM = 1.1
PLANE_MM = (200.0, 250.0, 230.0)  # left-right, back-front, up: what a plane shows
COLOURS = {"left": (86, 180, 233), "right": (230, 159, 0)}  # Okabe and Ito: told apart by the colour-blind
REFUSED = (220, 50, 47)


@dataclass(frozen=True)
class Frame:
    """The head's axes in the scan's world: `centre` world mm, `axes` columns = right, front, up."""

    centre: Matrix
    axes: Matrix

    def world(self, points: Matrix) -> Matrix:
        """Head mm [..., 3] -> world mm."""
        return np.asarray(points @ self.axes.T + self.centre)

    def head(self, points: Matrix) -> Matrix:
        """World mm [..., 3] -> head mm."""
        return np.asarray((points - self.centre) @ self.axes)


def draw(grid: Grid, transform: Matrix, target: Target, boxes: Mapping[Side, Box], taken: Mapping[Side, bool]) -> bytes:
    """A JPEG: axial, coronal and, through each sinus, sagittal planes. A refused side's box is red and crossed."""
    middle = (target.points.min(axis=0) + target.points.max(axis=0)) / 2
    frame = Frame(apply(transform, middle[None])[0] - 0.0, nearest_rotation(transform[:3, :3]))
    corners = {side: frame.head(box.corners) for side, box in boxes.items()}
    centres = {side: c.mean(axis=0) for side, c in corners.items()}
    both = np.mean(list(centres.values()), axis=0)
    low, high = np.percentile(grid.data[grid.valid], (1, 99.5))
    planes: list[tuple[int, float, tuple[Side, ...]]] = [
        (2, float(both[2]), ("left", "right")),
        (1, float(both[1]), ("left", "right")),
        (0, float(centres["left"][0]), ("left",)),
        (0, float(centres["right"][0]), ("right",)),
    ]
    parts = []
    for axis, at, shown in planes:
        pixels = plane(grid, frame, axis, at)
        grey = np.clip((pixels - low) / (high - low), 0, 1) * 255
        image = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
        pen = ImageDraw.Draw(image)
        across, up = (a for a in range(3) if a != axis)
        for side in shown:
            mark(pen, corners[side][:, [across, up]], (across, up), side, taken=taken[side])
        parts.append(image)
    height = max(part.height for part in parts)
    sheet = Image.new("RGB", (sum(part.width for part in parts) + 4 * (len(parts) - 1), height))
    left = 0
    for part in parts:
        sheet.paste(part, (left, (height - part.height) // 2))
        left += part.width + 4
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def plane(grid: Grid, frame: Frame, axis: int, at: float) -> npt.NDArray[np.float32]:
    """One plane [rows, columns], the first row on top; what lies outside the scan is dark grey."""
    across, up = (a for a in range(3) if a != axis)
    columns = np.arange(-PLANE_MM[across] / 2, PLANE_MM[across] / 2, PIXEL_MM)
    rows = np.arange(PLANE_MM[up] / 2, -PLANE_MM[up] / 2, -PIXEL_MM)
    points = np.zeros((len(rows), len(columns), 3))
    points[..., axis] = at
    points[..., across] = columns[None, :]
    points[..., up] = rows[:, None]
    values, inside = grid.sample(frame.world(points).reshape(-1, 3))
    floor, top = np.percentile(grid.data, (1, 99))
    return np.where(inside, values, floor + 0.12 * (top - floor)).reshape(len(rows), len(columns)).astype(np.float32)


def mark(pen: ImageDraw.ImageDraw, corners: Matrix, axes: tuple[int, int], side: Side, *, taken: bool) -> None:
    """A box with its letter; [8, 2] head mm of its corners in this plane."""
    half = [PLANE_MM[axis] / 2 for axis in axes]
    low, high = corners.min(axis=0), corners.max(axis=0)
    x0, x1 = ((v + half[0]) / PIXEL_MM for v in (low[0], high[0]))
    y0, y1 = ((half[1] - v) / PIXEL_MM for v in (high[1], low[1]))
    colour = COLOURS[side] if taken else REFUSED
    pen.rectangle((x0, y0, x1, y1), outline=colour, width=2)
    if not taken:
        pen.line((x0, y0, x1, y1), fill=colour, width=1)
        pen.line((x0, y1, x1, y0), fill=colour, width=1)
    outer = x0 + 4 if side == "left" else x1 - 15  # the boxes overlap in the middle
    pen.text((outer, y0 + 2), side[0].upper(), fill=colour, font_size=16)
