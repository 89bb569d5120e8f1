"""Labels and what is read off marginals over them: parabolas, clouds, entropies."""

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from worlds import oblique_grid

from graphreg import Labels
from graphreg.inference import entropy, probabilities, soft_argmin, sub_label_argmin
from graphreg.labels import along_axes
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid


@pytest.mark.parametrize(
    ("range_mm", "step_mm", "shape"),
    [
        (4.0, 2.0, (5, 5, 5)),
        ((4.0, 2.0, 9.0), (1.0, 2.0, 3.0), (9, 3, 7)),
        (3.0, (3.0, 1.5, 1.0), (3, 5, 7)),
        ((1.0, 2.0, 3.4), 1.0, (3, 5, 7)),
        (3.6, 1.0, (9, 9, 9)),
    ],
)
def test_ranges_are_met_by_whole_steps(range_mm: Any, step_mm: Any, shape: tuple[int, ...]) -> None:
    labels = Labels(range_mm, step_mm)
    assert labels.shape(3) == shape
    assert labels.count(3) == np.prod(shape)
    assert labels.steps(3) == tuple(np.broadcast_to(step_mm, 3))


def test_displacements_lie_along_the_index_axes_in_world_mm(grid: Grid) -> None:
    labels = Labels((4.0, 2.0, 6.0)[: grid.ndim], (1.0, 2.0, 1.5)[: grid.ndim])
    displacements = labels.displacements(grid)
    assert displacements.shape == (*labels.shape(grid.ndim), grid.ndim)
    centre = labels.radii(grid.ndim)
    assert torch.equal(displacements[centre], torch.zeros(grid.ndim))
    for axis, step in enumerate(labels.steps(grid.ndim)):
        along = displacements[tuple(c + (a == axis) for a, c in enumerate(centre))]
        np.testing.assert_allclose(along, step * grid.direction[:, axis], atol=1e-6)
    np.testing.assert_allclose(
        displacements, -displacements.flip(list(range(grid.ndim))), atol=1e-6
    )


@pytest.mark.parametrize(
    ("range_mm", "step_mm"),
    [
        (4.0, 0.0),
        (4.0, -1.0),
        (0.4, 1.0),
        (-2.0, 1.0),
        (float("inf"), 1.0),
        (float("nan"), 1.0),
        ((4.0, 0.4), 1.0),
        (4.0, (1.0, float("nan"))),
    ],
)
def test_impossible_labels_are_refused(range_mm: Any, step_mm: Any) -> None:
    with pytest.raises(InputError, match="step above 0 mm and a range of at least half of it"):
        Labels(range_mm, step_mm)


def test_a_range_larger_than_the_image_is_refused() -> None:
    grid = oblique_grid(3)  # 11.9 x 12.6 x 22.5 mm
    Labels((11.0, 12.0, 22.0), 1.0).check_within(grid)
    for reach in ((12.0, 12.0, 22.0), (11.0, 13.0, 22.0), (11.0, 12.0, 23.0)):
        with pytest.raises(
            InputError,
            match=r"larger than the image \(\[11.9, 12.6, 22.5\] mm\); give a smaller range_mm",
        ):
            Labels(reach, 1.0).check_within(grid)


