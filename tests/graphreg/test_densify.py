"""From scattered displacements to a map: scipy's radial functions as the oracle, fields that each
way must meet exactly, and outliers.
"""

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from worlds import Wave, oblique_grid

from graphreg import LeastSquaresSpline, NormalisedConvolution, ThinPlate
from graphreg.densify import Densifier, _constrained, radial_matrix, radial_sums, robust
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.transforms import BSpline
from inrreg.transforms.bspline import interpolating_spline


def scattered(grid: Grid, count: int, seed: int = 0, margin: float = 0.0) -> Tensor:
    """World points in single precision, ``margin`` of each axis away from the edge."""
    fraction = margin + (1 - 2 * margin) * torch.rand(
        count, grid.ndim, generator=torch.Generator().manual_seed(seed)
    )
    return grid.to_world(fraction * (torch.tensor(grid.shape) - 1))


def bumpy(points: Tensor) -> Tensor:
    """A few mm, different along each axis."""
    return torch.stack(
        [3 * Wave(points.shape[-1])(points + 9.0 * a) for a in range(points.shape[-1])], -1
    )


def affine(points: Tensor, grid: Grid) -> Tensor:
    """A displacement of some 2 mm that grows with the place."""
    d = grid.ndim
    gradient = torch.tensor(
        [[0.1, -0.05, 0.02], [0.03, -0.08, 0.06], [-0.04, 0.07, 0.12]],
        dtype=points.dtype,
        device=points.device,
    )[:d, :d]
    return (
        points - torch.as_tensor(grid.center, dtype=points.dtype, device=points.device)
    ) @ gradient.T + torch.tensor([1.5, -2.0, 0.5], dtype=points.dtype, device=points.device)[:d]


def knots_of(lattice: Grid) -> Tensor:
    return lattice.points().reshape(-1, lattice.ndim)


def at_knots(spline: BSpline) -> Tensor:
    """What the map does at the knots, ``[n, d]``."""
    return spline.displacement_on(spline.lattice).reshape(-1, spline.ndim).cpu()


def test_through_takes_the_values_at_the_knots(grid: Grid, device: torch.device) -> None:
    lattice = grid.covering(4.0, margin=1)
    values = torch.randn(*lattice.shape, grid.ndim, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    spline = interpolating_spline(values, lattice)
    torch.testing.assert_close(spline.displacement_on(lattice), values, rtol=0, atol=1e-5)
    # knots 100 mm off in single precision
    torch.testing.assert_close(
        spline.displacement(lattice.points().to(device)), values, rtol=0, atol=1e-3
    )
    assert not spline.coefficients.requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_thin_plate_equals_scipy(grid: Grid, smoothing: float, device: torch.device) -> None:
    """Trust included: a weight divides the smoothing of its keypoint."""
    lattice, points = grid.covering(3.0, margin=1), scattered(grid, 80)
    vectors, weights = bumpy(points), torch.linspace(0.1, 1.0, 80)
    kernel = "thin_plate_spline" if grid.ndim == 2 else "linear"
    oracle = RBFInterpolator(
        points.double(),
        vectors.double(),
        kernel=kernel,
        degree=1,
        smoothing=(smoothing / weights.double()).numpy(),
    )
    spline = ThinPlate(smoothing)(
        points.to(device), vectors.to(device), weights.to(device), lattice
    )
    expected = torch.from_numpy(oracle(knots_of(lattice).double().numpy()))
    # knots and values in single precision, and 1e-5 mm a knot
    torch.testing.assert_close(at_knots(spline).double(), expected, rtol=0, atol=2e-4)


def test_thin_plate_interpolates_to_a_micrometre_in_a_large_image(device: torch.device) -> None:
    for d in (2, 3):
        grid = Grid.from_spacing(
            (300, 280, 260)[:d], 1.0, oblique_grid(d).origin, oblique_grid(d).direction
        )
        points = scattered(grid, 800)
        vectors = bumpy(points)
        coefficients, center = ThinPlate(0.0).coefficients(
            points.to(device), vectors.to(device), torch.ones(800, device=device)
        )
        found = ThinPlate.evaluate(points.to(device), points.to(device), coefficients, center)
        torch.testing.assert_close(found.cpu(), vectors.double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(3, 2), (40, 2), (4, 3), (5, 3), (60, 3)])
