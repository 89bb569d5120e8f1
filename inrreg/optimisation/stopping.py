"""When to stop: the slope of the smoothed cost."""

from dataclasses import dataclass

import numpy as np

from inrreg.core.settings_checks import check_count, check_not_negative


@dataclass(frozen=True)
class SlopeStopping:
    """Converged when a line through the last ``window`` costs falls by less than ``tolerance`` of
    the cost an iteration.
    """

    window: int = 20
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_count(self, "window", least=2)
        check_not_negative(self, "tolerance")

    def converged(self, costs: list[float]) -> bool:
        """Whether ``costs``, one an iteration, have stopped falling."""
        if len(costs) < 2 * self.window:
            return False
        recent = np.array(costs[-self.window :])
        slope = np.polyfit(np.arange(self.window), recent, 1)[0]
        return bool(slope > -self.tolerance * max(abs(recent.mean()), 1e-12))


@dataclass(frozen=True)
class NeverStopping:
    """Always uses all iterations."""

    def converged(self, costs: list[float]) -> bool:
        """Never."""
        return False
