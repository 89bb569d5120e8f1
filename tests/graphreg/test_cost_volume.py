"""The data term against its definition, whatever the memory, and a whole discrete search with its
keypoints in another order.
"""

import re
import weakref
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from steps import image_of, noise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worlds import Wave, between_voxels, oblique, oblique_grid

from graphreg import (
    Labels,
    LeastSquaresSpline,
    LoopyMinSum,
    MeanField,
    NearestNeighbours,
    NormalisedConvolution,
    Quadratic,
    SpanningTree,
    ThinPlate,
    TreeMinSum,
    cost_volume,
)
from graphreg.cost_volume import _at_points, chunk_size
from graphreg.inference import sub_label_argmin
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image


def aligned_grid(ndim: int) -> Grid:
    """Another grid over the same place, with the same axes, and voxels that are no multiple of a
    label's step; some 5 mm less wide, so that labels leave it.
    """
    grid = oblique_grid(ndim)
    return Grid.from_spacing(
        (11, 10, 9)[:ndim],
        (1.3, 1.1, 1.2)[:ndim],
        grid.origin + grid.direction @ np.array((1.7, 0.6, 2.1))[:ndim],
        grid.direction,
    )


def crossed_grid(ndim: int) -> Grid:
    """Another grid over the same place, with other axes and voxels."""
    grid = oblique_grid(ndim)
    return Grid.from_spacing(
        (15, 13, 12)[:ndim], (1.1, 1.3, 1.2)[:ndim], grid.center - 6.0, oblique(ndim).T
    )


def textured(grid: Grid, seed: int, channels: int = 2) -> Image:
    """Noise in single precision, as images are."""
    image = image_of(noise(grid.shape, seed, channels), grid)
    return image.with_data(image.data.float())


def around(grid: Grid, count: int, seed: int = 3) -> Tensor:
    """Points in the grid, some so near to its edge that patches leave it."""
    fraction = torch.rand(count, grid.ndim, generator=torch.Generator().manual_seed(seed))
    return grid.to_world(fraction * (torch.tensor(grid.shape) - 1))


def at(image: Image, position: np.ndarray) -> np.ndarray:
    """Linear interpolation by scipy, border held."""
    voxel = np.linalg.solve(image.grid.matrix, position - image.grid.origin)
    return np.array(
        [
            map_coordinates(channel, voxel[:, None], order=1, mode="nearest")[0]
            for channel in image.data.double().numpy()
        ]
    )


def defined(
    fixed: Image, moving: Image, points: Tensor, labels: Labels, patch_radius: int
) -> np.ndarray:
    """Mean over the patch of |F(x + o) - M(x + d + o)|^2, a label and a site at a time."""
    ndim = fixed.grid.ndim
    steps, axes = np.broadcast_to(labels.step_mm, (ndim,)), fixed.grid.direction
    sites = [
        axes @ (np.array(o) * steps)
        for o in product(range(-patch_radius, patch_radius + 1), repeat=ndim)
    ]
    radii = [
        round(r / s) for r, s in zip(np.broadcast_to(labels.range_mm, (ndim,)), steps, strict=True)
    ]
    displacements = [
        axes @ (np.array(i) * steps) for i in product(*[range(-r, r + 1) for r in radii])
    ]
    costs = [
        [
            np.mean([(at(fixed, x + o) - at(moving, x + d + o)) ** 2 for o in sites])
            for d in displacements
        ]
        for x in points.double().numpy()
    ]
    return np.reshape(costs, (len(points), *[2 * r + 1 for r in radii]))


@pytest.mark.parametrize("other", [aligned_grid, crossed_grid])
@pytest.mark.parametrize(
    ("ndim", "range_mm", "step_mm", "patch_radius"),
    [
        (3, (2.0, 0.8, 1.5), (1.0, 0.8, 1.5), 1),
        (3, 1.0, 0.7, 0),
        (2, (3.0, 1.2), (0.6, 0.8), 2),
        (2, 2.0, 1.0, 1),
    ],
)
def test_equals_the_definition(
    ndim: int,
    range_mm: Any,
    step_mm: Any,
    patch_radius: int,
    other: Callable[[int], Grid],
    device: torch.device,
) -> None:
    fixed, moving, labels = (
        textured(oblique_grid(ndim), 1),
        textured(other(ndim), 2),
        Labels(range_mm, step_mm),
    )
    points = around(fixed.grid, 5)
    costs = cost_volume(
        fixed.to(device), moving.to(device), points.to(device), labels, patch_radius
    ).cpu()
    assert costs.shape == (5, *labels.shape(ndim))
    # points 100 mm off in single precision are 1e-5 mm off, and the noise changes by up to 1 within
    # 0.7 mm
    np.testing.assert_allclose(
        costs, defined(fixed, moving, points, labels, patch_radius), atol=1e-4
    )


