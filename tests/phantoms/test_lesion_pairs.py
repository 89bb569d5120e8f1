"""The parts of a brain phantom: flows that undo themselves, elastic tissue, lesions of the asked
size, scanners, heads.
"""

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.ndimage import label
from torch import Tensor
from worlds import oblique

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import LabelImage
from inrreg.phantoms import Brain, Resection, Tumour, synthetic_brain, t2_like
from inrreg.phantoms.brain import FLUID, GREY, WHITE
from inrreg.phantoms.elastic import outward
from inrreg.phantoms.ellipsoids import LARGEST_CM3, SMALLEST_CM3, blob, draw_volume
from inrreg.phantoms.flows import Sampled, follow, random_flow
from inrreg.phantoms.landmark_pairs import distinctive_points
from inrreg.phantoms.lesion_pairs import RIM, Host, Lesion
from inrreg.phantoms.scanner import NO_SCANNER, Scanner

GRID = Grid.from_spacing(
    (38, 42, 34), (3.8, 3.5, 4.2), origin=(-31.0, 47.0, 112.0), direction=oblique(3)
)


@pytest.fixture(scope="module")
def head() -> Brain:
    return synthetic_brain(GRID)


@pytest.fixture(scope="module")
def host(head: Brain) -> Host:
    """The head where it is."""
    return Host(head, GRID, head.tissue.data[0].long(), head.resectable.data[0].long())