def test_the_constrained_system_is_solved(n: int, d: int) -> None:
    """Against the whole system, of as few points as determine an affine part, and of more."""
    points = 100 * torch.rand(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    terms, values = (
        torch.cat([torch.ones_like(points[:, :1]), points - points.mean(0)], 1),
        torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    )
    matrix = radial_matrix(points) + torch.diag(torch.linspace(0.5, 3, n, dtype=torch.float64))
    whole = torch.zeros(n + d + 1, n + d + 1, dtype=torch.float64)
    whole[:n, :n], whole[:n, n:], whole[n:, :n] = matrix, terms, terms.T
    expected = torch.linalg.solve(
        whole, torch.cat([values, torch.zeros(d + 1, d, dtype=torch.float64)])
    )
    torch.testing.assert_close(
        _constrained(matrix.clone(), terms, values), expected, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_distances_equal_torchs(dtype: torch.dtype) -> None:
    at, points, coefficients = (
        torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        for n in (70, 33, 33 + 1)
    )
    coefficients, at[5] = coefficients[:33], points[7]
    expected = torch.cdist(
        torch.cat([at, points]), points, compute_mode="donot_use_mm_for_euclid_dist"
    )
    found = (
        radial_sums(at.to(dtype), points.to(dtype), coefficients.to(dtype)),
        radial_matrix(points.to(dtype)),
    )
    atol = 1e-12 if dtype == torch.float64 else 2e-5  # sums of 33 numbers of about 2
    torch.testing.assert_close(found[0].double(), -expected[:70] @ coefficients, rtol=0, atol=atol)
    torch.testing.assert_close(found[1].double(), -expected[70:], rtol=0, atol=atol)


def test_smoothing_yields_and_trust_resists(grid: Grid) -> None:
    points, vectors = scattered(grid, 60), bumpy(scattered(grid, 60))

    def residual(smoothing: float, weights: Tensor) -> Tensor:
        coefficients, center = ThinPlate(smoothing).coefficients(points, vectors, weights)
        return (ThinPlate.evaluate(points, points, coefficients, center) - vectors).norm(dim=1)

    mean = [float(residual(s, torch.ones(60)).mean()) for s in (0.0, 0.5, 5.0)]
    assert mean[0] < 1e-6 < mean[1] < mean[2]
    one = torch.full((60,), 0.2)
    one[7] = 1.0
    assert float(residual(5.0, one)[7]) < 0.7 * float(residual(5.0, torch.full((60,), 0.2))[7])


@pytest.mark.parametrize(
    "densifier", [ThinPlate(0.0), ThinPlate(20.0)], ids=["interpolating", "smoothing"]
)
def test_thin_plate_meets_an_affine_motion_everywhere(
    grid: Grid, densifier: ThinPlate, device: torch.device
) -> None:
    lattice = grid.covering(3.0, margin=2)
    weights = torch.linspace(0.1, 1.0, 40).to(device)
    for count in (40, grid.ndim + 1):  # as few as determine it
        points = scattered(grid, count, seed=2)
        spline = densifier(
            points.to(device), affine(points, grid).to(device), weights[:count], lattice
        )
        # vectors in single precision, extrapolated
        torch.testing.assert_close(
            at_knots(spline), affine(knots_of(lattice), grid), rtol=0, atol=2e-4
        )


def test_too_few_keypoints_and_coinciding_ones_are_refused(grid: Grid) -> None:
    d, lattice = grid.ndim, grid.covering(4.0)
    points = scattered(grid, d)
    with pytest.raises(InputError, match=rf"in {d}-D needs at least {d + 1} keypoints, got {d}"):
        ThinPlate()(points, points, torch.ones(d), lattice)
    twice = torch.cat([scattered(grid, 30)] * 2)
    with pytest.raises(InputError, match="keypoints at different places; give a smoothing above 0"):
        ThinPlate(0.0)(twice, bumpy(twice), torch.ones(60), lattice)
    spline = ThinPlate(1.0)(twice, affine(twice, grid), torch.ones(60), lattice)
    torch.testing.assert_close(at_knots(spline), affine(knots_of(lattice), grid), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [6, 60])
def test_keypoints_on_a_plane_or_line_are_refused(
    grid: Grid, count: int, device: torch.device
) -> None:
    """Singular, or worse, nearly so in single precision: a map of kilometres."""
    fraction = torch.rand(count, grid.ndim, generator=torch.Generator().manual_seed(1))
    flat = fraction * torch.tensor([1.0] * (grid.ndim - 1) + [0.0])
    straight = fraction[:, :1] * torch.tensor([1.0, 0.3, 0.2])[: grid.ndim]
    for points in (
        grid.to_world(f * (torch.tensor(grid.shape) - 1)).to(device) for f in (flat, straight)
    ):
        with pytest.raises(
            InputError, match=rf"the {count} keypoints of a thin-plate spline lie on one .*line"
        ):
            ThinPlate()(points, bumpy(points), torch.ones(count, device=device), grid.covering(4.0))


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("sigma_mm", [2.0, 10.0])
def test_normalised_convolution_reproduces_a_constant(
    count: int, sigma_mm: float, grid: Grid, device: torch.device
) -> None:
    """Everywhere, however far from the keypoints (a single one lies in a corner) and whatever their
    weights.
    """
    lattice = grid.covering(0.9, margin=2)
    points = grid.to_world(torch.zeros(1, grid.ndim)) if count == 1 else scattered(grid, count)
    constant = torch.tensor([1.5, -2.0, 4.0])[: grid.ndim]
    weights = torch.logspace(-3, 0, count).to(device)
    spline = NormalisedConvolution(sigma_mm)(
        points.to(device), constant.expand(count, -1).to(device), weights, lattice
    )
    torch.testing.assert_close(
        at_knots(spline), constant.expand(lattice.n_voxels, -1), rtol=0, atol=1e-4
    )


def test_normalised_convolution_is_the_weighted_mean_under_a_gaussian() -> None:
    """Keypoints on knots and a sigma of whole knots, against the sum from its definition."""
    lattice, sigma = oblique_grid(3).covering(1.5, margin=2), 3.0
    index = torch.randperm(lattice.n_voxels, generator=torch.Generator().manual_seed(1))[:60]
    points = knots_of(lattice).double()[index]
    vectors, weights = bumpy(points), torch.linspace(0.1, 1.0, 60, dtype=torch.float64)
    found = at_knots(
        NormalisedConvolution(sigma)(points.float(), vectors.float(), weights.float(), lattice)
    )
    # at the border the kernel is cut
    middle = (knots_of(lattice) - torch.as_tensor(lattice.center, dtype=torch.float32)).norm(
        dim=1
    ) < 4
    share = (
        torch.exp(-0.5 * (torch.cdist(knots_of(lattice).double()[middle], points) / sigma) ** 2)
        * weights
    )
    expected = share @ vectors / share.sum(1, keepdim=True)
    # 4e-3 of the kernel lies beyond the border, of vectors up to 9 mm
    torch.testing.assert_close(found[middle].double(), expected, rtol=0, atol=0.1)
    assert float(expected.std(0).min()) > 0.3


def test_least_squares_finds_the_spline_it_is_given(grid: Grid, device: torch.device) -> None:
    lattice = grid.covering(5.0, margin=1)
    truth = BSpline(lattice)
    with torch.no_grad():
        truth.coefficients.copy_(
            torch.randn(truth.coefficients.shape, generator=torch.Generator().manual_seed(3))
        )
        points = lattice.to_world(
            torch.rand(4000, grid.ndim, generator=torch.Generator().manual_seed(4))
            * (torch.tensor(lattice.shape) - 1)
        )
        vectors = truth.displacement(points)
    found = LeastSquaresSpline(bending=1e-9)(
        points.to(device), vectors.to(device), torch.linspace(0.1, 1, 4000).to(device), lattice
    )
    # corner knots are seen by few points
    torch.testing.assert_close(
        found.coefficients.cpu(), truth.coefficients.detach(), rtol=0, atol=0.02
    )
    torch.testing.assert_close(
        found.displacement(points.to(device)).cpu(), vectors, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("bending", [1.0, 50.0])
def test_least_squares_meets_an_affine_motion_whatever_the_bending(
    grid: Grid, bending: float, device: torch.device
) -> None:
    lattice, points = grid.covering(4.0, margin=2), scattered(grid, 40)
    spline = LeastSquaresSpline(bending)(
        points.to(device),
        affine(points, grid).to(device),
        torch.linspace(0.1, 1, 40).to(device),
        lattice,
    )
    inner = scattered(grid, 200, seed=1)
    # the ridge of 1e-10, the more the smaller the bending
    torch.testing.assert_close(
        spline.displacement(inner.to(device)).cpu(), affine(inner, grid), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        spline.coefficients.flatten(1).T.cpu(), affine(knots_of(lattice), grid), rtol=0, atol=0.01
    )


def test_bending_weighs_the_second_differences_per_millimetre() -> None:
    """The minimum against a dense solution of the stated problem on an anisotropic 2-D lattice."""
    lattice = Grid.from_spacing((7, 6), (4.0, 5.0), (-31.0, 47.0), oblique_grid(2).direction)
    points = lattice.to_world(
        1 + torch.rand(25, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 3.0])
    )
    vectors, weights = bumpy(points), torch.linspace(0.1, 1.0, 25)
    spline = BSpline(lattice).double()
    basis = np.zeros((25, 42))
    for k in range(42):
        with torch.no_grad():
            spline.coefficients.zero_()[0].view(-1)[k] = 1.0
            basis[:, k] = spline.displacement(points.double())[:, 0]
    unit = np.eye(42).reshape(42, 7, 6)
    second = [
        np.diff(unit, 2, axis=1) / 16,
        np.diff(unit, 2, axis=2) / 25,
        np.sqrt(2) * np.diff(np.diff(unit, axis=1), axis=2) / 20,
    ]
    rows = np.concatenate([np.sqrt(30.0 / 42) * s.reshape(42, -1).T for s in second])
    trust = np.sqrt(weights.double().numpy() / float(weights.sum()))[:, None]
    expected = np.linalg.lstsq(
        np.concatenate([trust * basis, rows]),
        np.concatenate([trust * vectors.double().numpy(), np.zeros((len(rows), 2))]),
        rcond=None,
    )[0]
    found = LeastSquaresSpline(30.0)(points, vectors, weights, lattice)
    # conjugate gradients, single precision
    np.testing.assert_allclose(found.coefficients.flatten(1).T, expected, atol=2e-3)


@pytest.mark.parametrize(
    "densifier",
    [ThinPlate(5.0), LeastSquaresSpline(50.0), NormalisedConvolution(4.0)],
    ids=["thin plate", "least squares", "convolution"],
)
def test_an_outlier_loses_its_say(grid: Grid, densifier: Densifier, device: torch.device) -> None:
    lattice, points, given = (
        grid.covering(4.0, margin=1),
        scattered(grid, 80, seed=6),
        torch.full((80,), 0.8),
    )
    clean = (
        affine(points, grid)
        if not isinstance(densifier, NormalisedConvolution)
        else torch.tensor([1.5, -2.0, 4.0])[: grid.ndim].expand(80, -1)
    )
    vectors = clean.clone()
    vectors[11] += 20.0
    plain = densifier(points.to(device), vectors.to(device), given.to(device), lattice)
    spline, used = robust(
        densifier, points.to(device), vectors.to(device), given.to(device), lattice, scale_mm=1.0
    )
    others = torch.arange(80) != 11
    assert float(used[11]) < 0.02 * 0.8
    assert float(used.cpu()[others].min()) > 0.5 * 0.8
    error = [
        float((s.displacement(points.to(device)).cpu() - clean)[others].norm(dim=1).mean())
        for s in (plain, spline)
    ]
    assert error[1] < 0.2 * error[0]


def test_weights_of_keypoints_that_the_map_meets_stay(grid: Grid) -> None:
    points, given = scattered(grid, 60), torch.linspace(0.1, 1.0, 60)
    _, used = robust(
        ThinPlate(1.0),
        points,
        affine(points, grid),
        given,
        grid.covering(4.0, margin=3),
        scale_mm=1.0,
    )
    # between knots near the border the spline is no affine map
    torch.testing.assert_close(used, given, rtol=0.02, atol=0)