def test_the_least_cost_is_at_the_motion(grid: Grid, device: torch.device) -> None:
    """Labels are displacements along the index axes, from the fixed point to its partner."""
    labels, wave = Labels(3.0, 1.0), Wave(grid.ndim)
    moving = grid.cropped([-9] * grid.ndim, [n + 9 for n in grid.shape])
    displacements = labels.displacements(grid).flatten(0, -2)
    for number in (0, 5, labels.count(grid.ndim) - 2):
        shift = displacements[number].double()
        moved = Image(wave(moving.points(torch.float64) - shift)[None].float(), moving)
        # no patch leaves the image
        inner = torch.as_tensor(grid.center) + 0.4 * (
            around(grid, 30).double() - torch.as_tensor(grid.center)
        )
        costs = cost_volume(
            wave.image(grid).to(device), moved.to(device), inner.float().to(device), labels
        ).flatten(1)
        # linear interpolation across 2.5 mm
        assert float(costs[:, number].max()) < 0.001 * float(costs.mean())
        assert torch.equal(costs.argmin(1).cpu(), torch.full((30,), number))


@pytest.mark.parametrize("ndim", [2, 3])
def test_chunks_do_not_change_the_result(ndim: int, device: torch.device) -> None:
    fixed, moving, labels, points = (
        textured(oblique_grid(ndim), 1),
        textured(crossed_grid(ndim), 2),
        Labels(2.0, 1.0),
        around(oblique_grid(ndim), 300),
    )
    volume, one = 4e-6 * 300 * labels.count(ndim), 12e-6 * 7**ndim * (2 + ndim + 3**ndim)
    bounds = [2000.0, *[volume + 1.01 * k * one for k in (100, 7, 1)]]
    assert [
        chunk_size(300, labels.shape(ndim), 7**ndim, 3**ndim, 2, bound, 2000.0) for bound in bounds
    ] == [300, 101, 7, 1]
    assert chunk_size(300, labels.shape(ndim), 7**ndim, 3**ndim, 2, 2000.0, 7.01 * one) == 7
    results = [
        cost_volume(fixed.to(device), moving.to(device), points.to(device), labels, memory_mb=bound)
        for bound in bounds
    ]
    for result in results[1:]:
        # products of other sizes add up in another order
        torch.testing.assert_close(result, results[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "steps", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.0, 2.0, 3.0), (0.5, 1.3, 0.7)]
)
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_compiled_loop_equals_torch(
    ndim: int, steps: tuple[float, ...], dtype: torch.dtype
) -> None:
    """Keypoints on voxels, between them, and so near the edge that patches leave the image; steps
    of one voxel, two, more, and none of whole ones.
    """
    grid = Grid.from_spacing(
        (24, 22, 21)[:ndim], (1.0,) * ndim, (-31.0, 47.0, 112.0)[:ndim], oblique(ndim)
    )
    fixed, moving = (textured(grid, seed, channels=3) for seed in (1, 2))
    between = around(grid, 40).to(dtype)
    points = torch.cat([between, grid.to_world(grid.to_voxel(between).round())])
    for radius in (0, 1, 2):
        labels = Labels(tuple(2 * s for s in steps[:ndim]), steps[:ndim])
        found, expected = (
            cost_volume(fixed, moving, points, labels, radius),
            _at_points(fixed, moving, points, labels, radius),
        )
        # places to 1/65536 of a voxel, or as near as points carry
        torch.testing.assert_close(
            found, expected.float(), rtol=0, atol=1e-4 if dtype == torch.float32 else 2e-5
        )


def test_neither_groups_nor_threads_change_the_result() -> None:
    image, other, labels, points = (
        textured(oblique_grid(3), 1),
        textured(aligned_grid(3), 2),
        Labels(2.0, 1.0),
        around(oblique_grid(3), 50),
    )
    before, found = torch.get_num_threads(), list[Tensor]()
    try:
        for threads, memory_mb in ((1, 2000.0), (1, 0.3), (2, 2000.0), (3, 0.3)):
            torch.set_num_threads(threads)
            found.append(cost_volume(image, other, points, labels, memory_mb=memory_mb))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


