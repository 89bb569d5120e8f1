"""What moved and what is gone, told apart: null tests, planted lesions, and the rules by which a
mask comes about.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from worlds import oblique_grid

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis import Aligned, GivenMask, LearnedMask, NonCorrespondence, Posterior
from inrreg.objective.features import RobustWindow
from inrreg.ops.sampling import linear
from inrreg.optimisation import Adam, Outcome
from inrreg.optimisation.stage_result import Record, StageResult
from inrreg.penalties import Bending
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import FreeForm

GRID = Grid.from_spacing(
    (34, 30, 28), (3.0, 3.0, 3.5), origin=(-31.0, 47.0, 112.0), direction=oblique_grid(3).direction
)
FIT = Registration(
    FreeForm(18.0), (LNCC(15.0),), (Bending(3.0),), Adam(0.7), scales=(Scale(6, 25), Scale(3, 25))
)
STAGE = NonCorrespondence(FIT, survey=FIT.scales)
BRIEF = replace(STAGE, survey=())
PLACE = (15.0, 14.0, 13.0)


def texture(seed: int = 0) -> Tensor:
    """Smooth noise between 0.3 and 0.9 in a ball, air around it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = Image(
        torch.rand(1, 12, 11, 11, generator=generator),
        GRID.resampled((GRID.extent / torch.tensor([12, 11, 11]).numpy()).tolist()),
    )
    values = linear(
        Image(
            coarse.data,
            Grid.from_spacing((12, 11, 11), GRID.extent / [12, 11, 11], direction=GRID.direction),
        ),
        GRID.points() - torch.tensor(GRID.origin, dtype=torch.float32),
    )
    return (0.3 + 0.6 * values) * ball((16.5, 14.5, 13.5), 42.0)


def ball(centre: tuple[float, ...], radius_mm: float) -> Tensor:
    """1 within ``radius_mm`` of the voxel ``centre``."""
    offset = GRID.points() - GRID.to_world(torch.tensor([centre]))[0]
    return (offset.norm(dim=-1) < radius_mm).float()[None]


def wave(amplitude_mm: float) -> Tensor:
    """A smooth displacement at every voxel."""
    points = GRID.points() - torch.tensor(GRID.center, dtype=torch.float32)
    return amplitude_mm * torch.stack(
        [
            torch.sin(points[..., 1] / 25),
            torch.cos(points[..., 2] / 30),
            torch.sin(points[..., 0] / 28 + 1),
        ],
        -1,
    )


def noisy(values: Tensor, seed: int) -> Image:
    return Image(
        values + 0.01 * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)),
        GRID,
    )


def pair_of(
    amplitude_mm: float = 0.0, painted: Tensor | None = None, level: float = 0.05
) -> ImagePair:
    """A moving image, and the fixed one after a motion and with ``painted`` (1 = lesion) at
    ``level``.
    """
    moving = texture()
    fixed = linear(Image(moving, GRID), GRID.points() + wave(amplitude_mm))
    if painted is not None:
        fixed = torch.where(painted > 0, level, fixed)
    return ImagePair(noisy(fixed, 1), noisy(moving, 2)).prepared(RobustWindow())


def motion(result: StageResult, where: Tensor) -> float:
    """Mean length of the displacement, mm."""
    return float(result.transform.displacement_on(GRID).norm(dim=-1)[where[0] > 0].mean())


def mask_of(result: StageResult) -> Float[Tensor, "1 *shape"]:
    assert result.change is not None
    return result.change.non_correspondence.data


def dice(mask: Tensor, truth: Tensor) -> float:
    found = (mask > 0.5).float()
    return float(2 * (found * truth).sum() / (found.sum() + truth.sum()))


@pytest.fixture(scope="module")
def lesion() -> Tensor:
    return ball(PLACE, 16.0)


@pytest.fixture(scope="module")
def resected(lesion: Tensor) -> tuple[ImagePair, StageResult]:
    pair = pair_of(3.0, lesion)
    return pair, STAGE.run(pair)


def test_identical_images_have_nothing_to_tell() -> None:
    pair = pair_of()
    result = STAGE.run(replace(pair, moving=pair.fixed))
    assert float(mask_of(result).max()) < 0.5
    # a twentieth of a voxel, which is how far Adam strays
    assert motion(result, ball(PLACE, 40.0)) < 0.15


def test_pure_deformation_gives_no_mask() -> None:
    result = STAGE.run(pair_of(4.0))
    assert float((mask_of(result) > 0.5).float().mean()) < 0.002
    assert motion(result, ball(PLACE, 30.0)) > 2.0


def test_pure_change_moves_nothing_away_from_it(lesion: Tensor) -> None:
    result = STAGE.run(pair_of(0.0, lesion))
    assert dice(mask_of(result), lesion) > 0.8
    assert motion(result, ball(PLACE, 40.0) * (1 - ball(PLACE, 24.0))) < 0.3