@pytest.fixture(scope="module", params=["tumour", "resection"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def lesion(kind: str, host: Host) -> Lesion:
    """A large one, and what it does to a head that is moved by nothing else."""
    pathology = {
        "tumour": Tumour(volume_cm3=16.0, push_mm=(5.0, 5.0)),
        "resection": Resection(volume_cm3=24.0, collapse=(0.2, 0.2)),
    }[kind]
    return pathology.grow(host, np.random.default_rng(4))


def from_center(points: Tensor) -> Tensor:
    return points - torch.tensor(GRID.center)


# --- flows ----------------------------------------------------------------------------------------


def test_samples_are_interpolated_by_a_smooth_spline() -> None:
    points = GRID.points(torch.float64)
    values = Sampled.of(torch.stack([(points / 15).sin().sum(-1), points[..., 0]], -1), GRID)
    middle = GRID.to_world(
        torch.tensor([[15.3, 20.6, 16.1], [18.0, 11.0, 9.0]], dtype=torch.float64)
    )
    # (spacing / length)^4 of the sines
    torch.testing.assert_close(
        values(middle),
        torch.stack([(middle / 15).sin().sum(-1), middle[:, 0]], -1),
        atol=2e-3,
        rtol=0,
    )
    torch.testing.assert_close(values(points)[..., 1], points[..., 0])


def test_following_a_linear_velocity_is_the_matrix_exponential() -> None:
    matrix = 0.3 * np.array([[0.2, -1.0, 0.3], [0.8, -0.3, 0.1], [-0.2, 0.4, 0.1]])
    velocity = Sampled.of(from_center(GRID.points(torch.float64)) @ torch.tensor(matrix.T), GRID)
    start = torch.tensor(GRID.center) + torch.tensor(
        [[8.0, -5.0, 3.0], [0.0, 6.0, -9.0]], dtype=torch.float64
    )
    expected = torch.tensor(GRID.center) + from_center(start) @ torch.tensor(expm(matrix).T)
    # the spline is bent at the mirrored border
    torch.testing.assert_close(follow(velocity, start), expected, atol=0.005, rtol=0)
    torch.testing.assert_close(follow(velocity, expected, -1.0), start, atol=0.005, rtol=0)


def test_random_flows_move_as_asked_and_undo_themselves() -> None:
    points = from_center(GRID.points(torch.float64)).reshape(-1, 3)
    inner = (points[points.norm(dim=1) < 50] + torch.tensor(GRID.center))[::5]
    flow = random_flow(GRID, 20.0, 4.0, inner, np.random.default_rng(0))
    moved = follow(flow, inner)
    # measured on other points than were calibrated on
    assert float((moved - inner).norm(dim=1).mean()) == pytest.approx(4.0, rel=0.1)
    assert float((follow(flow, moved, -1.0) - inner).norm(dim=1).max()) < 0.01
    still = random_flow(GRID, 20.0, 0.0, inner, np.random.default_rng(0))
    assert torch.equal(follow(still, inner), inner)


# --- elastic tissue -------------------------------------------------------------------------------


def test_a_ball_in_a_ball_pushes_as_lame_found() -> None:
    """u = A r inside the ball and B (R^3 / r^2 - r) outside it, whatever the elastic constants."""
    grid = Grid.from_spacing((60, 60, 60), 2.5, origin=(-70.0, 30.0, 11.0), direction=oblique(3))
    radius = (grid.points(torch.float64) - torch.tensor(grid.center)).norm(dim=-1)
    push = outward(radius < 20.0, radius < 65.0, grid)
    outwards = torch.nn.functional.normalize(
        torch.tensor([[1.0, 2.0, -1.0], [0.3, -0.4, 2.0]], dtype=torch.float64)
    )
    speed = [
        float((push(torch.tensor(grid.center) + r * outwards) * outwards).sum(-1).mean())
        for r in (10.0, 28.0, 36.0, 44.0, 64.0)
    ]
    solved = [65.0**3 / r**2 - r for r in (28.0, 36.0, 44.0)]
    # a lattice of 4 mm, blurred
    assert np.array(speed[1:4]) / speed[1] == pytest.approx(np.array(solved) / solved[0], rel=0.08)
    edge = (65.0**3 / 400 - 20) / solved[0] * speed[1]
    assert speed[0] == pytest.approx(edge / 2, rel=0.1)
    assert abs(speed[4]) < 0.05 * speed[1]
    sideways = push(torch.tensor(grid.center) + 30 * outwards)
    assert (
        float((sideways - (sideways * outwards).sum(-1, keepdim=True) * outwards).norm(dim=1).max())
        < 0.05 * speed[1]
    )


def test_tissue_gives_way_sideways_rather_than_being_squeezed() -> None:
    """Beside the centre the elastic constants count: the nearer to incompressible, the smaller the
    change of volume outside the source.
    """
    points = from_center(GRID.points(torch.float64))
    source = (points - torch.tensor([30.0, 0.0, 0.0])).norm(dim=-1) < 14
    velocity = outward(source, points.norm(dim=-1) < 60, GRID)(GRID.points(torch.float64))
    slopes = torch.stack(torch.gradient(velocity, dim=(0, 1, 2)), -1) @ torch.tensor(
        np.linalg.inv(GRID.matrix)
    )
    outside = ((points - torch.tensor([30.0, 0.0, 0.0])).norm(dim=-1) > 20) & (
        points.norm(dim=-1) < 55
    )
    divergence = torch.diagonal(slopes, dim1=-2, dim2=-1).sum(-1)[outside]
    # 0.034; 0.045 of tissue that is squeezed as easily as sheared
    assert float(divergence.square().mean()) < 0.038 * float(
        slopes[outside].square().sum((-2, -1)).mean()
    )


def test_pressure_outside_the_brain_is_refused() -> None:
    radius = from_center(GRID.points(torch.float64)).norm(dim=-1)
    with pytest.raises(InputError, match="outside the brain"):
        outward(radius > 60, radius < 40, GRID)


# --- shapes ---------------------------------------------------------------------------------------


def test_volumes_are_spread_as_cavities_are() -> None:
    rng = np.random.default_rng(0)
    volumes = np.array([draw_volume(rng) for _ in range(4000)])
    assert volumes.min() >= SMALLEST_CM3
    assert volumes.max() <= LARGEST_CM3
    assert np.median(volumes) == pytest.approx(18.0, abs=1.0)


def test_blobs_have_the_volume_asked_for_and_hang_together(host: Host) -> None:
    tissue, voxel = host.resectable == 1, float(np.prod(GRID.spacing)) / 1000
    center = host.points()[tissue & (host.tissue == GREY)][400]
    for seed in range(3):
        body = blob(GRID, center, 12.0, tissue, np.random.default_rng(seed))
        assert not bool((body.inside & ~tissue).any())
        assert label(body.inside.numpy())[1] == 1
        # pieces that the tissue cuts off are dropped
        assert 0.6 * 12.0 < voxel * int(body.inside.sum()) <= 12.0 + voxel
        assert bool((body.level[body.inside] <= body.radius_mm).all())


def test_pieces_that_the_cut_leaves_apart_are_dropped() -> None:
    tissue = torch.ones(GRID.shape, dtype=torch.bool)
    tissue[:, 18:20] = False
    center = GRID.to_world(torch.tensor([19.0, 21.0, 17.0], dtype=torch.float64))
    for seed in range(3):
        body = blob(GRID, center, 30.0, tissue, np.random.default_rng(seed))
        assert bool(((body.level <= body.radius_mm) & tissue)[:, :18].any()), (
            "the uncut body reaches past the gap"
        )
        assert not bool(body.inside[:, :18].any())


def test_uncut_blobs_are_noisy_ellipsoids() -> None:
    everywhere = torch.ones(GRID.shape, dtype=torch.bool)
    body, other = (
        blob(GRID, torch.tensor(GRID.center), 40.0, everywhere, np.random.default_rng(seed))
        for seed in (0, 1)
    )
    assert float(body.inside.sum()) * float(np.prod(GRID.spacing)) == pytest.approx(
        40_000, rel=0.005
    )
    offsets = from_center(GRID.points(torch.float64))[body.inside]
    # semi-axes of an ellipsoid from its second moments
    axes = torch.linalg.svdvals(offsets - offsets.mean(0)) * (5 / len(offsets)) ** 0.5
    assert 1.0 < float(axes[0] / axes[2]) < 5.0
    # an ellipsoid, up to the bumps
    assert float(axes.prod()) == pytest.approx(3 * 40_000 / (4 * np.pi), rel=0.15)
    assert bool((body.inside != other.inside).any())


def test_blobs_that_do_not_fit_are_refused(host: Host) -> None:
    tissue = host.resectable == 1
    with pytest.raises(InputError, match="does not fit"):
        blob(GRID, torch.tensor(GRID.center), 4000.0, tissue, np.random.default_rng(0))
    with pytest.raises(InputError, match="does not fit"):
        blob(GRID, torch.tensor(GRID.center), 0.0, tissue, np.random.default_rng(0))


# --- what a lesion does ---------------------------------------------------------------------------


def test_tissue_comes_from_within_a_tumour_and_from_beyond_a_cavity(
    kind: str, lesion: Lesion, host: Host
) -> None:
    inside, points = lesion.parts > 0, host.points()
    near = (
        torch.nn.functional.max_pool3d(inside[None, None].double(), 3, 1, 1)[0, 0].bool()
        & ~inside
        & (host.tissue > 0)
    )
    towards = torch.nn.functional.normalize(points[inside].mean(0) - points[near])
    came = ((lesion.origin - points)[near] * towards).sum(-1)
    sign = 1 if kind == "tumour" else -1
    assert float((sign * came).mean()) > 1.0
    assert float((sign * came > 0).double().mean()) > 0.9


def test_the_surface_moves_as_far_as_asked(kind: str, lesion: Lesion, host: Host) -> None:
    inside = lesion.parts > 0
    core = -torch.nn.functional.max_pool3d(-inside[None, None].double(), 3, 1, 1)[0, 0]
    motion = (lesion.origin - host.points())[inside & (core == 0)].norm(dim=1)
    asked = 5.0 if kind == "tumour" else 0.2 * np.cbrt(3 * 24_000 / (4 * np.pi))
    # of a cavity: now at its collapsed surface, a voxel thick
    assert float(motion.mean()) == pytest.approx(asked, rel=0.3)


def test_the_skull_stays_and_nothing_folds(lesion: Lesion, host: Host) -> None:
    u = lesion.origin - host.points()
    outside = host.tissue == 0
    # the splines of a 4 mm lattice overshoot beside the skull
    assert float(u[outside].norm(dim=1).max()) < 0.35 * float(u.norm(dim=-1).max())
    assert float(u[outside].norm(dim=1).mean()) < 0.01 * float(u.norm(dim=-1).max())
    per_mm = torch.tensor(np.linalg.inv(GRID.matrix))
    slopes = torch.stack(torch.gradient(lesion.origin, dim=(0, 1, 2)), -1) @ per_mm
    assert float(torch.linalg.det(slopes)[host.tissue > 0].min()) > 0


def test_lesions_show_what_they_are(kind: str, lesion: Lesion, host: Host) -> None:
    white, (fluid, _) = host.brain.mean(WHITE), host.brain.fluid()
    core, full = lesion.parts == 1, lesion.share > 0.99
    assert float(lesion.value[core & full].median()) == pytest.approx(
        0.4 * white if kind == "tumour" else fluid, rel=0.35
    )
    if kind == "tumour":
        rim = lesion.parts == RIM
        assert float(lesion.value[rim & full].mean()) > white
        assert 0.15 < float(core.sum()) / float((core | rim).sum()) < 0.6
        assert float(lesion.oedema[core | rim].max()) == 0
        assert 0.5 < float(lesion.oedema.max()) <= 1
        tissue = lesion.over(host.brain.image.data[0].double(), 0.7)
        swollen = (lesion.oedema > 0.5) & (lesion.share < 0.01)
        assert float((tissue / host.brain.image.data[0])[swollen].max()) < 0.9
        assert torch.equal(
            tissue[(lesion.oedema == 0) & (lesion.share == 0)],
            host.brain.image.data[0].double()[(lesion.oedema == 0) & (lesion.share == 0)],
        )


def test_impossible_lesions_are_refused(host: Host) -> None:
    with pytest.raises(InputError, match=r"0 to 0\.4 of its radius"):
        Resection(collapse=(0.1, 0.9))
    with pytest.raises(InputError, match="core of 0 to 1"):
        Tumour(core=1.5)
    with pytest.raises(InputError, match="does not fit"):
        Tumour(volume_cm3=900.0).grow(host, np.random.default_rng(0))


# --- heads, scanners, landmarks -------------------------------------------------------------------


def test_a_head_names_what_it_lacks(head: Brain) -> None:
    empty = LabelImage.from_array(torch.zeros(GRID.shape, dtype=torch.uint8), GRID)
    with pytest.raises(InputError, match=r"fluid.*grey.*white"):
        Brain(head.image, head.labels, empty, head.resectable)
    with pytest.raises(InputError, match="resectable"):
        Brain(head.image, head.labels, head.tissue, empty)
    other = LabelImage.from_array(
        torch.zeros(GRID.shape, dtype=torch.uint8), Grid.from_spacing(GRID.shape, 1.0)
    )
    with pytest.raises(FrameError, match="one grid"):
        Brain(head.image, other, head.tissue, head.resectable)


def test_t2_turns_the_order_of_tissues_round(head: Brain) -> None:
    turned = t2_like(head)
    assert turned.mean(FLUID) > turned.mean(GREY) > turned.mean(WHITE) > 0
    assert float(turned.image.data[turned.tissue.data == 0].abs().max()) == 0
    assert turned.contrast.stream != head.contrast.stream
    with pytest.raises(InputError, match="not like T1"):
        t2_like(turned)


def test_scanners_add_rician_noise_shading_and_contrast() -> None:
    values = torch.zeros(GRID.shape, dtype=torch.float64)
    values[20:] = 1.0
    noisy = Scanner(0.05, 0.0, 0.0)(values, GRID, 1.0, np.random.default_rng(0))
    # Rayleigh
    assert float(noisy[:20].mean()) == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.02)
    assert float(noisy[20:].std()) == pytest.approx(0.05, rel=0.03)
    shaded = Scanner(0.0, 0.1, 0.0)(values, GRID, 1.0, np.random.default_rng(0))[20:]
    assert 0.02 < float(shaded.log().std()) < 0.2
    assert float((shaded[1:] - shaded[:-1]).abs().max()) < 0.03
    half = Scanner(0.0, 0.0, 0.3)(0.5 * values, GRID, 1.0, np.random.default_rng(0))[20:]
    assert float(half.std()) < 1e-6
    assert 0.5 ** np.exp(0.3) < float(half[0, 0, 0]) < 0.5 ** np.exp(-0.3)
    assert float(half[0, 0, 0]) != 0.5
    torch.testing.assert_close(
        NO_SCANNER(values, GRID, 1.0, np.random.default_rng(0)), values.float()
    )


def test_landmarks_lie_where_intensity_changes_in_more_than_one_direction() -> None:
    kinds = torch.zeros(GRID.shape, dtype=torch.int64)
    kinds[10:28, 10:30, 10:24] = 3
    nothing, all_of_it = torch.zeros(GRID.shape, dtype=torch.bool), kinds > 0
    found = distinctive_points(kinds, nothing, all_of_it, GRID, (3, 5), np.random.default_rng(0))
    assert found.labels == tuple(f"far {i + 1}" for i in range(8))
    voxels = GRID.to_voxel(found.coords)
    from_face = torch.minimum(voxels - 10, torch.tensor([27, 29, 23]) - voxels)
    assert float(from_face.sort(dim=1).values[:, 1].max()) <= 2.01, (
        "each lies at an edge of the box, where two faces meet"
    )
    with pytest.raises(InputError, match="ask for fewer"):
        distinctive_points(kinds, nothing, all_of_it, GRID, (0, 100_000), np.random.default_rng(0))


def test_landmarks_keep_their_distance_from_the_lesion() -> None:
    grid = Grid.from_spacing(
        (60, 50, 40), (1.0, 1.2, 1.5), origin=(5.0, -70.0, 9.0), direction=oblique(3)
    )
    kinds = torch.from_numpy(np.random.default_rng(0).integers(0, 4, grid.shape))
    points = grid.points(torch.float64)
    lesion, everywhere = (
        (points - torch.tensor(grid.center)).norm(dim=-1) < 8,
        torch.ones(grid.shape, dtype=torch.bool),
    )
    found = distinctive_points(kinds, lesion, everywhere, grid, (80, 80), np.random.default_rng(0))
    distance = torch.cdist(found.coords, points[lesion]).amin(1)
    near = torch.tensor([name.startswith("near") for name in found.labels])
    assert 3.0 <= float(distance[near].min()) < 3.6
    assert 9.0 < float(distance[near].max()) <= 10.0
    assert float(distance[~near].min()) >= 20.0
