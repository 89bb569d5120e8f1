"""Keypoints: planted structure is found, distances in mm hold on an anisotropic grid, none lies
outside, and bad input is named.
"""

from itertools import product

import numpy as np
import pytest
import torch
from steps import image_of, noise
from torch import Tensor
from worlds import oblique

from graphreg import FilledKeypoints, Foerstner, RandomKeypoints, RegularKeypoints
from graphreg.keypoints import (
    Detector,
    eroded_mask,
    foerstner_response,
    local_maxima,
)
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.farthest_points import farthest_points, points_between
from inrreg.ops.masks import dilated

DETECTORS = [Foerstner(spacing_mm=3.0), RandomKeypoints(), RegularKeypoints(4.0)]


@pytest.fixture(scope="module", params=[3, 2], ids=["3-D", "2-D"])
def wide(request: pytest.FixtureRequest) -> Grid:
    """Some 50 mm a side, of 1.0 x 1.3 x 2.5 mm, rotated, off-centre."""
    d = request.param
    return Grid.from_spacing(
        (50, 40, 20)[:d], (1.0, 1.3, 2.5)[:d], (-31.0, 47.0, 112.0)[:d], oblique(d)
    )


def planted(grid: Grid) -> Tensor:
    """Places 20 mm apart or more, between voxels."""
    axes = [np.linspace(0.25, 0.75, 2) * grid.extent[a] for a in range(grid.ndim)]
    along = torch.tensor(list(product(*axes))) + 0.9 * torch.rand(
        2**grid.ndim, grid.ndim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return grid.to_world(along / torch.tensor(grid.spacing))


def blobs(grid: Grid, sigma_mm: float = 2.5) -> Image:
    away = (grid.points(torch.float64)[..., None, :] - planted(grid)).square().sum(-1)
    return image_of(torch.exp(-0.5 * away / sigma_mm**2).sum(-1), grid, "blobs")


def ball(grid: Grid, radius_mm: float) -> Image:
    """A mask around the middle."""
    return image_of(
        (grid.points(torch.float64) - torch.tensor(grid.center)).norm(dim=-1) < radius_mm,
        grid,
        "ball",
    )


def single(image: Image) -> Image:
    return image.with_data(image.data.float())


def everywhere(grid: Grid) -> Image:
    return single(image_of(torch.ones(grid.shape), grid, "whole image"))


def cells(points: Tensor, grid: Grid) -> Tensor:
    """The voxels of ``points``, which must be voxel centres."""
    voxels = grid.to_voxel(points.double().cpu())
    torch.testing.assert_close(voxels, voxels.round(), rtol=0, atol=1e-3)
    return voxels.round().long()


def test_planted_blobs_are_found(
    wide: Grid, generator: torch.Generator, device: torch.device
) -> None:
    found = (
        Foerstner(spacing_mm=8.0, threshold=1.0)(
            single(blobs(wide)).to(device), everywhere(wide).to(device), generator
        )
        .cpu()
        .double()
    )
    off = found[:, None] - planted(wide)
    near = off.norm(dim=-1).argmin(0)
    assert len(set(near.tolist())) == 2**wide.ndim
    along = off[near, torch.arange(len(near))] @ torch.tensor(wide.direction)
    # half a voxel is the best that a voxel centre can do
    assert bool((along.abs() <= 0.75 * torch.tensor(wide.spacing)).all())
    response = foerstner_response(single(blobs(wide)), 2.0)
    strong = torch.sort(response[tuple(cells(found, wide).T)], descending=True)
    # nothing stands out as much
    assert set(strong.indices[: 2**wide.ndim].tolist()) == set(near.tolist())


def test_the_corner_of_a_box_is_found_and_its_edges_are_not(
    wide: Grid, generator: torch.Generator
) -> None:
    """A box that fills the octant beyond the middle has one corner within the image; its faces and
    edges vary along fewer directions.
    """
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in wide.shape], indexing="ij"), -1)
    middle = torch.tensor([n // 2 for n in wide.shape])
    image = single(image_of((index >= middle).all(-1), wide))
    found = Foerstner(spacing_mm=4.0)(image, everywhere(wide), generator)
    response = foerstner_response(image, 2.0)[tuple(cells(found, wide).T)]
    corner = wide.to_world(middle.double() - 0.5)
    # half a voxel, and the operator of 2 mm lies within the corner
    assert (
        float((found[int(response.argmax())] - corner).norm())
        < float(np.linalg.norm(wide.spacing)) / 2 + 2.0
    )
    far = (found - corner).norm(dim=1) > 9.0  # beyond the Gaussian of the tensor
    assert not bool((response[far] > 1e-3 * response.max()).any())


def test_the_response_is_that_of_the_structure_tensor(wide: Grid) -> None:
    """1 / trace(S^-1) of tensors that are known: a constant gradient field has none, squares of two
    or three ramps do.
    """
    along = wide.points(torch.float64) @ torch.tensor(wide.direction) - torch.tensor(
        wide.center @ wide.direction
    )
    ramp = single(image_of(along[..., 0] + 2 * along[..., 1], wide))
    assert float(foerstner_response(ramp, 2.0).abs().max()) < 1e-3
    bowl = image_of((along.square() * torch.tensor([0.5, 1.0, 1.5])[: wide.ndim]).sum(-1), wide)
    response = foerstner_response(bowl, 2.0)[tuple(n // 2 for n in wide.shape)]
    centre = along[tuple(n // 2 for n in wide.shape)]
    slope = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[: wide.ndim]
    # E g g^T over a Gaussian of 2 mm
    tensor = torch.outer(slope * centre, slope * centre) + torch.diag(slope.square() * 4.0)
    # the kernel is cut at 4 sigma and sampled every 2.5 mm
    assert float(response) == pytest.approx(1 / float(torch.linalg.inv(tensor).trace()), rel=0.02)


def test_the_response_does_not_depend_on_the_frame(wide: Grid) -> None:
    image = single(image_of(noise(wide.shape, 1), wide))
    straight = image.with_data(image.data, Grid.from_spacing(wide.shape, wide.spacing))
    torch.testing.assert_close(foerstner_response(image, 2.0), foerstner_response(straight, 2.0))


@pytest.mark.parametrize("spacing_mm", [2.0, 5.0, 6.0, 8.1])
def test_no_two_maxima_are_nearer_than_the_spacing(wide: Grid, spacing_mm: float) -> None:
    response = noise(wide.shape, 2)[0].float()
    mask = ball(wide, 22.0)
    peaks = local_maxima(response, mask, spacing_mm)
    assert len(peaks) > 5
    gap = (peaks[:, None] - peaks[None]).abs() * torch.tensor(wide.spacing)
    largest = gap.amax(-1).fill_diagonal_(torch.inf)
    assert float(largest.min()) >= spacing_mm - 1e-6
    inside = mask.data[0] > 0.5
    assert bool(inside[tuple(peaks.T)].all())
    offset = (
        torch.stack(torch.meshgrid(*[torch.arange(n) for n in wide.shape], indexing="ij"), -1)[None]
        - peaks[:20].reshape(-1, *[1] * wide.ndim, wide.ndim)
    ).abs()
    near = (offset * torch.tensor(wide.spacing) < spacing_mm - 1e-6).all(-1)
    # and each is the largest of its surroundings
    for peak, window in zip(peaks[:20], near, strict=True):
        assert float(response[window & inside].max()) == float(response[tuple(peak)])


def test_every_strict_maximum_is_kept_and_noise_is_not(wide: Grid) -> None:
    response = torch.full(wide.shape, 1e-3) * (1 + noise(wide.shape, 5)[0].float())
    places = torch.tensor(list(product(*[(n // 4, 3 * n // 4) for n in wide.shape])))
    response[tuple(places.T)] = 1.0
    peaks = local_maxima(response, everywhere(wide), 4.0, threshold=10.0)
    assert {tuple(p) for p in peaks.tolist()} == {tuple(p) for p in places.tolist()}
    assert len(local_maxima(response, everywhere(wide), 4.0)) > len(places)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("erosion_mm", [0.0, 3.0])
def test_none_lies_outside_the_shrunk_mask(
    wide: Grid,
    detector: Detector,
    erosion_mm: float,
    generator: torch.Generator,
    device: torch.device,
) -> None:
    mask, image = ball(wide, 18.0), single(image_of(noise(wide.shape, 3), wide))
    chosen = type(detector)(**{**vars(detector), "erosion_mm": erosion_mm})(
        image.to(device), single(mask).to(device), generator
    )
    assert chosen.device.type == device.type
    assert len(chosen) >= 10
    assert len(torch.unique(chosen.cpu(), dim=0)) == len(chosen)
    voxels = cells(chosen, wide)
    assert bool((mask.data[0] > 0.5)[tuple(voxels.T)].all())
    outside = wide.points(torch.float64)[mask.data[0] < 0.5]
    assert float(torch.cdist(chosen.cpu().double(), outside).min()) > erosion_mm - 1e-3
    assert torch.equal(
        eroded_mask(single(mask), erosion_mm).data, dilated(single(mask), -erosion_mm).data
    )


def test_thinning_takes_the_farthest_each_time() -> None:
    points = 50 * torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) - 300
    chosen = farthest_points(points, 40)
    assert len(set(chosen.tolist())) == 40
    distance = torch.cdist(points.double(), points.double())
    assert int(chosen[0]) == int((points - points.mean(0)).norm(dim=1).argmin())
    for k in range(1, 40):
        to_chosen = distance[:, chosen[:k]].amin(1)
        assert float(to_chosen[chosen[k]]) == pytest.approx(float(to_chosen.max()), abs=1e-4)
    spread = distance[chosen][:, chosen].fill_diagonal_(torch.inf).min()
    drawn = torch.randperm(200, generator=torch.Generator().manual_seed(2))[:40]
    assert float(spread) > 4 * float(distance[drawn][:, drawn].fill_diagonal_(torch.inf).min())
    assert torch.equal(farthest_points(points, 200), torch.arange(200))
    assert [len(farthest_points(points, count)) for count in (0, 1)] == [0, 1]


def test_foerstner_keeps_the_count_best_spread(wide: Grid, generator: torch.Generator) -> None:
    image = single(image_of(noise(wide.shape, 3), wide))
    everything = Foerstner(spacing_mm=3.0)(image, everywhere(wide), generator)
    few = Foerstner(20, spacing_mm=3.0)(image, everywhere(wide), generator)
    assert len(few) == 20 < len(everything)
    assert torch.equal(few, everything[farthest_points(everything, 20)])


def test_random_keypoints_follow_the_generator_and_the_mask_evenly(wide: Grid) -> None:
    image, mask = everywhere(wide), single(ball(wide, 20.0))
    drawn = [
        RandomKeypoints(300, 0.0)(image, mask, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len(drawn[0]) == 300
    inside = wide.points(torch.float64)[mask.data[0] > 0.5]
    error = (drawn[0].double().mean(0) - inside.mean(0)).norm()
    assert float(error) < 4 * float(inside.std(0).norm()) / 300**0.5  # four standard errors
    assert len(RandomKeypoints(10**6, 0.0)(image, mask, torch.Generator())) == len(inside)


def test_regular_keypoints_lie_on_a_lattice(wide: Grid, generator: torch.Generator) -> None:
    voxels = cells(RegularKeypoints(5.0)(everywhere(wide), everywhere(wide), generator), wide)
    for axis, stride in enumerate((5, 4, 2)[: wide.ndim]):  # 5 mm, 5.2 mm, 5 mm
        assert torch.equal(
            torch.unique(voxels[:, axis]), torch.arange(stride // 2, wide.shape[axis], stride)
        )
    assert len(voxels) == np.prod([len(torch.unique(voxels[:, a])) for a in range(wide.ndim)])


def test_an_image_without_structure_is_named(wide: Grid, generator: torch.Generator) -> None:
    flat = image_of(torch.full(wide.shape, 7.0), wide, "flat.nii")
    with pytest.raises(
        InputError, match=r"flat.nii has no keypoint inside whole image.*RegularKeypoints"
    ):
        Foerstner()(single(flat), everywhere(wide), generator)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_a_mask_without_room_is_named(
    wide: Grid, detector: Detector, generator: torch.Generator
) -> None:
    image = single(image_of(noise(wide.shape, 3), wide))
    for mask in (ball(wide, 2.1), image_of(torch.zeros(wide.shape), wide, "ball")):
        with pytest.raises(
            InputError,
            match=r"ball is too small for keypoints: shrunk by 2 mm nothing is left of it",
        ):
            detector(image, single(mask), generator)


def test_a_mask_between_the_points_of_the_lattice_is_named(
    wide: Grid, generator: torch.Generator
) -> None:
    with pytest.raises(InputError, match="ball holds no point of a lattice of 40 mm"):
        RegularKeypoints(40.0)(everywhere(wide), single(ball(wide, 4.0)), generator)


def test_gaps_are_filled_until_none_is_left_or_the_count_is_reached(
    wide: Grid, generator: torch.Generator, device: torch.device
) -> None:
    """A lone blob in plain tissue: the detector finds it alone, filling reaches every place of the
    shrunk mask.
    """
    away = (wide.points(torch.float64) - torch.tensor(wide.center)).square().sum(-1)
    image, mask = (
        single(image_of(torch.exp(-away / 18), wide)).to(device),
        single(ball(wide, 18.0)).to(device),
    )
    plain = Foerstner(spacing_mm=8.0, threshold=100.0)
    found = plain(image, mask, generator)
    filled = FilledKeypoints(plain, 10**6, 6.0)(image, mask, generator)
    assert torch.equal(filled[: len(found)], found)
    apart = torch.cdist(filled.cpu().double(), filled.cpu().double())
    assert (
        float(apart[len(found) :].add(torch.eye(len(filled))[len(found) :] * 1e6).min())
        >= 6.0 - 1e-4
    )
    inside = wide.points(torch.float64)[eroded_mask(mask, 2.0).data[0].cpu() > 0.5]
    assert float(torch.cdist(inside, filled.cpu().double()).amin(1).max()) < 6.0
    assert float(torch.cdist(inside, found.cpu().double()).amin(1).max()) > 12.0
    assert (
        len(FilledKeypoints(plain, len(found) + 3, 6.0)(image, mask, generator)) == len(found) + 3
    )
    assert torch.equal(FilledKeypoints(plain, 0, 6.0)(image, mask, generator), found)


def test_a_point_between_is_the_farthest_each_time() -> None:
    points, others = (
        100 * torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) for n in (300, 20)
    )
    chosen = points_between(points, others, 30, 1.0)
    assert len(set(chosen.tolist())) == 30
    for k in range(30):
        to_all = torch.cdist(
            points.double(), torch.cat([others, points[chosen[:k]]]).double()
        ).amin(1)
        assert float(to_all[chosen[k]]) == pytest.approx(float(to_all.max()), abs=1e-4)
    assert len(points_between(points, others, 30, 1e3)) == 0
