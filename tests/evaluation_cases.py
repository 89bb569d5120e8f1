"""What the evaluation and warp tests share: oblique grids, known maps, and SimpleITK images of
ours.
"""

import numpy as np
import SimpleITK
import torch
from scipy.spatial.transform import Rotation

from inrreg.core.grid import Grid
from inrreg.transforms import Affine, Transform

LPS = {2: np.diag([-1.0, -1.0]), 3: np.diag([-1.0, -1.0, 1.0])}


def oblique(shape, spacing, origin, degrees=(20.0, -35.0, 50.0)):
    """A rotated, anisotropic, off-centre grid of two or three axes; the first axis is flipped, so
    the direction is left-handed.
    """
    d = len(shape)
    rotation = (
        Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
        if d == 3
        else Rotation.from_euler("z", degrees[0], degrees=True).as_matrix()[:2, :2]
    )
    return Grid.from_spacing(shape, spacing, origin, rotation @ np.diag([-1.0] + [1.0] * (d - 1)))


def oblique_2d(shape=(17, 14)):
    return oblique(shape, (1.5, 0.8), (-30.0, 45.0))


def oblique_3d(shape=(12, 10, 9)):
    return oblique(shape, (1.5, 0.8, 2.5), (-30.0, 45.0, 120.0))


GRIDS = [oblique_2d(), oblique_3d()]


def affine_about(grid, seed=0, strength=0.2, shift=2.0):
    """A random affine map about the middle of ``grid``."""
    generator = np.random.default_rng(seed)
    d = grid.ndim
    return Affine.from_matrix(
        np.eye(d) + strength * generator.standard_normal((d, d)),
        shift * generator.standard_normal(d),
        grid.center,
    )


class Quadratic(Transform):
    """u_i(x) = (x - c)' Q_i (x - c) / 2 for symmetric Q_i: derivatives in closed form, central
    differences exact.
    """

    def __init__(self, center, q):
        super().__init__()
        self.center, self.q, self.ndim = torch.as_tensor(np.array(center)), q, len(center)

    def displacement(self, points):
        x = points - self.center.to(points.dtype)
        return 0.5 * torch.einsum("...j,ijk,...k->...i", x, self.q.to(points.dtype), x)

    def exact_jacobian(self, points):
        x = points - self.center.to(points.dtype)
        return torch.eye(self.ndim, dtype=points.dtype) + torch.einsum(
            "ijk,...k->...ij", self.q.to(points.dtype), x
        )

    def config(self):
        raise NotImplementedError

    from_config = classmethod(config)


def quadratic_about(grid, seed=1, strength=0.01):
    q = torch.randn(
        grid.ndim,
        grid.ndim,
        grid.ndim,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )
    return Quadratic(grid.center, strength * (q + q.transpose(1, 2)))


def sitk_image(array, grid):
    """An array in index order (i, j, k) as SimpleITK holds it: LPS, axes reversed."""
    flip = LPS[grid.ndim]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(np.asarray(array).T))
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin((flip @ grid.origin).tolist())
    image.SetDirection((flip @ grid.direction).ravel().tolist())
    return image


def sitk_affine(transform):
    """An affine transform of ours, in LPS."""
    d, flip, matrix = transform.ndim, LPS[transform.ndim], transform.homogeneous().numpy()
    result = SimpleITK.AffineTransform(d)
    result.SetMatrix((flip @ matrix[:d, :d] @ flip).ravel().tolist())
    result.SetTranslation((flip @ matrix[:d, d]).tolist())
    return result