class Peak(TorchDispatchMode):
    """The most bytes of new tensors alive at a time."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if (
                isinstance(tensor, Tensor)
                and (storage := tensor.untyped_storage()).data_ptr() not in self.seen
            ):
                self.seen.add(storage.data_ptr())
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage.data_ptr(), storage.nbytes())
        return result

    def _gone(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.live -= size


@pytest.mark.parametrize(
    ("ndim", "channels", "patch_radius", "memory_mb"),
    [(3, 12, 1, 12.0), (3, 1, 0, 6.0), (2, 4, 2, 1.0), (2, 1, 0, 0.2)],
)
def test_no_more_memory_is_held_than_is_allowed(
    ndim: int, channels: int, patch_radius: int, memory_mb: float
) -> None:
    """Images of other axes, for which torch's operations are used."""
    image, crossed, points = (
        textured(oblique_grid(ndim), 1, channels),
        textured(crossed_grid(ndim), 1, channels),
        around(oblique_grid(ndim), 250),
    )
    labels = Labels(4.0, 1.0)
    peaks = []
    for bound in (memory_mb, 1e4):
        with Peak(image.data, crossed.data, points) as held:
            cost_volume(image, crossed, points, labels, patch_radius, bound)
        peaks.append(held.peak / 1e6)
    assert 4e-6 * 250 * labels.count(ndim) < peaks[0] <= memory_mb < peaks[1]


def test_a_bound_that_holds_no_keypoint_says_what_would_fit() -> None:
    image, labels = textured(oblique_grid(3), 1), Labels(4.0, 1.0)
    points = around(image.grid, 200)
    with pytest.raises(
        InputError,
        match=(
            r"200 keypoints x 729 labels takes 1 MB, but memory_mb is 0.6; \d+ keypoints would fit"
            r" with these labels, \d+ labels with these keypoints"
        ),
    ) as error:
        cost_volume(image, image, points, labels, memory_mb=0.6)
    keypoints, count = (
        int(re.search(rf"(\d+) {what} with", str(error.value)).group(1))
        for what in ("keypoints would fit", "labels")
    )
    assert 0 < keypoints < 200
    assert cost_volume(image, image, points[:keypoints], labels, memory_mb=0.6).shape == (
        keypoints,
        9,
        9,
        9,
    )
    with pytest.raises(InputError, match="would fit"):
        cost_volume(image, image, points[: keypoints + 1], labels, memory_mb=0.6)
    assert 0 < count < 729
    chunk_size(200, (count, 1, 1), 11**3, 27, 2, 0.6, 0.6)
    with pytest.raises(InputError, match="would fit"):
        chunk_size(200, (count + 1, 1, 1), 11**3, 27, 2, 0.6, 0.6)


def test_what_cannot_be_compared_is_refused() -> None:
    image = textured(oblique_grid(3), 1)
    with pytest.raises(
        InputError, match=r"image has 2 channels and image 3; compare the same feature of both"
    ):
        cost_volume(
            image, textured(image.grid, 1, channels=3), around(image.grid, 4), Labels(1.0, 1.0)
        )
    with pytest.raises(InputError, match="larger than the image"):
        cost_volume(image, image, around(image.grid, 4), Labels(14.0, 1.0))


CHAINS = {
    "tree": (SpanningTree(8), TreeMinSum(Quadratic(0.02)), ThinPlate(1.0)),
    "loopy": (NearestNeighbours(4), LoopyMinSum(Quadratic(0.02)), NormalisedConvolution(3.0)),
    "mean field": (
        NearestNeighbours(4, intensity_mm=2.0),
        MeanField(Quadratic(0.02)),
        LeastSquaresSpline(5.0),
    ),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_permuted_keypoints_permute_the_result(
    grid: Grid, chain: Any, device: torch.device
) -> None:
    build, inference, densifier = chain
    labels, lattice = Labels(2.0, 1.0), grid.covering(4.0, margin=1)
    fixed, moving = (textured(grid, seed).to(device) for seed in (1, 2))
    points = between_voxels(grid, 60, torch.Generator().manual_seed(4)).float().to(device)
    trust = torch.linspace(0.2, 1.0, 60, device=device)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5)).to(device)

    def search(points: Tensor, trust: Tensor) -> tuple[Tensor, ...]:
        costs = cost_volume(fixed, moving, points, labels, memory_mb=3.0)
        marginals = inference(costs, build(points, points[:, 0]), labels)
        there = sub_label_argmin(marginals, labels)
        return (
            costs,
            marginals,
            there,
            densifier(points, there, trust, lattice).displacement_on(grid),
        )

    plain, permuted = search(points, trust), search(points[order], trust[order])
    # a tree may have another root and sums another order; the parabola through single-precision
    # marginals feels it most
    for one, other, atol in zip(plain[:3], permuted[:3], (1e-6, 1e-5, 2e-3), strict=True):
        torch.testing.assert_close(one[order], other, rtol=0, atol=atol)
    torch.testing.assert_close(plain[3], permuted[3], rtol=0, atol=5e-3)
    assert float(plain[2].abs().max()) > 1
