"""Refining a free-form deformation that another stage has found."""

from dataclasses import dataclass, replace

from inrreg.core.errors import InputError
from inrreg.core.image_pair import ImagePair
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.stages.gradient_registration import Registration
from inrreg.transforms import BSpline, Composite, Transform


@dataclass(frozen=True)
class Refinement:
    """Runs ``stage`` on a copy of the spline that ``initial`` begins with, instead of on a new one.

    The penalties then act on the whole deformation, not only on what is added to it, and a step
    does not evaluate a chain. The model in ``stage.transform`` is not built.
    """

    stage: Registration

    @property
    def name(self) -> str:
        return self.stage.name

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """The result of the stage; ``initial`` itself is left as it was.

        Raises:
            InputError: ``initial`` does not begin with a ``BSpline``, as what ``graphreg`` finds
                does.
        """
        first, rest = (None, None) if initial is None else parted(initial)
        if not isinstance(first, BSpline):
            given = "nothing" if first is None else type(first).__name__
            raise InputError(
                f"a refinement goes on from a free-form deformation, but was given {given}; run a"
                " graph stage before it, or its stage alone"
            )
        return replace(self.stage, transform=first).run(pair, rest, seed=seed, progress=progress)


def parted(transform: Transform) -> tuple[Transform, Transform | None]:
    """The first transform of a chain, and the rest of it (None if there is none)."""
    first, *rest = transform.chain if isinstance(transform, Composite) else [transform]
    return first, Composite(rest) if rest else None
