"""The breathing chest: its truth is the map that its two images obey, and it is hard in the ways
lungs are.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from inrreg.core.errors import InputError, OutputError
from inrreg.core.image import Image, LabelImage
from inrreg.ops.sampling import linear, nearest
from inrreg.phantoms import PhantomPair, lung_pair, save_pair
from inrreg.phantoms.anatomy import Thorax
from inrreg.phantoms.breathing import REGION_MM, Breathing
from inrreg.phantoms.random_field import RandomField
from inrreg.phantoms.skeleton import rib_lines

SMALL = {"shape": (48, 40, 40), "spacing": (5.0, 5.0, 6.0), "n_landmarks": 300}
"""A box of 240 x 200 x 240 mm with thick slices: the chest is scaled down to it."""


@pytest.fixture(scope="module")
def clean() -> PhantomPair:
    """Without noise."""
    return lung_pair(**SMALL, noise_hu=0.0)


@pytest.fixture(scope="module")
def noisy() -> PhantomPair:
    """The same patient with noise."""
    return lung_pair(**SMALL, noise_hu=20.0)


@pytest.fixture(scope="module")
def other() -> PhantomPair:
    """Another patient, breathing less deeply."""
    return lung_pair(**SMALL, motion_mm=12.0, seed=1)


@pytest.fixture(scope="module", params=[0.0, 0.7], ids=["even", "uneven"])
def breathing(request: pytest.FixtureRequest) -> Breathing:
    """A motion like that of ``lung_pair``, in the frame of the body; even, and as uneven as it
    gets.
    """
    rng = np.random.default_rng(7)
    thorax, field = Thorax.draw(rng), RandomField.draw(rng, length_mm=28, components=3, waves=16)
    return Breathing(
        thorax,
        lift_mm=40.0,
        stir_mm=2.0,
        sink_mm=2.0,
        field=field,
        uneven=request.param,
        regions=RandomField.draw(rng, REGION_MM, waves=48),
    )


@pytest.fixture(scope="module")
def lung_points(breathing: Breathing) -> Tensor:
    """Points in the lungs, in the frame of the body."""
    points = torch.from_numpy(
        np.random.default_rng(3).uniform([-115, -85, -100], [115, 85, 124], (20000, 3))
    )
    return points[breathing.thorax.lungs(points) < 0]


@pytest.fixture(scope="module")
def wall_points(breathing: Breathing) -> Tensor:
    """Points of the lungs' surface that face the side of the chest wall, right and left, from below
    the apex to above the diaphragm.
    """
    thorax = breathing.thorax
    angle, z = torch.meshgrid(
        torch.linspace(-40, 40, 9, dtype=torch.float64).deg2rad(),
        torch.linspace(-20, 80, 11, dtype=torch.float64),
        indexing="ij",
    )
    outline = torch.stack(
        [angle.cos() * thorax.half_width[0], angle.sin() * thorax.half_width[1], z], -1
    ).reshape(-1, 3)
    radius = (thorax.narrowing(outline[:, 2]) / thorax.cross_section(outline)).sqrt()
    right = torch.cat([outline[:, :2] * radius[:, None], outline[:, 2:]], 1)
    points = torch.cat([right, right * right.new_tensor([-1, 1, 1])])
    return points[thorax.abdomen(points) > 10]


def marks(pair: PhantomPair, kind: str) -> tuple[Tensor, Tensor]:
    """Fixed and moving landmarks whose label starts with ``kind``."""
    chosen = [label.startswith(kind) for label in pair.fixed_landmarks.labels]
    return pair.fixed_landmarks.coords[chosen], pair.moving_landmarks.coords[chosen]


def beyond_affine(fixed: Tensor, moving: Tensor) -> float:
    """Mean distance, mm, that the best affine map leaves."""
    with_one = torch.cat([fixed, torch.ones_like(fixed[:, :1])], 1)
    return float(
        (with_one @ torch.linalg.lstsq(with_one, moving).solution - moving).norm(dim=1).mean()
    )


def voxels(image: Image) -> Tensor:
    return image.grid.points(torch.float64).reshape(-1, 3)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def likeness(a: Tensor, b: Tensor) -> float:
    """The mean over patches (rows) of their normalised cross-correlation."""
    return float(np.mean([correlation(p, q) for p, q in zip(a, b, strict=True)]))


class TestTruth:
    def test_carries_landmarks_and_the_dense_field(self, clean: PhantomPair) -> None:
        assert torch.equal(clean.truth(clean.fixed_landmarks.coords), clean.moving_landmarks.coords)
        x = voxels(clean.fixed)[::37]
        u = clean.displacement.reshape(-1, 3)[::37]
        # single precision of some 40 mm
        torch.testing.assert_close(u.double(), clean.truth(x) - x, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("name", "motion"), [("clean", 20.0), ("other", 12.0)])
    def test_moves_lungs_as_far_as_asked(
        self, name: str, motion: float, request: pytest.FixtureRequest
    ) -> None:
        pair = request.getfixturevalue(name)
        fixed, moving = marks(pair, "lung")
        # the root finder's tolerance
        assert float((moving - fixed).norm(dim=1).mean()) == pytest.approx(motion, abs=1e-6)
        inside = pair.displacement[pair.fixed_mask.data[0] > 0].norm(dim=-1)
        assert float(inside.mean()) == pytest.approx(motion, rel=0.15)
        assert 1.7 * motion < float(inside.max()) < 2.5 * motion

    def test_moves_ribs_hardly(self, clean: PhantomPair) -> None:
        fixed, moving = marks(clean, "rib")
        assert len(fixed) == 8
        # a tenth of the motion, at the breast bone
        assert float((moving - fixed).norm(dim=1).max()) <= 2.0

    def test_maps_the_fixed_lungs_onto_the_moving_ones(self, clean: PhantomPair) -> None:
        warped = nearest(clean.moving_mask, clean.truth(voxels(clean.fixed)), outside=0)[0] > 0
        fixed = clean.fixed_mask.data[0].flatten() > 0
        assert 2 * int((warped & fixed).sum()) / int(warped.sum() + fixed.sum()) > 0.95
        unmoved = nearest(clean.moving_mask, voxels(clean.fixed), outside=0)[0] > 0
        assert 2 * int((unmoved & fixed).sum()) / int(unmoved.sum() + fixed.sum()) < 0.9

    @pytest.mark.parametrize("name", ["clean", "other"])
    def test_grids_are_oblique_and_differ(self, name: str, request: pytest.FixtureRequest) -> None:
        pair = request.getfixturevalue(name)
        for grid in (pair.fixed.grid, pair.moving.grid):
            assert 0.02 < np.abs(grid.direction - np.eye(3)).max() < 0.2
        assert not pair.fixed.grid.aligned_with(pair.moving.grid)
        assert isinstance(pair.fixed_mask, LabelImage)
        for mask in (pair.fixed_mask, pair.moving_mask):
            inside = mask.numpy() > 0
            assert 0.07 < inside.mean() < 0.25
            shell = inside.copy()
            shell[1:-1, 1:-1, 1:-1] = False
            assert not shell.any(), "the lungs end within the image"


class TestMotion:
    def test_is_invertible_in_the_lungs(self, breathing: Breathing, lung_points: Tensor) -> None:
        assert float(breathing.expansion(lung_points).min()) > 0.2
        back = breathing.inside_inverse(breathing(lung_points))
        assert float((back - lung_points).abs().max()) < 1e-4  # ten times the solver's tolerance

    def test_expansion_is_the_change_of_volume(
        self, breathing: Breathing, lung_points: Tensor
    ) -> None:
        points, h = lung_points[:200], 1e-3
        steps = h * torch.eye(3, dtype=torch.float64)
        jacobian = torch.stack(
            [
                (breathing.inside(points + e) - breathing.inside(points - e)) / (2 * h)
                for e in steps
            ],
            -1,
        )
        # central differences, h^2
        torch.testing.assert_close(
            breathing.expansion(points), torch.linalg.det(jacobian), atol=1e-6, rtol=0
        )

    def test_grows_towards_the_diaphragm(self, breathing: Breathing, lung_points: Tensor) -> None:
        rise = (breathing(lung_points) - lung_points)[:, 2]
        depth = breathing.thorax.depth(lung_points[:, 2])
        assert float(rise[depth < 0.2].mean()) < 0.25 * float(rise[depth > 0.7].mean())

    def test_slides_along_the_chest_wall(self, breathing: Breathing, wall_points: Tensor) -> None:
        thorax = breathing.thorax
        outward = torch.nn.functional.normalize(
            torch.func.vmap(torch.func.grad(lambda p: thorax.cavity(p[None])[0]))(wall_points),
            dim=1,
        )
        lung, rib = breathing(wall_points - 1e-6 * outward), breathing(wall_points + 1e-6 * outward)
        jump = lung - rib
        assert float(jump.norm(dim=1).min()) > 2.0
        assert float(jump.norm(dim=1).max()) > 15.0
        # The lung slides along the very surface that the wall has become: neither a gap nor an
        # overlap.
        assert float(thorax.cavity(breathing.wall_inverse(lung)).abs().max()) < 1e-4
        assert float(thorax.cavity(breathing.wall_inverse(rib)).abs().max()) < 1e-4

    def test_leaves_ribs_where_they_are(self, breathing: Breathing) -> None:
        ribs = rib_lines(breathing.thorax).reshape(-1, 3)
        gradient = torch.func.vmap(torch.func.grad(lambda p: breathing.thorax.cavity(p[None])[0]))(
            ribs
        )
        distance = breathing.thorax.cavity(ribs) / gradient.norm(dim=1)
        assert float(distance.min()) > 4.5, "ribs lie outside the cavity, by their radius at least"
        assert float((breathing(ribs) - ribs).norm(dim=1).max()) <= breathing.sink_mm

    def test_at_rest_is_the_identity(self, breathing: Breathing, lung_points: Tensor) -> None:
        torch.testing.assert_close(
            breathing.at_rest()(lung_points), lung_points, atol=1e-10, rtol=0
        )


class TestImages:
    def test_tissues_have_the_hu_of_a_ct(self, clean: PhantomPair) -> None:
        hu, lungs = clean.fixed.numpy(), clean.fixed_mask.numpy() > 0
        assert -880 < np.median(hu[binary_erosion(lungs)]) < -780
        assert hu[0, 0, 20] == pytest.approx(-1000, abs=1)
        assert 350 < hu.max() <= 520, "ribs, two voxels thick"
        assert abs(np.median(hu[(hu > -20) & (hu < 120)]) - 42) < 15
        moving = clean.moving.numpy()[binary_erosion(clean.moving_mask.numpy() > 0)]
        assert np.median(moving) > np.median(hu[binary_erosion(lungs)]) + 20, (
            "lungs that hold less air are denser"
        )

    def test_mass_is_conserved(self, clean: PhantomPair) -> None:
        """Inside the lungs the integral of HU + 1000 over a region and over what becomes of it is
        the same.
        """
        interior = torch.from_numpy(binary_erosion(clean.fixed_mask.numpy() > 0, iterations=2))
        u, grid = clean.displacement.double(), clean.fixed.grid
        by_index = torch.stack(torch.gradient(u, dim=(0, 1, 2)), -1)
        jacobian = by_index @ torch.tensor(np.linalg.inv(grid.matrix)) + torch.eye(
            3, dtype=torch.float64
        )
        volume = torch.linalg.det(jacobian)[interior]
        assert float(volume.min()) > 0
        fixed = clean.fixed.data[0][interior] + 1000
        moving = linear(clean.moving, clean.truth(grid.points(torch.float64)[interior]))[0] + 1000
        before, after = float(fixed.sum()), float((moving * volume).sum())
        # Vessels keep their volume while the tissue around them shrinks, so they displace denser
        # tissue and overlap more where they crowd: 3 to 4 %.
        assert after == pytest.approx(before, rel=0.05)
        assert float(moving.sum()) > 1.15 * before, "without the change of volume it would not fit"

    def test_resemble_each_other_through_the_truth_only(self, clean: PhantomPair) -> None:
        offsets = torch.cartesian_prod(*[torch.tensor([-6.0, 0.0, 6.0], dtype=torch.float64)] * 3)
        sites = marks(clean, "lung")[0][:, None] + offsets
        fixed = linear(clean.fixed, sites)[0]
        assert (
            likeness(
                fixed,
                linear(clean.moving, clean.truth(sites.reshape(-1, 3)).reshape(sites.shape))[0],
            )
            > 0.8
        )
        assert likeness(fixed, linear(clean.moving, sites)[0]) < 0.4

    def test_landmarks_lie_on_vessels_inside_the_lungs(self, clean: PhantomPair) -> None:
        directions = torch.nn.functional.normalize(
            torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3), dim=1
        )
        for image, mask, points in (
            (clean.fixed, clean.fixed_mask, marks(clean, "lung")[0]),
            (clean.moving, clean.moving_mask, marks(clean, "lung")[1]),
        ):
            assert bool((nearest(mask, points)[0] == 1).all())
            around = (
                linear(image, points[:, None] + 8 * directions[directions.norm(dim=1) > 0])[0]
                .median(1)
                .values
            )
            contrast = linear(image, points)[0] - around
            # The voxels are four times as wide as the finest of these vessels; a standard error is
            # 4 HU.
            assert float(contrast.mean()) > 16

    def test_each_image_has_noise_of_its_own(self, clean: PhantomPair, noisy: PhantomPair) -> None:
        fixed, moving = noisy.fixed.data - clean.fixed.data, noisy.moving.data - clean.moving.data
        for noise in (fixed, moving):
            # 76 800 voxels: 0.2 % is one standard error
            assert float(noise.std()) == pytest.approx(20, rel=0.02)
        assert abs(correlation(fixed, moving)) < 0.016  # four and a half standard errors
        assert torch.equal(noisy.fixed_landmarks.coords, clean.fixed_landmarks.coords)


class TestUneven:
    def test_leaves_more_than_an_affine_map_can_follow(self) -> None:
        even, uneven = (
            marks(lung_pair(**SMALL, noise_hu=0.0, uneven=amount), "lung") for amount in (0.0, 0.7)
        )
        assert beyond_affine(*uneven) > 1.7 * beyond_affine(*even)
        for fixed, moving in (even, uneven):
            assert float((moving - fixed).norm(dim=1).mean()) == pytest.approx(20, abs=1e-6)

    def test_even_is_the_default(self, clean: PhantomPair) -> None:
        assert torch.equal(
            lung_pair(**SMALL, noise_hu=0.0, uneven=0.0).moving.data, clean.moving.data
        )


class TestDraws:
    def test_one_seed_makes_one_pair(self, noisy: PhantomPair) -> None:
        again = lung_pair(**SMALL, noise_hu=20.0)
        for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
            assert torch.equal(getattr(again, name).data, getattr(noisy, name).data)
        assert torch.equal(again.displacement, noisy.displacement)
        assert torch.equal(again.moving_landmarks.coords, noisy.moving_landmarks.coords)

    def test_another_seed_makes_another_patient(
        self, clean: PhantomPair, other: PhantomPair
    ) -> None:
        both = (clean.fixed_mask.data > 0) & (other.fixed_mask.data > 0)
        # the lungs are dark, their edges are bright
        assert correlation(clean.fixed.data[both], other.fixed.data[both]) < 0.85
        assert correlation(clean.displacement / 20, other.displacement / 12) < 0.99
        assert float(torch.cdist(marks(clean, "lung")[0], marks(other, "lung")[0]).min()) > 0

    def test_refuses_what_it_cannot_make(self) -> None:
        with pytest.raises(InputError, match="3-D"):
            lung_pair(shape=(40, 40))
        with pytest.raises(InputError, match="200 mm is not possible"):
            lung_pair(shape=(16, 16, 16), spacing=18.0, motion_mm=200.0)
        with pytest.raises(InputError, match=r"as unevenly as 0\.9"):
            lung_pair(shape=(16, 16, 16), spacing=18.0, uneven=0.9)
        with pytest.raises(InputError, match="100000 landmarks"):
            lung_pair(shape=(16, 16, 16), spacing=18.0, n_landmarks=100000)


def test_saved_pairs_read_back(clean: PhantomPair, tmp_path: Path) -> None:
    from inrreg.io import read_displacement, read_image, read_mask, read_point_pairs

    save_pair(clean, tmp_path / "pair")
    assert torch.equal(read_image(tmp_path / "pair" / "moving.nii.gz").data, clean.moving.data)
    assert torch.equal(
        read_mask(tmp_path / "pair" / "fixed_mask.nii.gz").data, clean.fixed_mask.mask().data
    )
    assert read_image(tmp_path / "pair" / "moving_mask.nii.gz").grid.same_as(clean.moving.grid)
    torch.testing.assert_close(
        read_displacement(tmp_path / "pair" / "displacement.nii.gz").vectors.detach().float(),
        clean.displacement,
    )
    fixed, moving = read_point_pairs(tmp_path / "pair" / "landmarks.csv")
    assert fixed.labels == clean.fixed_landmarks.labels
    # decimals of the CSV
    torch.testing.assert_close(clean.truth(fixed.coords), moving.coords, atol=1e-3, rtol=0)


def test_saving_over_a_file_is_refused(clean: PhantomPair, tmp_path: Path) -> None:
    (tmp_path / "pair").write_text("not a folder")
    with pytest.raises(OutputError, match="choose another"):
        save_pair(clean, tmp_path / "pair")