def test_a_cavity_is_found_and_left_out(
    resected: tuple[ImagePair, StageResult], lesion: Tensor
) -> None:
    pair, result = resected
    assert dice(mask_of(result), lesion) > 0.75
    rim = ball(PLACE, 24.0) * (1 - lesion)

    def error(fit: StageResult) -> float:
        return float(
            (fit.transform.displacement_on(GRID) - wave(3.0)).norm(dim=-1)[rim[0] > 0].mean()
        )

    plain, oracle = FIT.run(pair), FIT.run(replace(pair, fixed_lesion=Image(lesion, GRID)))
    assert error(result) < 0.7 * error(plain)
    assert error(oracle) < error(result)


def test_the_change_is_the_lesions(resected: tuple[ImagePair, StageResult], lesion: Tensor) -> None:
    _, result = resected
    assert result.change is not None
    squared = result.change.appearance_change.data.square()
    assert float((squared * (1 - ball(PLACE, 19.0))).sum() / squared.sum()) < 0.1
    # darker than what was there
    assert float(result.change.appearance_change.data[lesion > 0].mean()) < -0.2
    assert result.notes["no_counterpart_fixed"]["volume_ml"] == pytest.approx(
        float(mask_of(result).sum()) * 0.0315, rel=1e-3
    )


def test_swapping_the_images_swaps_the_roles(
    resected: tuple[ImagePair, StageResult], lesion: Tensor
) -> None:
    pair, result = resected
    swapped = STAGE.run(pair.swapped())
    assert result.change is not None
    assert swapped.change is not None
    # what is new in one direction has vanished in the other
    assert dice(swapped.change.vanished.data, lesion) > 0.75
    assert dice(swapped.change.vanished.data, (mask_of(result) > 0.5).float()) > 0.85
    assert (
        dice(swapped.change.non_correspondence.data, (result.change.vanished.data > 0.5).float())
        > 0.85
    )


def test_a_contrast_may_show_what_another_hides(lesion: Tensor) -> None:
    hides, shows = pair_of(), pair_of(0.0, lesion)
    both = replace(
        hides,
        fixed=hides.fixed.with_data(torch.cat([hides.fixed.data, shows.fixed.data])),
        moving=hides.moving.with_data(torch.cat([hides.moving.data, shows.moving.data])),
    )
    result = BRIEF.run(both)
    assert dice(mask_of(result), lesion) > 0.7
    assert result.change is not None
    assert result.change.appearance_change.channels == 2
    assert float((mask_of(BRIEF.run(hides)) > 0.5).float().mean()) < 0.002


def test_a_mask_taken_as_it_is_is_cost_function_masking(lesion: Tensor) -> None:
    """The same numbers, bit by bit, as the registration with the lesion outside its fixed mask."""
    pair = pair_of(3.0, lesion)
    given = replace(BRIEF, mask=GivenMask()).run(replace(pair, fixed_lesion=Image(lesion, GRID)))
    masked = FIT.run(replace(pair, fixed_mask=Image(1 - lesion, GRID)))
    assert torch.equal(
        given.transform.displacement_on(GRID), masked.transform.displacement_on(GRID)
    )
    assert dice(mask_of(given), lesion) > 0.95


def test_a_prior_helps_where_intensities_say_nothing(lesion: Tensor) -> None:
    pair = pair_of()
    without, with_prior = (
        BRIEF.run(each) for each in (pair, replace(pair, fixed_lesion=Image(lesion, GRID)))
    )
    certain = replace(BRIEF, mask=LearnedMask(prior_inside=0.999)).run(
        replace(pair, fixed_lesion=Image(lesion, GRID))
    )
    inside = [
        float(mask_of(result)[lesion > 0].mean()) for result in (without, with_prior, certain)
    ]
    assert inside[0] < inside[1] < inside[2]
    assert inside[2] > 0.8


@dataclass(frozen=True)
class UniformWeight:
    """A rule that believes that hardly anything has a counterpart: the known failure, a residual
    that may repaint everything.
    """

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        return replace(pair, fixed_lesion=Image(torch.ones_like(pair.fixed.data), GRID))

    def find(self, seen: Aligned, counterpart: Tensor, generator: torch.Generator) -> Tensor:
        return 0.98 * seen.weight.data


def test_a_free_residual_repaints_and_moves_nothing() -> None:
    """Judged by the repainted image it seems to work; judged by the map alone, as everything here
    is, it has done nothing.
    """
    pair = pair_of(4.0)
    free, gated = replace(BRIEF, mask=UniformWeight()).run(pair), BRIEF.run(pair)
    inside = ball(PLACE, 35.0)
    assert motion(free, inside) < 0.05
    assert motion(gated, inside) > 2.0
    assert free.change is not None
    assert gated.change is not None
    repainted = pair.moving.data + free.change.appearance_change.data
    before = float((inside * (pair.fixed.data - pair.moving.data).square()).sum())
    assert float((inside * (pair.fixed.data - repainted).square()).sum()) < 0.9 * before
    assert float(gated.change.appearance_change.data.square().mean()) < 1e-4


