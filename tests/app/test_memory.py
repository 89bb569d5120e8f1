"""The estimate of memory, and the limit that is held against it before any work."""

from dataclasses import replace

import pytest
import torch
from roof_cases import ALARM, TINY, everywhere, pair_3d, with_values

import inrreg
from graphreg.graph_registration import GraphRegistration
from graphreg.keypoints import RegularKeypoints
from graphreg.labels import Labels
from graphreg.search import Search
from inrreg.app.memory import (
    BASE_MB,
    CHANNEL_BYTES,
    FEATURES,
    LEVEL_BYTES,
    MEASURING_BYTES,
    OTHER_VOLUMES,
    VOLUMES,
    check_memory,
    estimated_mb,
    scales_of,
)
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.objective.features import RobustWindow
from inrreg.presets import PRESETS, Preset, preset
from inrreg.stages.refinement import Refinement


def pair_of(n: int, spacing: float = 1.0) -> ImagePair:
    image = Image(torch.zeros(1, 1, 1, 1).expand(1, n, n, n), Grid.from_spacing((n, n, n), spacing))
    return ImagePair(image, image)


def masked(n: int, inner: int) -> ImagePair:
    """A cube whose mask is a cube in its midst."""
    pair, first = pair_of(n), (n - inner) // 2
    mask = with_values(
        everywhere(pair.fixed.grid, 0),
        lambda array: array.__setitem__((slice(first, first + inner),) * 3, 1),
    )
    return replace(pair, fixed_mask=mask)


def search_mb(pair: ImagePair, search: Search) -> float:
    """What the estimate counts for a search beside libraries and images."""
    chosen = Preset("searching", "", RobustWindow(), (GraphRegistration((search,)),))
    return estimated_mb(pair, chosen) - BASE_MB - 24 * pair.fixed.grid.n_voxels / 1e6


def test_the_finest_level_counts() -> None:
    brain = preset("brain")  # down to 1 mm
    n = 100**3
    assert estimated_mb(pair_of(100), brain) == pytest.approx(
        BASE_MB + (24 * n + LEVEL_BYTES * n) / 1e6
    )
    # levels are an eighth of the image
    assert estimated_mb(pair_of(100, 0.5), brain) == pytest.approx(
        BASE_MB + (24 * n + MEASURING_BYTES * n) / 1e6
    )


def test_a_level_reaches_as_far_as_its_mask() -> None:
    box = 80 + 2 * 4  # 4 sites to either side
    assert estimated_mb(masked(100, 80), preset("brain")) == pytest.approx(
        BASE_MB + (28 * 100**3 + LEVEL_BYTES * box**3) / 1e6
    )
    # the grown mask
    assert estimated_mb(masked(100, 98), preset("brain")) == pytest.approx(
        estimated_mb(pair_of(100), preset("brain")) + 4
    )


def test_two_ways_may_be_fitted_at_once() -> None:
    pair, stage = (
        pair_of(100),
        replace(preset("lung").stages[-1], stage=Refinement(preset("brain").stages[-1])),
    )
    both = Preset("both", "", RobustWindow(), (stage,))
    assert estimated_mb(pair, both) - estimated_mb(pair, preset("brain")) == pytest.approx(
        LEVEL_BYTES
    )
    assert estimated_mb(replace(pair, moving=pair_of(50).moving), both) == pytest.approx(
        BASE_MB + (12 + LEVEL_BYTES) * (100**3 + 50**3) / 1e6
    )


def test_further_contrasts_are_held_twice_and_fitted_too() -> None:
    one, three = (estimated_mb(pair_of(100), preset("brain"), contrasts) for contrasts in (1, 3))
    assert three - one == pytest.approx((2 * 2 * 4 * 2 + 2 * CHANNEL_BYTES) * 100**3 / 1e6)


def test_a_search_holds_features_and_volumes() -> None:
    search = Search(Labels(8.0, 2.0), spacing_mm=1.0)
    sites = (40 + 2 * 10) ** 3  # 8 + 2 mm to either side of the mask, beyond the image too
    assert search_mb(masked(44, 40), search) == pytest.approx(
        4 * ((2 * FEATURES + OTHER_VOLUMES) * sites + VOLUMES * 2000 * 9**3) / 1e6
    )
    assert search_mb(pair_of(44), search) > search_mb(masked(44, 40), search)
    wider = replace(search, labels=Labels(16.0, 2.0))
    assert search_mb(pair_of(44), wider) > 4 * VOLUMES * 2000 * 17**3 / 1e6
    lattice = replace(search, detector=RegularKeypoints(4.0))
    assert search_mb(pair_of(44), lattice) == pytest.approx(
        search_mb(pair_of(44), search) + 4 * VOLUMES * (11**3 - 2000) * 9**3 / 1e6
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "graph"])
def test_every_preset_shows_its_levels(name: str) -> None:
    assert any(scales_of(stage) for stage in preset(name).stages[-1:])


def test_a_limit_is_held_before_any_work() -> None:
    pair = pair_3d()
    with pytest.raises(
        InputError,
        match=r"needs about \d+ MB for these images, and 100 MB are allowed; no image would fit",
    ):
        inrreg.register(pair.fixed, pair.moving, preset=ALARM, max_memory_mb=100)
    with pytest.raises(InputError, match="must be above 0 MB"):
        inrreg.register(pair.fixed, pair.moving, preset=ALARM, max_memory_mb=0)
    assert inrreg.register(pair.fixed, pair.moving, preset=TINY, max_memory_mb=1000).outcome.usable


def test_it_says_what_would_fit() -> None:
    brain, pair = preset("brain"), pair_of(100)
    half = BASE_MB + 0.5 * (estimated_mb(pair, brain) - BASE_MB)
    with pytest.raises(InputError, match="images of 50 % as many voxels would fit"):
        check_memory(pair, brain, half)
    check_memory(pair, brain, 1.01 * estimated_mb(pair, brain))
