"""One optimisation of a transform: ITK's gradient descent on Mattes mutual information.

SimpleITK: one wheel for every platform without further dependencies, maintained by the ITK community, takes images in
memory, and is deterministic for a seed and one thread. ANTsPy has the same metric behind a heavier installation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)

from voxbench.datasets.prepare.pyramid import BINS, Pyramid, Target
from voxbench.datasets.prepare.volume import Array, Grid, Matrix, nearest_rotation


@dataclass(frozen=True)
class Pass:
    """How one optimisation is run."""

    level: int  # of the pyramids: 0 is 4 mm, 1 is 2 mm
    steps: int
    share: float  # of the voxels sampled


QUICK, MIDDLE, FINE = Pass(0, 50, 0.1), Pass(0, 100, 0.4), Pass(1, 60, 0.15)
SQUEEZED = 0.8  # smallest over largest principal stretch below which an affine map is not followed


def to_sitk(grid: Grid, data: Array | npt.NDArray[np.uint8]) -> sitk.Image:
    """`data` on the grid as an ITK image whose coordinates are the world's (RAS+; ITK itself does not mind which)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    image.SetSpacing((grid.step,) * 3)
    image.SetOrigin([float(v) for v in grid.origin])
    return image


class Best:
    """The best position that an optimisation visited, by what candidates are ranked by (`register.score`).

    ITK's descent takes its steps whether or not they gain; one too far, or off the scan, then costs nothing.
    """

    def __init__(self, method: sitk.ImageRegistrationMethod, start: tuple[float, ...]) -> None:
        self.method, self.here, self.kept, self.value = method, start, start, -np.inf
        method.AddCommand(sitk.sitkIterationEvent, self.look)

    def look(self) -> None:
        """After each step: the metric's value is of the position before it."""
        value = -self.method.GetMetricValue() * np.sqrt(self.method.GetMetricNumberOfValidPoints())
        if value > self.value:
            self.value, self.kept = value, self.here
        self.here = self.method.GetOptimizerPosition()


def optimise(
    reference: Grid,
    mask: npt.NDArray[np.bool_],
    scan: Grid,
    start: Matrix,
    *,
    affine: bool,
    steps: int,
    share: float,
    seed: int,
) -> Matrix:
    """One run of ITK's gradient descent on Mattes mutual information; returns the best transform on its way."""
    fixed, moving = to_sitk(reference, reference.data), to_sitk(scan, scan.data)
    centre = np.argwhere(mask).mean(axis=0) * reference.step + reference.origin
    model = to_model(start, centre, affine=affine)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(to_sitk(reference, mask.astype(np.uint8)))
    if not scan.valid.all():
        method.SetMetricMovingMask(to_sitk(scan, scan.valid.astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, seed + 1)  # 0 would mean: by the clock
    method.SetInterpolator(sitk.sitkLinear)
    # With gradients smoothed over the whole image, ITK's descent walked off a scan's cut edge from the right position.
    method.MetricUseMovingImageGradientFilterOff()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=0.02,
        numberOfIterations=steps,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(model, inPlace=True)
    best = Best(method, model.GetParameters())
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK: too few samples map into the scan; the candidate is worth nothing, not the head
        return start
    model.SetParameters(best.kept)
    return from_model(model, centre)


def to_model(start: Matrix, centre: Matrix, *, affine: bool) -> sitk.Transform:
    """ITK's transform about `centre` (reference mm); a similarity takes the nearest rotation and the mean stretch."""
    model: sitk.Transform
    if affine:
        model = sitk.AffineTransform(3)
        model.SetMatrix([float(v) for v in start[:3, :3].ravel()])
    else:
        model = sitk.Similarity3DTransform()
        nearest = nearest_rotation(start[:3, :3]) * np.cbrt(abs(np.linalg.det(start[:3, :3])))
        model.SetMatrix([float(v) for v in nearest.ravel()], 1e-4)
    model.SetCenter([float(v) for v in centre])
    model.SetTranslation([float(v) for v in start[:3, :3] @ centre + start[:3, 3] - centre])
    return model


def from_model(model: sitk.Transform, centre: Matrix) -> Matrix:
    """The [4, 4] of ITK's transform about `centre`."""
    result = np.eye(4)
    result[:3, :3] = np.array(model.GetMatrix()).reshape(3, 3)
    result[:3, 3] = centre + np.array(model.GetTranslation()) - result[:3, :3] @ centre
    return result


def descend(target: Target, scan: Pyramid, start: Matrix, how: Pass, *, affine: bool, seed: int) -> Matrix:
    """One optimisation at one level of both pyramids."""
    reference, near, grid = target.pyramid.levels[how.level], target.near[how.level], scan.levels[how.level]
    return optimise(reference, near, grid, start, affine=affine, steps=how.steps, share=how.share, seed=seed)


def careful(target: Target, scan: Pyramid, start: Matrix, seed: int) -> Matrix:
    """At 4 mm, first as a similarity, then as an affine map; the latter is dropped where it squeezes the head flat.

    Where a scan shows a part of the head only, an affine map may squeeze the reference into that part.
    """
    rigid = descend(target, scan, start, MIDDLE, affine=False, seed=seed)
    free = descend(target, scan, rigid, MIDDLE, affine=True, seed=seed)
    return rigid if is_squeezed(free) else free


def finish(target: Target, scan: Pyramid, start: Matrix, seed: int) -> Matrix:
    """At 2 mm as an affine map, or as a similarity where that squeezes the head."""
    free = descend(target, scan, start, FINE, affine=True, seed=seed)
    return descend(target, scan, start, FINE, affine=False, seed=seed) if is_squeezed(free) else free


def is_squeezed(transform: Matrix) -> bool:
    """Whether the head would be much shorter in one direction than in another."""
    stretches = np.linalg.svd(transform[:3, :3], compute_uv=False)
    return bool(stretches[2] < SQUEEZED * stretches[0])
