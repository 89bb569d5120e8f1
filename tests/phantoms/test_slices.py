"""Pairs in one slice, made by the generators of the 3-D ones, and cavities that intensity hardly
shows.
"""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from inrreg.core.grid import Grid
from inrreg.evaluation import jacobian_determinant_of_field
from inrreg.phantoms import (
    Brain,
    Fluid,
    Healthy,
    Isointense,
    PathologyPair,
    Resection,
    Tumour,
    pathology_pair,
    synthetic_brain,
)
from inrreg.phantoms.brain import GREY, WHITE
from inrreg.phantoms.ellipsoids import radius_of
from inrreg.phantoms.resection import Filling
from inrreg.phantoms.scanner import NO_SCANNER
from inrreg.transforms import Translation
from inrreg.transforms.warp import warp

KINDS = {
    "resection": Resection(volume_cm3=12.0),
    "tumour": Tumour(volume_cm3=12.0),
    "healthy": Healthy(),
}


@pytest.fixture(scope="module")
def head() -> Brain:
    return synthetic_brain(Grid.from_spacing((60, 72, 60), (2.4, 2.0, 2.2)))


@pytest.fixture(scope="module")
def pairs(head: Brain) -> dict[str, PathologyPair]:
    section = head.section(2, 32)
    return {
        kind: pathology_pair(
            section, pathology, seed=5, spacing=2.0, scanner=NO_SCANNER, near=6, far=12
        )
        for kind, pathology in KINDS.items()
    }


@pytest.fixture(params=sorted(KINDS))
def pair(request: pytest.FixtureRequest, pairs: dict[str, PathologyPair]) -> PathologyPair:
    return pairs[request.param]


def test_a_section_is_one_slice_in_its_own_frame(head: Brain) -> None:
    for axis, spacing in ((0, (2.0, 2.2)), (2, (2.4, 2.0))):
        section = head.section(axis, 20)
        assert torch.equal(section.image.data[0], head.image.data[0].select(axis, 20))
        assert torch.equal(section.tissue.data[0], head.tissue.data[0].select(axis, 20))
        np.testing.assert_allclose(section.image.grid.spacing, spacing)


def test_in_a_slice_the_truth_explains_what_has_a_counterpart(pair: PathologyPair) -> None:
    grid = pair.fixed.image.grid
    lesion = torch.from_numpy(binary_dilation(pair.lesion.numpy() > 0, iterations=2))
    chosen = (pair.fixed.mask.data[0] > 0) & ~lesion & (pair.oedema.data[0] == 0)
    explained, unmoved = (
        (warp(pair.moving.image, transform, grid, method="cubic").data - pair.fixed.image.data)[0][
            chosen
        ]
        for transform in (pair.truth, Translation.by([0.0, 0.0]))
    )
    assert float(explained.square().mean()) < 0.02 * float(unmoved.square().mean())
    assert float(pair.inverse_residual().mean()) < 0.02
    assert (
        float(
            jacobian_determinant_of_field(pair.truth.vectors.detach(), grid)[
                pair.fixed.absent.data[0] == 0
            ].min()
        )
        > 0.05
    )
    torch.testing.assert_close(
        pair.truth(pair.fixed.landmarks.coords).detach(), pair.moving.landmarks.coords
    )


def test_in_a_slice_a_lesion_has_the_area_of_a_ball_s_middle(
    pairs: dict[str, PathologyPair],
) -> None:
    area = float(pairs["tumour"].fixed.absent.data.sum()) * float(
        np.prod(pairs["tumour"].fixed.image.grid.spacing)
    )
    # what was cut off is dropped, and the volume is that of the grown tumour
    assert area == pytest.approx(np.pi * radius_of(12.0) ** 2, rel=0.1)
    removed = float(pairs["resection"].moving.absent.data.sum()) * float(
        np.prod(pairs["resection"].moving.image.grid.spacing)
    )
    assert 0.5 < removed / (np.pi * radius_of(12.0) ** 2) < 1.5  # the motion changes areas too


def test_an_isointense_cavity_is_as_bright_as_what_is_around_it(head: Brain) -> None:
    def cavity(filling: Filling) -> PathologyPair:
        return pathology_pair(
            head.section(2, 32),
            Resection(12.0, filling=filling),
            seed=3,
            spacing=2.0,
            scanner=NO_SCANNER,
            near=6,
            far=12,
        )

    fluid, alike = cavity(Fluid()), cavity(Isointense())
    assert torch.equal(fluid.lesion.data, alike.lesion.data)
    assert torch.equal(fluid.truth.vectors, alike.truth.vectors)
    assert torch.equal(fluid.moving.image.data, alike.moving.image.data)
    inside = alike.lesion.data[0] > 0
    around = (
        torch.from_numpy(binary_dilation(inside.numpy(), iterations=2))
        & ~inside
        & (alike.fixed.labels.data[0] % 3 > 0)
    )
    image = alike.fixed.image.data[0]
    assert float(image[inside].mean()) == pytest.approx(float(image[around].mean()), rel=0.1)
    assert head.mean(GREY) < float(image[inside].mean()) < head.mean(WHITE)
    assert float(fluid.fixed.image.data[0][inside].mean()) < 0.5 * float(image[inside].mean())
