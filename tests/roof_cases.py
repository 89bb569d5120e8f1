"""What the tests of the roof share: a small pair with known truth, a preset that ends in a blink,
and stages that misbehave.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points
from inrreg.core.image_pair import ImagePair
from inrreg.objective.features import RobustWindow
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, Record, StageResult
from inrreg.penalties import Bending
from inrreg.phantoms import PhantomPair, blob_pair, save_pair
from inrreg.presets import Preset
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.transforms import FreeForm, Transform, identity

CONTINUOUS = Registration(
    FreeForm(24.0),
    similarities=(MSE(weight=20.0),),
    penalties=(Bending(0.1),),
    scales=(Scale(8, 12), Scale(6, 12, 16.0)),
)
TINY = Preset("tiny", "for tests", RobustWindow(), (InitialTranslation(), CONTINUOUS))
"""A tenth of a second; halves the landmark error of the pairs below."""


def pair_3d() -> PhantomPair:
    return blob_pair((22, 18, 15), spacing=(3.1, 3.4, 4.3), shift_mm=6.0, seed=1)


def pair_2d() -> PhantomPair:
    return blob_pair((36, 32), shift_mm=6.0, seed=1)


def saved(pair: PhantomPair, folder: Path) -> Path:
    """The folder that holds the files of ``pair``."""
    save_pair(pair, folder)
    return folder


def landmarks_of(pair: PhantomPair, prefix: str = "") -> tuple[Points, Points]:
    """The landmark pairs of a phantom, the first half labelled as group A, the other as B."""
    labels = tuple(
        f"{'A' if i < len(pair.fixed_landmarks) // 2 else 'B'}{i}"
        for i in range(len(pair.fixed_landmarks))
    )
    return Points(pair.fixed_landmarks.coords, labels, f"{prefix}fixed"), Points(
        pair.moving_landmarks.coords, labels, f"{prefix}moving"
    )


@dataclass(frozen=True)
class Alarm:
    """A stage that must not be reached."""

    name: str = "alarm"

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        raise AssertionError("a stage ran")


@dataclass(frozen=True)
class Ending:
    """A stage that finds the identity and ends as told, or raises what it is told."""

    outcome: Outcome = Outcome.CONVERGED
    error: BaseException | None = None
    name: str = "ending"

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        if self.error is not None:
            raise self.error
        return StageResult(
            self.name,
            identity(pair.fixed.grid.ndim) if initial is None else initial,
            self.outcome,
            0.0,
        )


ALARM = Preset("alarm", "runs nothing", RobustWindow(), (Alarm(),))


def interrupting(after: int) -> Callable[[Record], None]:
    """A progress callback that is Ctrl-C after so many iterations of all levels together."""
    seen: list[Record] = []

    def watch(record: Record) -> None:
        seen.append(record)
        if len(seen) == after:
            raise KeyboardInterrupt

    return watch


def everywhere(grid: Grid, value: float, name: str = "mask") -> LabelImage:
    return LabelImage.from_array(np.full(grid.shape, value, np.uint8), grid, name)


def with_values(image: Image, change: Callable[[np.ndarray], None]) -> Image:
    """A copy of ``image`` whose array ``change`` has changed in place."""
    array = image.numpy().copy()
    change(array)
    return Image.from_array(array, image.grid, image.name)
