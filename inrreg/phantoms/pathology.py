"""Two images of one brain, of which the fixed one holds a lesion that has no counterpart, with the
map that made them.

A fixed point x shows the tissue that lay at ``origin(x)`` before the lesion, which the moving image
has at T(x) = background(origin(x)). The tissue of a cavity is absent from the fixed image and its
fluid from the moving one: T carries the cavity onto all that was removed. A tumour has taken the
place of what it grew from: T carries it onto that.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points
from inrreg.ops.sampling import linear, nearest, smoothed
from inrreg.phantoms.brain import FLUID, WHITE, Brain
from inrreg.phantoms.flows import Sampled, follow, random_flow
from inrreg.phantoms.landmark_pairs import distinctive_points
from inrreg.phantoms.lesion_pairs import Host, Lesion, Pathology
from inrreg.phantoms.scanner import Scanner
from inrreg.transforms import DenseDisplacement

_LENGTH_MM = 20.0
"""Over which the background motion changes."""
_SHIFT_VOXELS, _MARGIN_VOXELS = (0.31, 0.43, -0.37), 2
"""No voxel of the fixed grid falls on one of the moving grid."""
_OEDEMA = 0.1
"""Share from which on a voxel counts as oedema."""
_TYPICAL_SCANNER = Scanner()


@dataclass(frozen=True, eq=False)
class View:
    """One image of a pair, its brain ``mask`` (1 = "use this"), and where it is ``absent`` from the
    other: the non-correspondence, 1 = "has no counterpart", where ``labels`` are 0.
    """

    image: Image
    mask: LabelImage
    labels: LabelImage
    absent: LabelImage
    landmarks: Points


@dataclass(frozen=True, eq=False)
class PathologyPair:
    """Two views of one brain: ``truth`` maps fixed world points to moving ones and ``inverse``
    back, RAS mm, valid where tissue has a counterpart.

    ``lesion`` (1 cavity or core, 2 rim) and ``oedema`` (changed in intensity, not in place: it has
    a counterpart) lie on the grid of the image that holds the lesion. Landmarks are called ``near
    1`` ... (3 to 10 mm from the lesion's edge) and ``far 1`` ... (20 mm or more).
    """

    fixed: View
    moving: View
    truth: DenseDisplacement
    inverse: DenseDisplacement
    lesion: LabelImage
    oedema: LabelImage

    def swapped(self) -> Self:
        """The same images registered the other way: then the moving one holds the lesion."""
        return replace(
            self, fixed=self.moving, moving=self.fixed, truth=self.inverse, inverse=self.truth
        )

    @torch.no_grad()
    def inverse_residual(self) -> Float[Tensor, " n"]:
        """|truth(inverse(y)) - y| at the moving voxels that have a counterpart, mm."""
        y = self.moving.image.grid.points(torch.float64)[
            (self.moving.mask.data[0] > 0) & (self.moving.absent.data[0] == 0)
        ]
        return (self.truth(self.inverse(y)) - y).norm(dim=1)


def pathology_pair(
    brain: Brain,
    pathology: Pathology,
    seed: int = 0,
    spacing: float = 2.0,
    motion_mm: float = 4.0,
    scanner: Scanner = _TYPICAL_SCANNER,
    near: int = 30,
    far: int = 60,
) -> PathologyPair:
    """``brain`` as the moving image, and as the fixed one after a smooth random motion of
    ``motion_mm`` on average and with a lesion, each scanned on a grid of ``spacing`` mm.

    A slice of a brain, in 2-D, gives a 2-D pair: everything moves in its plane, and a lesion's
    volume is that of the ball whose middle section has its area.

    ``Healthy()`` gives a pair of pure deformation, with an empty lesion and landmarks that are all
    ``far``; with ``motion_mm=0`` nothing moves but what the lesion moves. The geometry depends on
    the seed and the brain's labels alone: ``t2_like(brain)`` with the same seed shows the same
    lesion in another contrast, with noise of its own.

    Raises:
        InputError: no such lesion fits into the brain, the motion is negative, or fewer landmarks
            can be placed than asked for.
    """
    for_motion, for_lesion, for_landmarks = np.random.default_rng(seed).spawn(3)
    for_fixed, for_moving = np.random.default_rng([seed, brain.contrast.stream]).spawn(2)
    motion = _Motion.draw(brain, _fixed_grid(brain, spacing), motion_mm, for_motion)
    lesion = pathology.grow(motion.host, for_lesion)
    before = motion.carried(lesion.origin)
    truth = DenseDisplacement(before - motion.host.points(), motion.host.grid, "cubic")
    inverse = motion.inverse(lesion, brain.image.grid.resampled(spacing))
    y = inverse.grid.points(torch.float64)
    present = lesion.parts > 0
    absent = _sampled(present, truth.grid, y + inverse.vectors.detach()) > 0.5
    anatomy, white = _anatomy(brain, spacing), brain.mean(WHITE)
    intact = anatomy(before)[..., 0]
    fixed_image = scanner(lesion.over(intact, brain.contrast.oedema), truth.grid, white, for_fixed)
    moving_image = scanner(anatomy(y)[..., 0], inverse.grid, white, for_moving)
    tissue = nearest(brain.tissue, before, 0)[0]
    marks = distinctive_points(
        tissue, present, (tissue > FLUID) & ~present, truth.grid, (near, far), for_landmarks
    )
    moved_marks = Points(truth(marks.coords).detach(), marks.labels)
    return PathologyPair(
        _view(fixed_image, brain, before, present, truth.grid, "fixed", marks),
        _view(moving_image, brain, y, absent, inverse.grid, "moving", moved_marks),
        truth,
        inverse,
        LabelImage.from_array(lesion.parts, truth.grid, "lesion"),
        LabelImage.from_array(lesion.oedema > _OEDEMA, truth.grid, "oedema"),
    )


def _sampled(
    region: Bool[Tensor, "*shape"], grid: Grid, points: Float[Tensor, "*sites d"]
) -> Float[Tensor, "*sites"]:
    """The share of ``region`` at world points by linear interpolation, 0 outside ``grid``."""
    return linear(Image(region[None].double(), grid), points, outside=0.0)[0]


@dataclass(frozen=True, eq=False)
class _Motion:
    """The background motion as displacements, ``there`` and ``back``, and the brain that it moves
    on the fixed grid.
    """

    host: Host
    there: Sampled
    back: Sampled

    @classmethod
    def draw(cls, brain: Brain, grid: Grid, motion_mm: float, rng: np.random.Generator) -> Self:
        """A random one that moves the head by ``motion_mm`` on average."""
        head = brain.image.grid.points(torch.float64)[brain.tissue.data[0] > 0]
        velocity = random_flow(grid, _LENGTH_MM, motion_mm, head, rng)
        there, back = _displacement(velocity, 1.0), _displacement(velocity, -1.0)
        before = grid.points(torch.float64) + there(grid.points(torch.float64))
        tissue, resectable = (
            nearest(numbers, before, 0)[0].long() for numbers in (brain.tissue, brain.resectable)
        )
        return cls(Host(brain, grid, tissue, resectable), there, back)

    def carried(self, points: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """Where the motion puts points that no lesion has moved."""
        return points + self.there(points)

    def inverse(self, lesion: Lesion, grid: Grid) -> DenseDisplacement:
        """Moving point -> fixed point on a moving ``grid``: both flows undone, not the sampled map
        solved.
        """
        y = grid.points(torch.float64)
        return DenseDisplacement(follow(lesion.push, y + self.back(y), -1.0) - y, grid, "cubic")


def _displacement(velocity: Sampled, time: float) -> Sampled:
    """What the flow of ``velocity`` does in ``time``, sampled where the velocity is."""
    points = velocity.grid.points(torch.float64)
    return Sampled.of(follow(velocity, points, time) - points, velocity.grid)


def _anatomy(brain: Brain, spacing: float) -> Sampled:
    """The brain's intensities everywhere, blurred as voxels of ``spacing`` mm blur them."""
    blur = 0.5 * np.sqrt(np.maximum(spacing**2 - brain.image.grid.spacing**2, 0))
    return Sampled.of(smoothed(brain.image, blur.tolist()).data.movedim(0, -1), brain.image.grid)


def _view(
    values: Tensor,
    brain: Brain,
    points: Float[Tensor, "*shape d"],
    absent: Tensor,
    grid: Grid,
    name: str,
    landmarks: Points,
) -> View:
    """What is seen on ``grid``, where ``points`` of the brain lie."""
    head, labels = nearest(brain.tissue, points, 0)[0] > 0, nearest(brain.labels, points, 0)[0]
    return View(
        Image.from_array(values, grid, name),
        LabelImage.from_array(head | absent, grid, f"{name} mask"),
        LabelImage.from_array(torch.where(absent, 0, labels), grid, f"{name} labels"),
        LabelImage.from_array(absent, grid, f"{name} absent"),
        landmarks,
    )


def _fixed_grid(brain: Brain, spacing: float) -> Grid:
    """A little larger than the brain's own, and between its voxels."""
    grid = brain.image.grid.covering(spacing, _MARGIN_VOXELS)
    affine = grid.affine.copy()
    affine[:-1, -1] += grid.matrix @ np.array(_SHIFT_VOXELS[: grid.ndim])
    return Grid(grid.shape, affine)