def test_lengths_along_the_world_are_taken_along_the_nearest_index_axes() -> None:
    labels, lengths = (
        Labels((10.0, 20.0, 40.0), (1.0, 2.0, 4.0)),
        {
            0: (10.0, 1.0),
            1: (20.0, 2.0),
            2: (40.0, 4.0),
        },
    )
    tilt = Rotation.from_euler("xyz", (12, -17, 9), degrees=True).as_matrix()
    for axes in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(axes), range(3)] = signs
            found = labels.facing(
                Grid(
                    (20, 30, 40),
                    np.block(
                        [[tilt @ matrix, np.ones((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]
                    ),
                )
            )
            assert (found.range_mm, found.step_mm) == tuple(
                zip(*[lengths[axis] for axis in axes], strict=True)
            )
    assert Labels((5.0, 9.0), 1.0).facing(
        Grid((8, 8), np.array([[0.0, 2, 0], [1, 0, 0], [0, 0, 1]]))
    ).range_mm == (9.0, 5.0)
    cube = Labels(12.0, 2.0)
    assert cube.facing(oblique_grid(3)) is cube
    assert labels.facing(oblique_grid(2)) == Labels(40.0, 4.0)
    with pytest.raises(InputError, match=r"an image in 3-D need one length or 3, got \(5.0, 9.0\)"):
        Labels((5.0, 9.0), 1.0).facing(oblique_grid(3))


def parabolas(labels: Labels, ndim: int, least: torch.Tensor) -> torch.Tensor:
    """A bowl a node around ``least`` mm, steeper along some axes."""
    axes = [
        step * torch.arange(-r, r + 1, dtype=torch.float64)
        for r, step in zip(labels.radii(ndim), labels.steps(ndim), strict=True)
    ]
    d = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    away = (d[None] - least.reshape(-1, *[1] * ndim, ndim)).square()
    return (away * torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)[:ndim]).sum(-1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_least_of_a_parabola_is_found_exactly(ndim: int, device: torch.device) -> None:
    labels = Labels((4.0, 6.0, 3.0)[:ndim], (1.0, 2.0, 0.5)[:ndim])
    # within the last label but one
    reach = torch.tensor([3.4, 4.9, 2.7], dtype=torch.float64)[:ndim]
    least = reach * (
        2 * torch.rand(50, ndim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        - 1
    )
    torch.testing.assert_close(
        sub_label_argmin(parabolas(labels, ndim, least).to(device), labels).cpu(),
        least,
        rtol=0,
        atol=1e-9,
    )


def test_at_the_edge_of_the_range_the_label_itself_is_taken() -> None:
    labels = Labels((4.0, 6.0), (1.0, 2.0))
    found = sub_label_argmin(
        parabolas(
            labels, 2, torch.tensor([[9.0, 0.6], [-9.0, -50.0], [3.3, 6.2]], dtype=torch.float64)
        ),
        labels,
    )
    torch.testing.assert_close(
        found, torch.tensor([[4.0, 0.6], [-4.0, -6.0], [3.3, 6.0]], dtype=torch.float64)
    )


def test_flat_marginals_give_a_label() -> None:
    labels = Labels(2.0, 1.0)
    assert torch.equal(sub_label_argmin(torch.ones(2, 5, 5, 5), labels) % 1, torch.zeros(2, 3))
    steep = torch.full((1, 5, 5), 1.0)
    steep[0, 2, 2] = 0.0
    assert torch.equal(sub_label_argmin(steep, labels), torch.zeros(1, 2))
    steep[0, 3, 2] = 0.0  # two alike: halfway between them, no farther
    torch.testing.assert_close(sub_label_argmin(steep, labels), torch.tensor([[0.5, 0.0]]))


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_mean_of_a_cloud_is_its_mean(ndim: int, device: torch.device) -> None:
    labels = Labels((4.0, 3.0, 2.0)[:ndim], (1.0, 1.5, 0.5)[:ndim])
    costs = torch.rand(7, *labels.shape(ndim), generator=torch.Generator().manual_seed(1)).to(
        device
    )
    cloud = probabilities(costs, 0.1)
    torch.testing.assert_close(cloud.flatten(1).sum(1), torch.ones(7, device=device))
    torch.testing.assert_close(
        cloud / cloud.flatten(1)[:, :1].reshape(-1, *[1] * ndim),
        torch.exp(-(costs - costs.flatten(1)[:, :1].reshape(-1, *[1] * ndim)) / 0.1),
    )
    straight = Grid.from_spacing([9] * ndim, 1.0)
    expected = cloud.flatten(1) @ labels.displacements(straight).flatten(0, -2).to(device)
    torch.testing.assert_close(soft_argmin(cloud, labels), expected, rtol=0, atol=1e-5)


def test_a_cold_cloud_is_its_least_label_and_a_hot_one_has_no_preference() -> None:
    labels = Labels((4.0, 3.0), (1.0, 1.5))
    least = torch.tensor([[2.0, -1.5], [-3.0, 3.0]], dtype=torch.float64)
    marginals = parabolas(labels, 2, least)
    torch.testing.assert_close(soft_argmin(probabilities(marginals, 1e-3), labels), least)
    torch.testing.assert_close(
        soft_argmin(probabilities(marginals, 1e9), labels),
        torch.zeros_like(least),
        rtol=0,
        atol=1e-6,
    )


def test_entropy_goes_from_certain_to_none_the_wiser() -> None:
    certain = torch.zeros(2, 5, 3)
    certain[:, 2, 1] = 1.0
    assert torch.equal(entropy(certain), torch.zeros(2))
    torch.testing.assert_close(entropy(torch.full((2, 5, 3, 7), 1 / 105)), torch.ones(2))
    half = certain.clone() / 2
    half[:, 0, 0] = 0.5
    torch.testing.assert_close(entropy(half), torch.full((2,), np.log(2) / np.log(15)).float())
    hotter = [
        float(
            entropy(
                probabilities(torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0)), t)
            )
        )
        for t in (0.01, 0.1, 1.0)
    ]
    assert hotter == sorted(hotter)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_a_temperature_is_above_zero(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature must be above 0"):
        probabilities(torch.ones(2, 3, 3), temperature)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 5, 6)])
def test_label_numbers_are_counted_as_torch_counts_them(shape: tuple[int, ...]) -> None:
    index = torch.arange(int(np.prod(shape)))
    for found, expected in zip(
        along_axes(index, shape), torch.unravel_index(index, shape), strict=True
    ):
        assert torch.equal(found, expected)
