"""What a preset is: what is done to the intensities, and the stages that follow."""

from collections.abc import Callable
from dataclasses import dataclass, field

from inrreg.core.image import Image
from inrreg.objective.features import Feature, RobustWindow
from inrreg.stages.protocol import Stage


@dataclass(frozen=True)
class Preset:
    """``intensity`` is applied to both images once; ``stages`` run one after the other, each from
    what the last one found; more folding than the limit is an outcome.

    ``find_mask`` finds the mask of an image, before ``intensity``, where none is given.
    """

    name: str
    description: str
    intensity: Feature = field(default_factory=RobustWindow)
    stages: tuple[Stage, ...] = ()
    find_mask: Callable[[Image], Image] | None = None
    folding_limit_percent: float = 0.5
