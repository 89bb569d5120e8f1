"""Evidence, and the mask that follows from it: against closed forms and planted truths."""

import math

import pytest
import torch
from torch import Tensor
from worlds import oblique_grid

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis import (
    Aligned,
    Appearance,
    InconsistencyEvidence,
    IntensityEvidence,
    Posterior,
    ScalarModel,
    align,
)
from inrreg.metamorphosis.evidence import STRONGEST, log_ratio, noise, residual
from inrreg.metamorphosis.posterior import probability
from inrreg.optimisation import Adam
from inrreg.transforms import Translation, identity

GRID = Grid.from_spacing(
    (26, 22, 18), (2.0, 2.4, 3.0), origin=(-31.0, 47.0, 112.0), direction=oblique_grid(3).direction
)


def texture(seed: int, grid: Grid = GRID) -> Tensor:
    """Smooth noise between 0.2 and 0.8."""
    values = torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(seed))
    for axis in range(1, values.ndim):
        values = (values.roll(1, axis) + 2 * values + values.roll(-1, axis)) / 4
    return 0.2 + 0.6 * (values - values.min()) / (values.max() - values.min())


def ball(centre: tuple[float, ...], radius_mm: float, grid: Grid = GRID) -> Tensor:
    """1 within ``radius_mm`` of the voxel ``centre``."""
    offset = grid.points() - grid.to_world(torch.tensor([centre], dtype=torch.float32))[0]
    return (offset.norm(dim=-1) < radius_mm).float()[None]


def seen(fixed: Tensor, warped: Tensor, back: float | None = None, grid: Grid = GRID) -> Aligned:
    """A view whose way there is the identity and whose way back, where there is one, is a shift by
    ``back`` mm.
    """
    ones = torch.ones(1, *grid.shape)
    return Aligned(
        Image(fixed, grid),
        Image(warped, grid),
        Image(ones, grid),
        identity(3),
        None if back is None else Translation.by([back, 0.0, 0.0]),
    )


def test_a_residual_is_blind_to_gain_and_offset() -> None:
    warped = texture(0)
    everywhere = torch.ones_like(warped)
    assert residual(0.7 * warped + 0.1, warped, everywhere, GRID, math.inf).abs().max() < 1e-5
    assert residual(0.7 * warped + 0.1, warped, everywhere, GRID, 20.0).abs().max() < 1e-5
    # an inverted contrast is no match
    assert residual(1 - warped, warped, everywhere, GRID, math.inf).std() > 0.9 * warped.std()


def test_a_local_residual_is_blind_to_a_bias_field() -> None:
    warped = texture(1)
    along = torch.linspace(0.8, 1.2, GRID.shape[0])[None, :, None, None]
    locally, globally = (
        residual(along * warped, warped, torch.ones_like(warped), GRID, window).square().mean()
        for window in (20.0, math.inf)
    )
    assert locally < 0.2 * globally


def test_what_is_left_out_has_no_say_in_a_residual() -> None:
    warped = texture(2)
    outlier = ball((13, 11, 9), 10.0)
    weight = 1 - outlier
    difference = residual(
        torch.where(outlier > 0, 3.0, 0.5 * warped), warped, weight, GRID, math.inf
    )
    assert (difference * weight).abs().max() < 1e-5
    assert (difference[outlier > 0] > 2).all()


def test_noise_is_measured_beside_outliers() -> None:
    generator = torch.Generator().manual_seed(0)
    steepness_ = torch.rand(20_000, generator=generator) * 0.2
    difference = (0.02**2 + (0.5 * steepness_) ** 2).sqrt() * torch.randn(
        20_000, generator=generator
    )
    difference[:1000] = 0.9
    still, per_mm = noise(difference, steepness_)
    assert still == pytest.approx(0.02, rel=0.25)
    assert per_mm == pytest.approx(0.5, rel=0.15)


def test_the_price_is_where_both_densities_cross() -> None:
    sigma = torch.tensor(0.03)
    threshold = sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * float(sigma)))
    assert abs(float(log_ratio(threshold, sigma, math.sqrt(2 * math.pi)))) < 1e-5
    assert 2 < float(threshold / sigma) < 3


def test_evidence_of_contrasts_adds_up() -> None:
    fixed, warped = (
        texture(3),
        texture(3) + 0.02 * torch.randn(1, *GRID.shape, generator=torch.Generator().manual_seed(1)),
    )
    one = IntensityEvidence()(seen(fixed, warped), torch.ones_like(fixed))
    two = IntensityEvidence()(
        seen(torch.cat([fixed, fixed]), torch.cat([warped, warped])), torch.ones_like(fixed)
    )
    assert torch.allclose(two, 2 * one)
    assert one.max() <= STRONGEST
    assert float((one < 0).float().mean()) > 0.9


def test_intensity_speaks_up_where_tissue_is_gone() -> None:
    warped = texture(4)
    gone = ball((13, 11, 9), 9.0) > 0
    generator = torch.Generator().manual_seed(2)
    fixed = torch.where(gone, 0.05, warped) + 0.02 * torch.randn(warped.shape, generator=generator)
    evidence = IntensityEvidence()(seen(fixed, warped), torch.ones_like(fixed))
    assert evidence[gone].mean() > 2
    assert evidence[~gone].mean() < -1


