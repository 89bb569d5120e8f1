"""How an optimisation ended, each end with what to do about it."""

from collections.abc import Sequence
from enum import Enum


class Outcome(Enum):
    """The value is the sentence for the user."""

    CONVERGED = "The cost had stopped falling."
    ITERATION_LIMIT = (
        "All iterations were used; if the cost was still falling, ask for more of them."
    )
    DIVERGED = (
        "The cost rose well above its start; lower the learning rate or look at the images'"
        " alignment in the report."
    )
    NON_FINITE = (
        "The cost became NaN or infinite and the last finite state was kept; lower the learning"
        " rate, and check the images for extreme intensities."
    )
    FOLDED = (
        "More of the map is folded than allowed; raise the weight of a penalty or use coarser"
        " control spacing."
    )
    INTERRUPTED = "Stopped on request; the state of the last whole iteration was kept."

    @property
    def usable(self) -> bool:
        """Whether the field is what the optimiser wanted to find."""
        return self in (Outcome.CONVERGED, Outcome.ITERATION_LIMIT)

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


def overall(outcomes: Sequence[Outcome]) -> Outcome:
    """How a chain of fits ended: the first outcome that is not usable, else the last one; converged
    where there was nothing to do.
    """
    return next(
        (each for each in outcomes if not each.usable),
        outcomes[-1] if outcomes else Outcome.CONVERGED,
    )