def test_the_same_seed_gives_the_same_mask(lesion: Tensor) -> None:
    pair = pair_of(2.0, lesion)
    quick = replace(BRIEF, registration=replace(FIT, scales=(Scale(6, 5),)))
    one, same, other = (quick.run(pair, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(mask_of(one), mask_of(same))
    assert not torch.equal(mask_of(one), mask_of(other))


def test_a_survey_comes_first_and_starts_nothing(lesion: Tensor) -> None:
    """Its scales stand in the history before the others; the fit begins at the identity again."""
    stage = replace(
        STAGE, survey=(Scale(6, 7),), registration=replace(FIT, scales=(Scale(6, 4), Scale(3, 3)))
    )
    history = stage.run(pair_of(2.0, lesion)).history
    assert [(record.level_mm, record.iteration) for record in history[:11]] == [
        (6, i) for i in range(7)
    ] + [(6, i) for i in range(4)]
    assert history[7].terms["bending"] == 0.0


def test_an_interrupt_keeps_what_was_found(lesion: Tensor) -> None:
    def stop(record: Record) -> None:
        if record.level_mm == 3:
            raise KeyboardInterrupt

    result = STAGE.run(pair_of(2.0, lesion), progress=stop)
    assert result.outcome is Outcome.INTERRUPTED
    assert result.change is not None
    assert dice(mask_of(result), lesion) > 0.5


def test_an_interrupt_before_the_fit_sees_as_well_keeps_the_survey(lesion: Tensor) -> None:
    records: list[Record] = []

    def stop(record: Record) -> None:
        records.append(record)
        # there, back, and there again from the start
        if len([each for each in records if each.level_mm == 6 and each.iteration == 0]) == 3:
            raise KeyboardInterrupt

    pair = pair_of(3.0)
    result, plain = STAGE.run(pair, progress=stop), FIT.run(pair)
    assert result.outcome is Outcome.INTERRUPTED
    assert motion(result, ball(PLACE, 30.0)) > 0.7 * motion(plain, ball(PLACE, 30.0))


def test_an_interrupt_of_the_mask_ends_the_run(
    lesion: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> Outcome:
        return Outcome.INTERRUPTED

    monkeypatch.setattr(Posterior, "fit", stop)
    result = BRIEF.run(pair_of(2.0, lesion))
    assert result.outcome is Outcome.INTERRUPTED
    assert {record.level_mm for record in result.history} == {6}
    assert result.change is None


def test_a_fit_that_diverges_on_the_way_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Registration.fit

    def diverge(self: Registration, *arguments: Any) -> tuple[Outcome, list[Record]]:
        _, history = fit(self, *arguments)
        at_6_mm = self.scales[0].spacing_mm == 6
        return Outcome.DIVERGED if at_6_mm else Outcome.CONVERGED, history

    monkeypatch.setattr(Registration, "fit", diverge)
    quick = replace(BRIEF, registration=replace(FIT, scales=(Scale(6, 2), Scale(3, 2))))
    result = quick.run(pair_of())
    assert result.outcome is Outcome.DIVERGED
    assert result.notes["outcome_back"] == "diverged"


def test_a_start_that_is_not_linear_is_inverted_for_the_way_back() -> None:
    pair = pair_of(3.0)
    start = FIT.run(pair).transform
    result = replace(BRIEF, registration=replace(FIT, scales=(Scale(6, 3),))).run(pair, start)
    assert result.change is not None
    assert float((result.change.vanished.data > 0.5).float().mean()) < 0.01
    assert motion(result, ball(PLACE, 30.0)) > 0.8 * motion(
        replace(result, transform=start), ball(PLACE, 30.0)
    )


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(InputError, match="a ready BSpline serves one"):
        replace(
            STAGE,
            registration=replace(FIT, transform=FreeForm(20.0).build(GRID, torch.Generator())),
        ).run(pair_of())
    with pytest.raises(InputError, match="the survey looks closer than the fit"):
        replace(STAGE, survey=(Scale(2, 5),)).run(pair_of())


def test_too_much_without_counterpart_is_said(caplog: pytest.LogCaptureFixture) -> None:
    replace(BRIEF, mask=UniformWeight(), registration=replace(FIT, scales=(Scale(6, 2),))).run(
        pair_of()
    )
    assert "98 % of the fixed image was found to have no counterpart" in caplog.text


def test_it_runs_on_any_device(device: torch.device, lesion: Tensor) -> None:
    quick = replace(BRIEF, registration=replace(FIT, scales=(Scale(6, 3),)))
    result = quick.run(pair_of(1.0, lesion).to(device))
    assert result.change is not None
    assert (
        result.change.non_correspondence.device.type
        == result.change.appearance_change.device.type
        == device.type
    )