def test_an_edge_that_both_images_have_is_misalignment() -> None:
    """The same step of intensity, one voxel apart: no lesion, once the noise per mm is known from
    the others.
    """
    stripes = 0.5 + 0.3 * torch.sign(torch.sin(torch.arange(GRID.shape[0]) * 1.1))[
        None, :, None, None
    ].expand(1, *GRID.shape)
    evidence = IntensityEvidence(math.inf)(
        seen(stripes, stripes.roll(1, 1)), torch.ones_like(stripes)
    )
    assert evidence.max() < 2.5


def test_disagreement_speaks_and_agreement_is_silent(device: torch.device) -> None:
    image = texture(5)
    counterpart = torch.ones_like(image).to(device)

    def evidence(back: float | None) -> Tensor:
        view = seen(image, image, back)
        moved = Aligned(
            view.fixed.to(device),
            view.warped.to(device),
            view.weight.to(device),
            view.forward.to(device),
            None if view.backward is None else view.backward.to(device),
        )
        return InconsistencyEvidence(least_noise_mm=1.0)(
            moved, counterpart * (0.0 if back else 1.0)
        )

    assert evidence(None).abs().max() == 0
    assert evidence(1.0).max() == 0
    assert (evidence(4.0) == 2.0).all()  # and no more than that


def test_the_view_is_cropped_and_weighted() -> None:
    """A fixed mask of half the image; the map leaves the moving image on one side; air counts for
    nothing.
    """
    image = Image(texture(6), GRID)
    image.data[:, :, :6] = 0.0
    mask = Image(
        (torch.arange(GRID.shape[0]) < 13)
        .float()[None, :, None, None]
        .expand(1, *GRID.shape)
        .clone(),
        GRID,
    )
    view = align(ImagePair(image, image, mask), identity(3), None, 2.0)
    assert view.fixed.grid.shape[0] < GRID.shape[0]
    assert float(view.weight.data[0, :10].min()) == 1.0  # a mask is believed, air and all
    weight = align(ImagePair(image, image), identity(3), None, 2.0).weight.data[0]
    assert float(weight[:10, 12:].min()) == 1.0
    assert float(weight[:, :2].max()) == 0.0
    away = align(
        ImagePair(image, image), Translation.by((GRID.direction[:, 0] * 20.0).tolist()), None, 2.0
    )
    assert float(away.weight.data[0, -8:].max()) == 0.0


def test_lesions_of_both_images_meet_in_the_view() -> None:
    image = Image(texture(7), GRID)
    at_home, elsewhere = ball((8, 11, 9), 6.0), ball((18, 11, 9), 6.0)
    shift = GRID.direction[:, 0] * 2 * GRID.spacing[0]
    view = align(
        ImagePair(
            image, image, fixed_lesion=Image(at_home, GRID), moving_lesion=Image(elsewhere, GRID)
        ),
        Translation.by(shift.tolist()),
        None,
        2.0,
    )
    assert view.lesion is not None
    assert torch.allclose(
        view.lesion[0, :-3], torch.maximum(at_home, elsewhere.roll(-2, 1))[0, :-3], atol=1e-3
    )


def test_without_a_perimeter_the_mask_is_the_posterior() -> None:
    odds = 6 * torch.sin(GRID.points()[..., 0] * 0.08)[None]
    view = seen(texture(8), texture(8))
    logit = ScalarModel(lattice_mm=4.0).build(GRID, torch.Generator().manual_seed(0))
    Posterior(perimeter_mm=0.0, iterations=300, optimiser=Adam(1e-2)).fit(logit, odds, view)
    assert (probability(logit, GRID, view.weight.data) - odds.sigmoid()).abs().mean() < 0.02


def test_a_perimeter_forgets_a_speck_and_keeps_a_ball() -> None:
    speck, lesion = ball((4, 4, 4), 2.5), ball((15, 12, 9), 14.0)
    odds = -2 + 6 * (speck + lesion)
    view = seen(texture(9), texture(9))
    logit = ScalarModel().build(GRID, torch.Generator().manual_seed(0))
    Posterior(perimeter_mm=5.0).fit(logit, odds, view)
    mask = probability(logit, GRID, view.weight.data) > 0.5
    assert float(mask[speck > 0].float().mean()) < 0.2
    overlap = 2 * float((mask & (lesion > 0)).sum()) / float(mask.sum() + lesion.sum())
    assert overlap > 0.85


def test_change_stays_under_the_mask() -> None:
    mask = ball((13, 11, 9), 12.0)
    field = ScalarModel().build(GRID, torch.Generator().manual_seed(0))
    Appearance(iterations=150).fit(field, torch.full_like(mask, 0.4), mask, GRID)
    change = field.on(GRID).detach()
    core = ball((13, 11, 9), 8.0) > 0
    # (e - r)^2 + 0.1 r^2 is least at e / 1.1
    assert float((change[core] - 0.4 / 1.1).abs().mean()) < 0.05
    assert float((mask * change).square().sum()) > 0.75 * float(change.square().sum())
