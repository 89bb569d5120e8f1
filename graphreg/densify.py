"""From displacements at keypoints to a map: three ways, each gives a cubic B-spline over a lattice.

A densifier is a callable ``(points [n, d], vectors [n, d], weights [n], lattice) -> BSpline``, in
world mm; a weight says how far a keypoint is to be trusted, 1 fully. ``robust`` lowers the weight
of keypoints that the map does not follow.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.settings_checks import check_above_zero, check_not_negative
from inrreg.ops.distances import AT_ONCE, distances, weighted_distances
from inrreg.ops.sampling import smoothed
from inrreg.ops.separable import taps
from inrreg.transforms import BSpline
from inrreg.transforms.bspline import interpolating_spline


class Densifier(Protocol):
    """The map through (or near) displacements at scattered points."""

    def __call__(
        self,
        points: Float[Tensor, "n d"],
        vectors: Float[Tensor, "n d"],
        weights: Float[Tensor, " n"],
        lattice: Grid,
    ) -> BSpline: ...


@dataclass(frozen=True)
class ThinPlate:
    """A thin-plate spline (Bookstein, PAMI 1989; Rohr et al., IEEE TMI 2001), rendered on the
    lattice: the smoothest map within reach of all keypoints.

    The kernel is that of the bending energy: |r| in 3-D, r^2 log r in 2-D. ``smoothing`` 0
    interpolates; above, in mm, it is how much bending a fully trusted keypoint yields to. An affine
    motion is met exactly.

    Raises:
        InputError: when called, with fewer than d + 1 points, or with all of them on a line or
            plane.
    """

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        check_not_negative(self, "smoothing")

    def __call__(
        self,
        points: Float[Tensor, "n d"],
        vectors: Float[Tensor, "n d"],
        weights: Float[Tensor, " n"],
        lattice: Grid,
    ) -> BSpline:
        knots = lattice.points(device=points.device).reshape(-1, lattice.ndim)
        coefficients, center = self.coefficients(points, vectors, weights)
        values = self.evaluate(knots, points, coefficients, center)
        return interpolating_spline(values.float().reshape(*lattice.shape, lattice.ndim), lattice)

    def coefficients(
        self,
        points: Float[Tensor, "n d"],
        vectors: Float[Tensor, "n d"],
        weights: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, " d"]]:
        """One row a point, then those of the affine part about the centre, which is given too."""
        n, d = points.shape
        if n < d + 1:
            raise InputError(
                f"a thin-plate spline in {d}-D needs at least {d + 1} keypoints, got {n}"
            )
        x, center = points.double(), points.double().mean(0)
        if int(torch.linalg.matrix_rank(x - center, rtol=1e-5)) < d:
            raise InputError(
                f"the {n} keypoints of a thin-plate spline lie on one"
                f" {'plane or line' if d == 3 else 'line'}, which does not determine it; take other"
                " keypoints or NormalisedConvolution"
            )
        if self.smoothing == 0 and len(torch.unique(x, dim=0)) < n:
            raise InputError(
                "an interpolating thin-plate spline needs keypoints at different places; give a"
                " smoothing above 0"
            )
        matrix = radial_matrix(x)
        matrix.diagonal().add_(self.smoothing / weights.double().clamp(min=1e-6))
        return (
            _constrained(
                matrix, torch.cat([torch.ones_like(x[:, :1]), x - center], 1), vectors.double()
            ),
            center,
        )

    @staticmethod
    def evaluate(
        at: Float[Tensor, "k d"],
        points: Float[Tensor, "n d"],
        coefficients: Float[Tensor, "m d"],
        center: Float[Tensor, " d"],
    ) -> Float[Tensor, "k d"]:
        """The spline at world points, mm; in double precision, for the terms of far keypoints are
        large and cancel.
        """
        n = len(points)
        y, x = (p.double() - center for p in (at, points))
        return radial_sums(y, x, coefficients[:n]) + coefficients[n] + y @ coefficients[n + 1 :]


def kernel(distance: Tensor, ndim: int) -> Tensor:
    """The radial function of the bending energy, with the sign that makes the smoothed system
    definite.
    """
    return torch.special.xlogy(distance**2, distance) if ndim == 2 else -distance


def radial_matrix(points: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """The radial function of the distance of every two points."""
    matrix = distances(points)
    return matrix.neg_() if points.shape[1] == 3 else kernel(matrix, points.shape[1])


def radial_sums(
    at: Float[Tensor, "k d"], points: Float[Tensor, "n d"], coefficients: Float[Tensor, "n d"]
) -> Float[Tensor, "k d"]:
    """The sum over points of coefficient times radial function of the distance to each place
    ``at``.
    """
    if points.shape[1] == 3:
        return -weighted_distances(at, points, coefficients)
    return torch.cat(
        [
            kernel(torch.cdist(part, points), points.shape[1]) @ coefficients
            for part in at.split(max(1, AT_ONCE // len(points)))
        ]
    )


def _constrained(
    matrix: Float[Tensor, "n n"], terms: Float[Tensor, "n m"], values: Float[Tensor, "n d"]
) -> Float[Tensor, "k d"]:
    """c and a with matrix c + terms a = values and terms^T c = 0, one above the other; ``matrix``,
    definite where terms^T c = 0, is overwritten.

    Householder's reflections, Q = I - V H V^T and Q^T, turn the columns of ``terms`` into the first
    axes, and c has none of these: what is left of the matrix is definite, so that Cholesky's method
    solves it in half the operations that the whole, which is not, would take.
    """
    m = terms.shape[1]
    packed, scales = torch.geqrf(terms)
    v = packed.tril(-1) + torch.eye(*terms.shape, dtype=terms.dtype, device=terms.device)
    h = torch.diag(scales)
    for j in range(1, m):
        h[:j, j] = -scales[j] * (h[:j, :j] @ (v[:, :j].T @ v[:, j]))
    y = matrix @ v @ h
    w = y - 0.5 * v @ (h.T @ (v.T @ y))
    turned, right = (
        matrix.addmm_(torch.cat([w, v], 1), torch.cat([v, w], 1).T, alpha=-1),
        values - v @ (h.T @ (v.T @ values)),
    )
    inner = torch.cholesky_solve(right[m:], torch.linalg.cholesky(turned[m:, m:]))
    affine = torch.linalg.solve_triangular(
        packed[:m].triu(), right[:m] - turned[:m, m:] @ inner, upper=True
    )
    c = torch.cat([torch.zeros_like(values[:m]), inner])
    return torch.cat([c - v @ (h @ (v.T @ c)), affine])


@dataclass(frozen=True)
class NormalisedConvolution:
    """Displacements scattered onto the lattice, blurred by ``sigma_mm`` and divided by their
    blurred weights (Knutsson and Westin, CVPR 1993): quick, local, and flat where there is no
    keypoint.
    """

    sigma_mm: float = 10.0

    def __post_init__(self) -> None:
        check_above_zero(self, "sigma_mm")

    def __call__(
        self,
        points: Float[Tensor, "n d"],
        vectors: Float[Tensor, "n d"],
        weights: Float[Tensor, " n"],
        lattice: Grid,
    ) -> BSpline:
        d, shape = lattice.ndim, lattice.shape
        voxels = lattice.to_voxel(points)
        scattered = torch.zeros(d + 1, prod(shape), device=points.device)
        payload = torch.cat([vectors * weights[:, None], weights[:, None]], 1).T.float()
        for index, share in _corners(voxels, shape, order=1):
            scattered.index_add_(1, index, payload * share.float())
        blurred = Image(scattered.reshape(d + 1, *shape), lattice)
        fine = smoothed(blurred, self.sigma_mm).data
        # where no keypoint is near, what is known from afar
        wide = smoothed(blurred, float(lattice.extent.max()) / 4).data
        values = (fine[:d] + 1e-4 * wide[:d]) / (fine[d] + 1e-4 * wide[d]).clamp(min=1e-30)
        return interpolating_spline(values.movedim(0, -1), lattice)


@dataclass(frozen=True)
class LeastSquaresSpline:
    """The coefficients of least weighted mean of |spline - vector|^2 plus ``bending`` (mm^4) times
    the mean square of their second differences per mm^2 (Lee et al., IEEE TVCG 1997, with a
    penalty).

    The normal equations are sparse and solved by conjugate gradients.
    """

    bending: float = 50.0

    def __post_init__(self) -> None:
        check_not_negative(self, "bending")

    def __call__(
        self,
        points: Float[Tensor, "n d"],
        vectors: Float[Tensor, "n d"],
        weights: Float[Tensor, " n"],
        lattice: Grid,
    ) -> BSpline:
        from scipy.sparse import csr_array, identity
        from scipy.sparse.linalg import cg

        shape, n = lattice.shape, len(points)
        entries = list(_corners(lattice.to_voxel(points.double()), shape, order=3))
        columns, shares = (
            torch.stack(part, 1).cpu().numpy() for part in zip(*entries, strict=True)
        )
        basis = csr_array(
            (shares.reshape(-1), columns.reshape(-1), np.arange(n + 1) * columns.shape[1]),
            shape=(n, prod(shape)),
        )
        w = weights.cpu().double().numpy() / max(float(weights.sum()), 1e-12)
        matrix = (
            basis.T @ (basis * w[:, None])
            + self.bending / prod(shape) * _bending_matrix(lattice)
            + 1e-10 * identity(prod(shape))
        )
        right = basis.T @ (w[:, None] * vectors.cpu().double().numpy())
        solved = [cg(matrix, right[:, a], rtol=1e-8, maxiter=2000)[0] for a in range(lattice.ndim)]
        spline = BSpline(lattice).to(points.device)
        with torch.no_grad():
            spline.coefficients.copy_(torch.from_numpy(np.stack(solved).reshape(-1, *shape)))
        return spline.requires_grad_(False)


def robust(
    densifier: Densifier,
    points: Float[Tensor, "n d"],
    vectors: Float[Tensor, "n d"],
    weights: Float[Tensor, " n"],
    lattice: Grid,
    scale_mm: float,
    rounds: int = 2,
) -> tuple[BSpline, Float[Tensor, " n"]]:
    """The map with its outliers down-weighted, and the weights that were used last: 1 / (1 +
    (residual / scale)^2) times those given (Cauchy's weights; iteratively reweighted least
    squares).
    """
    spline, used = densifier(points, vectors, weights, lattice), weights
    for _ in range(rounds):
        residual = (spline.displacement(points) - vectors).norm(dim=1)
        used = weights / (1 + (residual / scale_mm) ** 2)
        spline = densifier(points, vectors, used, lattice)
    return spline, used


def _corners(
    voxels: Float[Tensor, "n d"], shape: tuple[int, ...], order: int
) -> list[tuple[Tensor, Tensor]]:
    """Flat lattice index and weight of each of the 2^d or 4^d knots around every point."""
    result = [
        (
            torch.zeros(len(voxels), dtype=torch.long, device=voxels.device),
            torch.ones(len(voxels), dtype=voxels.dtype, device=voxels.device),
        )
    ]
    for axis, n in enumerate(shape):
        indices, shares = taps(voxels[:, axis], n, order)
        result = [
            (index * n + i, share * s)
            for index, share in result
            for i, s in zip(indices, shares, strict=True)
        ]
    return result


def _bending_matrix(lattice: Grid) -> Any:
    """Sum over pairs of axes of the squared second difference of the coefficients, per mm^4, mixed
    ones counted twice; sparse.
    """
    from scipy.sparse import csr_array, kron

    def differences(n: int, h: float, order: int) -> Any:
        return csr_array(np.diff(np.eye(n), n=order, axis=0) / h**order)

    total: Any = 0
    d = lattice.ndim
    for a in range(d):
        for b in range(a, d):
            operator: Any = csr_array(np.eye(1))
            for axis, (n, h) in enumerate(zip(lattice.shape, lattice.spacing, strict=True)):
                operator = kron(
                    operator, differences(n, h, (axis == a) + (axis == b)), format="csr"
                )
            total = total + (1 if a == b else 2) * (operator.T @ operator)
    return total
