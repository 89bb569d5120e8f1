"""Going on from a free-form deformation that another stage has found."""

import copy
from dataclasses import dataclass, replace

from inrreg.errors import InputError
from inrreg.pair import Pair
from inrreg.registration import Registration
from inrreg.stage import Progress, StageResult
from inrreg.transforms import BSpline, Composite, Transform


@dataclass(frozen=True)
class Refinement:
    """Runs ``stage`` on the spline that ``initial`` begins with, instead of on a new one before it.

    The penalties then see the whole deformation, not what is added to it, and a step costs no walk along a chain. The model in ``stage.transform`` is not built.
    """

    stage: Registration

    @property
    def name(self) -> str:
        return self.stage.name

    def run(self, pair: Pair, initial: Transform | None = None, *, seed: int = 0, progress: Progress | None = None) -> StageResult:
        """The result of the stage; ``initial`` itself is left as it was.

        Raises:
            InputError: ``initial`` does not begin with a ``BSpline``, as what ``graphreg`` finds does.
        """
        chain = initial.chain if isinstance(initial, Composite) else [initial]
        if not isinstance(chain[0], BSpline):
            raise InputError(
                f"a refinement goes on from a free-form deformation, but was given {type(chain[0]).__name__ if initial is not None else 'nothing'}; run a graph stage before it, or its stage alone"
            )
        rest = [part for part in chain[1:] if part is not None]
        return replace(self.stage, transform=copy.deepcopy(chain[0])).run(pair, Composite(rest) if rest else None, seed=seed, progress=progress)
