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
    """Two views of one brain with the true map between them.

    ``truth`` maps fixed world points to moving ones, ``inverse`` moving to fixed, in RAS mm. Both
    are valid where tissue has a counterpart. ``lesion`` (1 cavity or core, 2 rim) and ``oedema`` (a
    change of intensity with a counterpart) lie on the grid of the image with the lesion. Landmarks
    ``near 1`` ... lie 3 to 10 mm from the lesion's edge, ``far 1`` ... 20 mm or more.
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
    """``brain`` as the moving image and, after a random motion and with a lesion, as the fixed.

    The motion is smooth and ``motion_mm`` on average. Each image has voxels of ``spacing`` mm. A
    2-D slice gives a 2-D pair; its lesion's volume is that of the ball with the same middle
    section.

    ``Healthy()`` gives an empty lesion and landmarks that are all ``far``. With ``motion_mm=0``
    only the lesion moves tissue. The geometry depends on the seed and the labels alone, so
    ``t2_like(brain)`` shows the same lesion in another contrast, with independent noise.

    Raises:
        InputError: no such lesion fits into the brain, the motion is negative, or fewer landmarks
            can be placed than asked for.
    """
    for_motion, for_lesion, for_landmarks = np.random.default_rng(seed).spawn(3)
    for_fixed, for_moving = np.random.default_rng([seed, brain.contrast.stream]).spawn(2)
    motion = _Motion.draw(brain, _fixed_grid(brain, spacing), motion_mm, for_motion)
    lesion = pathology.grow(motion.host, for_lesion)
    preimage = motion.to_brain(lesion.origin)
    truth = DenseDisplacement(preimage - motion.host.points(), motion.host.grid, "cubic")
    inverse = motion.inverse(lesion, brain.image.grid.resampled(spacing))
    present = lesion.parts > 0
    y = inverse.grid.points(torch.float64)
    anatomy, white = _anatomy(brain, spacing), brain.mean(WHITE)
    fixed_image = scanner(
        lesion.over(anatomy(preimage)[..., 0], brain.contrast.oedema), truth.grid, white, for_fixed
    )
    moving_image = scanner(anatomy(y)[..., 0], inverse.grid, white, for_moving)
    tissue = nearest(brain.tissue, preimage, 0)[0]
    marks = distinctive_points(
        tissue, present, (tissue > FLUID) & ~present, truth.grid, (near, far), for_landmarks
    )
    return PathologyPair(
        _view(fixed_image, brain, preimage, present, truth.grid, "fixed", marks),
        _view(
            moving_image,
            brain,
            y,
            _absent_in_moving(present, truth.grid, inverse),
            inverse.grid,
            "moving",
            Points(truth(marks.coords).detach(), marks.labels),
        ),
        truth,
        inverse,
        LabelImage.from_array(lesion.parts, truth.grid, "lesion"),
        LabelImage.from_array(lesion.oedema > _OEDEMA, truth.grid, "oedema"),
    )


def _absent_in_moving(
    present: Tensor, fixed_grid: Grid, inverse: DenseDisplacement
) -> Bool[Tensor, "*shape"]:
    """Moving voxels whose fixed point lies in the lesion; ``present`` is the lesion."""
    fixed_points = inverse.grid.points(torch.float64) + inverse.vectors.detach()
    lesion = Image(present[None].double(), fixed_grid)
    return linear(lesion, fixed_points, outside=0.0)[0] > 0.5


@dataclass(frozen=True, eq=False)
class _Motion:
    """The background motion as two displacements, and the moved brain on the fixed grid.

    ``forward`` maps fixed points to points of the brain, ``backward`` is its inverse.
    """

    host: Host
    forward: Sampled
    backward: Sampled

    @classmethod
    def draw(cls, brain: Brain, grid: Grid, motion_mm: float, rng: np.random.Generator) -> Self:
        """A random one that moves the head by ``motion_mm`` on average."""
        head = brain.image.grid.points(torch.float64)[brain.tissue.data[0] > 0]
        velocity = random_flow(grid, _LENGTH_MM, motion_mm, head, rng)
        forward = _displacement(velocity, 1.0)
        backward = _displacement(velocity, -1.0)
        preimage = grid.points(torch.float64) + forward(grid.points(torch.float64))
        tissue, resectable = (
            nearest(numbers, preimage, 0)[0].long() for numbers in (brain.tissue, brain.resectable)
        )
        return cls(Host(brain, grid, tissue, resectable), forward, backward)

    def to_brain(self, points: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """Points of the brain for fixed points that no lesion has moved."""
        return points + self.forward(points)

    def inverse(self, lesion: Lesion, grid: Grid) -> DenseDisplacement:
        """Moving point -> fixed point on a moving ``grid``.

        Both flows are integrated backwards; the sampled map is not inverted numerically.
        """
        y = grid.points(torch.float64)
        return DenseDisplacement(follow(lesion.push, y + self.backward(y), -1.0) - y, grid, "cubic")


def _displacement(velocity: Sampled, time: float) -> Sampled:
    """The displacement of the flow of ``velocity`` in ``time``, on the grid of the velocity."""
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
    """The view on ``grid`` whose voxels lie at ``points`` of the brain."""
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
