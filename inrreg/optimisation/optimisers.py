"""O: what moves the parameters downhill."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from inrreg.core.settings_checks import check_above_zero, check_count
from inrreg.core.threads import Cancelled
from inrreg.optimisation.moments import AdamState
from inrreg.optimisation.outcome import Outcome
from inrreg.optimisation.stopping import NeverStopping, SlopeStopping

Cost = Callable[[], Tensor]
"""The cost at the present parameters, with its gradient graph; it may draw new samples at each
call.
"""
Stopping = SlopeStopping | NeverStopping
SUFFICIENT = 1e-4
"""Share of the fall which the slope promises that a step must bring (Nocedal and Wright, Numerical
Optimization, 2006).
"""


class Optimiser(Protocol):
    """Minimises a cost over parameters, in place."""

    def minimise(
        self,
        cost: Cost,
        parameters: Iterable[nn.Parameter],
        iterations: int,
        learning_rate: float | None = None,
        watch: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """At most ``iterations`` steps; ``learning_rate`` replaces the optimiser's own; ``watch``
        is called after each with its number and cost.

        A KeyboardInterrupt ends the run as ``Outcome.INTERRUPTED`` with the parameters of the last
        whole step.
        """
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with a learning rate that falls by half a cosine to
    ``final_fraction`` of its start.

    For transforms whose parameters are mm (all but networks) the learning rate is about the mm a
    parameter moves a step.
    """

    learning_rate: float = 0.5
    final_fraction: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    stopping: Stopping = field(default_factory=SlopeStopping)

    def __post_init__(self) -> None:
        check_above_zero(self, "learning_rate", "final_fraction")

    def minimise(
        self,
        cost: Cost,
        parameters: Iterable[nn.Parameter],
        iterations: int,
        learning_rate: float | None = None,
        watch: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """See ``Optimiser``."""
        parameters = list(parameters)
        start = self.learning_rate if learning_rate is None else learning_rate
        step = AdamState(parameters, self.betas).step

        def one_step(iteration: int) -> float:
            rate = self.final_fraction + (1 - self.final_fraction) * 0.5 * (
                1 + math.cos(math.pi * iteration / max(1, iterations))
            )
            for parameter in parameters:
                parameter.grad = None
            value = cost()
            value.backward()
            step(start * rate)
            return float(value.detach())

        return descend(one_step, parameters, iterations, self.stopping, watch)


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS with a strong Wolfe line search of at most ``evaluations`` costs, for
    costs without random samples.
    """

    learning_rate: float = 1.0
    history: int = 10
    evaluations: int = 25
    stopping: Stopping = field(default_factory=lambda: SlopeStopping(window=5))

    def __post_init__(self) -> None:
        check_above_zero(self, "learning_rate")
        check_count(self, "history", "evaluations")

    def minimise(
        self,
        cost: Cost,
        parameters: Iterable[nn.Parameter],
        iterations: int,
        learning_rate: float | None = None,
        watch: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """See ``Optimiser``; an iteration is one line search."""
        parameters = list(parameters)
        rate = self.learning_rate if learning_rate is None else learning_rate
        lbfgs = torch.optim.LBFGS(
            parameters,
            lr=rate,
            max_iter=1,
            max_eval=1 + self.evaluations,
            history_size=self.history,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )
        scale = 1.0
        known: tuple[list[Tensor], list[Tensor | None], Tensor] | None = None

        def evaluate() -> Tensor:
            """A step begins where the line search before it ended, which has been evaluated."""
            nonlocal known
            if known is None or not all(
                torch.equal(p, before) for p, before in zip(parameters, known[0], strict=True)
            ):
                lbfgs.zero_grad()
                value = scale * cost()
                value.backward()
                known = _copied(parameters), [p.grad for p in parameters], value.detach()
            for parameter, gradient in zip(parameters, known[1], strict=True):
                parameter.grad = gradient
            return known[2]

        def one_step(iteration: int) -> float:
            nonlocal scale, known
            if iteration == 0:
                evaluate()
                scale, known = _unit_scale(parameters), None
            return float(lbfgs.step(evaluate).detach()) / scale

        return descend(one_step, parameters, iterations, self.stopping, watch)


@dataclass(frozen=True)
class GradientDescent:
    """Steepest descent; a step is halved until the cost falls as its slope promises (Armijo's rule,
    at most ``evaluations`` trials) and doubled for the next one. For costs without random samples.

    The first trial moves the parameter of the largest derivative by ``learning_rate``.
    """

    learning_rate: float = 0.5
    evaluations: int = 20
    stopping: Stopping = field(default_factory=SlopeStopping)

    def __post_init__(self) -> None:
        check_above_zero(self, "learning_rate")
        check_count(self, "evaluations")

    def minimise(
        self,
        cost: Cost,
        parameters: Iterable[nn.Parameter],
        iterations: int,
        learning_rate: float | None = None,
        watch: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """See ``Optimiser``."""
        parameters = list(parameters)
        length = self.learning_rate if learning_rate is None else learning_rate

        def one_step(iteration: int) -> float:
            nonlocal length
            for parameter in parameters:
                parameter.grad = None
            value = cost()
            value.backward()
            slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            if not all(bool(torch.isfinite(g).all()) for g in slopes):
                return math.nan
            if iteration == 0:
                length *= _unit_scale(parameters)
            start, steepness = _copied(parameters), sum(float(g.square().sum()) for g in slopes)
            for _ in range(self.evaluations):
                _restore(parameters, [p - length * g for p, g in zip(start, slopes, strict=True)])
                with torch.no_grad():
                    fallen = (
                        float(cost()) <= float(value.detach()) - SUFFICIENT * length * steepness
                    )
                length *= 2 if fallen else 0.5
                if fallen:
                    return float(value.detach())
            _restore(parameters, start)
            return float(value.detach())

        return descend(one_step, parameters, iterations, self.stopping, watch)


def _unit_scale(parameters: list[nn.Parameter]) -> float:
    """The factor that makes the largest derivative 1: torch's L-BFGS has a first step and
    thresholds for costs of that size, and a mean over voxels is far from it.
    """
    largest = max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)
    return 1 / largest if 0 < largest < math.inf else 1.0


@torch.enable_grad()
def descend(
    one_step: Callable[[int], float],
    parameters: list[nn.Parameter],
    iterations: int,
    stopping: Stopping,
    watch: Callable[[int, float], None] | None,
) -> Outcome:
    """Take steps until one of the outcomes is reached; ``one_step`` moves the parameters and
    returns the cost they had before it. Whoever calls may have gradients switched off.

    A non-finite cost brings back the last parameters whose cost was finite, an interrupt those
    after the last whole step.
    """
    costs: list[float] = []
    evaluated = reached = _copied(parameters)
    try:
        for iteration in range(iterations):
            value = one_step(iteration)
            if math.isfinite(value):
                evaluated = reached
            if not math.isfinite(value) or not all(
                bool(torch.isfinite(p).all()) for p in parameters
            ):
                _restore(parameters, evaluated)
                return Outcome.NON_FINITE
            reached = _copied(parameters)
            costs.append(value)
            if watch is not None:
                watch(iteration, value)
            if stopping.converged(costs):
                return Outcome.DIVERGED if _risen(costs) else Outcome.CONVERGED
    except (KeyboardInterrupt, Cancelled):
        _restore(parameters, reached)
        return Outcome.INTERRUPTED
    return Outcome.DIVERGED if _risen(costs) else Outcome.ITERATION_LIMIT


def _risen(costs: list[float]) -> bool:
    """Whether even the least of the last costs lies well above the first one: random samples make
    single ones noisy.
    """
    last = costs[-min(10, max(1, len(costs) // 2)) :]
    return bool(costs) and min(last) > costs[0] + max(0.5 * abs(costs[0]), 1e-3)


def _copied(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


def _restore(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
