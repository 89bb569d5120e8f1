"""Optimisers on costs whose minimum is known, each outcome provoked on purpose, and when they
stop.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inrreg.core.threads import Cancelled
from inrreg.optimisation import (
    LBFGS,
    Adam,
    GradientDescent,
    NeverStopping,
    Optimiser,
    Outcome,
    SlopeStopping,
)
from inrreg.optimisation.moments import AdamState

TARGET = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
STIFFNESS = torch.tensor([1.0, 4.0, 10.0, 0.5], dtype=torch.float64)
both = pytest.mark.parametrize(
    "optimiser", [Adam(0.2), LBFGS(), GradientDescent()], ids=["adam", "lbfgs", "gradient descent"]
)
patient = pytest.mark.parametrize(
    "optimiser",
    [
        Adam(0.2, stopping=NeverStopping()),
        LBFGS(stopping=NeverStopping()),
        GradientDescent(stopping=NeverStopping()),
    ],
    ids=["adam", "lbfgs", "gradient descent"],
)


def start() -> nn.Parameter:
    return nn.Parameter(torch.zeros(4, dtype=torch.float64))


def bowl(x: Tensor) -> Tensor:
    """A quadratic with its minimum of 0 at the target."""
    return (STIFFNESS * (x - TARGET) ** 2).sum()


# --- finding the minimum --------------------------------------------------------------------------


@both
def test_a_quadratic_bowl_is_solved(optimiser: Optimiser) -> None:
    x = start()
    outcome = optimiser.minimise(lambda: bowl(x), [x], 300)
    assert outcome is Outcome.CONVERGED
    # Adam is stopped while it swings about the minimum
    assert float(bowl(x).detach()) < 2e-3 * float(bowl(start()).detach())


@both
def test_a_caller_without_gradients_is_served_as_well(optimiser: Optimiser) -> None:
    x, y = start(), start()
    optimiser.minimise(lambda: bowl(x), [x], 5)
    with torch.no_grad():
        optimiser.minimise(lambda: bowl(y), [y], 5)
    assert torch.equal(x, y)
    assert not torch.equal(x, start())


@patient
def test_left_alone_it_reaches_the_minimum(optimiser: Optimiser) -> None:
    x = start()
    optimiser.minimise(lambda: bowl(x), [x], 300)
    torch.testing.assert_close(x.detach(), TARGET, rtol=0, atol=1e-3)


@pytest.mark.parametrize("unit", [1e-8, 1e-4, 1.0, 1e4])
@both
def test_the_unit_of_the_cost_does_not_matter(optimiser: Optimiser, unit: float) -> None:
    """Means over voxels give small costs and tiny gradients; nothing may take them for
    convergence.
    """
    x = start()
    optimiser.minimise(lambda: unit * bowl(x), [x], 60)
    assert float(bowl(x).detach()) < 1e-2 * float(bowl(start()).detach())


def test_lbfgs_needs_few_iterations_and_bends_round_a_valley() -> None:
    # Rosenbrock's function and start
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    LBFGS(stopping=NeverStopping()).minimise(
        lambda: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [x], 50
    )
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-3)


def test_lbfgs_asks_for_no_cost_twice() -> None:
    """A line search ends where the next step begins: its cost and gradient are known."""
    asked: list[Tensor] = []
    x = start()

    def cost() -> Tensor:
        asked.append(x.detach().clone())
        return bowl(x)

    LBFGS(stopping=NeverStopping()).minimise(cost, [x], 8)
    again = asked[1:]  # the first is asked for its scale, and once more in it
    assert len({tuple(position.tolist()) for position in again}) == len(again)


def test_gradient_descent_never_climbs() -> None:
    # Rosenbrock's function and start
    x, heard = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64)), []
    GradientDescent(50.0, stopping=NeverStopping()).minimise(
        lambda: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2,
        [x],
        60,
        watch=lambda _, value: heard.append(value),
    )
    assert heard == sorted(heard, reverse=True)
    assert heard[-1] < 0.2 * heard[0]


@patient
def test_several_parameters_are_moved_together(optimiser: Optimiser) -> None:
    x, y = start(), nn.Parameter(torch.tensor(5.0, dtype=torch.float64))
    optimiser.minimise(lambda: bowl(x) + (y + 1) ** 2, [x, y], 300)
    assert float(y.detach()) == pytest.approx(-1, abs=1e-3)
    torch.testing.assert_close(x.detach(), TARGET, rtol=0, atol=1e-3)


def test_adams_learning_rate_falls_by_half_a_cosine() -> None:
    """On a slope Adam's step is its learning rate: from the full one to a tenth of it."""
    x, seen = nn.Parameter(torch.zeros((), dtype=torch.float64)), [0.0]

    def cost() -> Tensor:
        seen.append(float(x.detach()))
        return 3.0 * x

    Adam(0.5, final_fraction=0.1, stopping=NeverStopping()).minimise(cost, [x], 101)
    steps = -np.diff(np.array(seen[1:]))
    expected = 0.5 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(100) / 101)))
    np.testing.assert_allclose(steps, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "optimiser", [Adam(0.7, stopping=NeverStopping()), LBFGS(0.7)], ids=["adam", "lbfgs"]
)
def test_a_learning_rate_of_the_call_replaces_its_own(optimiser: Optimiser) -> None:
    first = []
    for rate in (None, 1e-3):
        x = start()
        optimiser.minimise(lambda x=x: (STIFFNESS * x).sum(), [x], 1, rate)
        first.append(float(x.detach().abs().max()))
    assert first[1] < 0.01 * first[0]


@both
def test_watch_hears_of_every_iteration(optimiser: Optimiser) -> None:
    x, heard = start(), []
    optimiser.minimise(
        lambda: bowl(x), [x], 7, watch=lambda iteration, value: heard.append((iteration, value))
    )
    assert [iteration for iteration, _ in heard] == list(range(7))
    assert heard[0][1] == pytest.approx(float(bowl(start()).detach()))  # the cost before the step
    assert heard[-1][1] < heard[0][1]


@both
def test_the_same_run_again_gives_the_same_bits(optimiser: Optimiser) -> None:
    ends = []
    for _ in range(2):
        x = start()
        optimiser.minimise(lambda x=x: bowl(x), [x], 20)
        ends.append(x.detach())
    assert torch.equal(*ends)


# --- outcomes -------------------------------------------------------------------------------------


@both
def test_a_flat_cost_has_converged(optimiser: Optimiser) -> None:
    x, heard = start(), []
    assert (
        optimiser.minimise(
            lambda: bowl(TARGET + 0 * x) + 1, [x], 1000, watch=lambda *now: heard.append(now)
        )
        is Outcome.CONVERGED
    )
    assert len(heard) == 2 * optimiser.stopping.window  # type: ignore[attr-defined]


@both
def test_a_cost_that_still_falls_reaches_the_limit(optimiser: Optimiser) -> None:
    x = start()
    assert optimiser.minimise(lambda: bowl(x), [x], 4) is Outcome.ITERATION_LIMIT


@both
def test_no_iterations_change_nothing(optimiser: Optimiser) -> None:
    x = start()
    assert optimiser.minimise(lambda: bowl(x), [x], 0) is Outcome.ITERATION_LIMIT
    assert torch.equal(x.detach(), start().detach())


@pytest.mark.parametrize("iterations", [30, 200])
def test_a_cost_that_rises_has_diverged(iterations: int) -> None:
    """With or without enough iterations to look flat at the top."""
    calls = iter(range(10_000))
    x = nn.Parameter(TARGET.clone())
    assert (
        Adam(0.01).minimise(lambda: bowl(x) + 1 + min(next(calls), 60), [x], iterations)
        is Outcome.DIVERGED
    )


def test_noise_alone_has_not_diverged() -> None:
    """Costs of random samples: single ones differ by more than a divergence does."""
    rng = np.random.default_rng(0)
    x = nn.Parameter(TARGET.clone())
    values: list[float] = []
    outcome = Adam(1e-6, stopping=NeverStopping()).minimise(
        lambda: bowl(x) + 0.02 * rng.lognormal(0, 0.7),
        [x],
        60,
        watch=lambda _, value: values.append(value),
    )
    assert max(values) > 3 * values[0] > 0
    assert outcome is Outcome.ITERATION_LIMIT


def test_a_learning_rate_far_too_large_has_diverged() -> None:
    x = start()
    assert Adam(300.0).minimise(lambda: bowl(x), [x], 10) is Outcome.DIVERGED


@pytest.mark.parametrize("broken", [math.nan, math.inf])
# gradient descent backs away from the wall
@pytest.mark.parametrize("optimiser", [Adam(0.2), LBFGS()], ids=["adam", "lbfgs"])
def test_a_cost_that_breaks_keeps_the_last_parameters_of_finite_cost(
    optimiser: Optimiser, broken: float
) -> None:
    """Beyond a wall the cost is not finite: what is kept lies before it."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def cost() -> Tensor:
        return (-x if float(x.detach()) < 0.7 else -x * broken).sum()

    history: list[float] = []
    assert (
        optimiser.minimise(cost, [x], 200, watch=lambda _, value: history.append(value))
        is Outcome.NON_FINITE
    )
    kept = float(cost().detach())
    assert math.isfinite(kept)
    assert kept == history[-1]
    assert kept <= 0


@both
def test_a_gradient_that_breaks_keeps_the_last_finite_parameters(optimiser: Optimiser) -> None:
    """sqrt(0) is finite, its derivative is not."""
    x = start()
    assert optimiser.minimise(lambda: torch.sqrt(x**2).sum(), [x], 10) is Outcome.NON_FINITE
    assert torch.equal(x.detach(), start().detach())


@both
def test_a_cost_broken_from_the_start_leaves_the_parameters(optimiser: Optimiser) -> None:
    x = start()
    assert optimiser.minimise(lambda: bowl(x) * math.nan, [x], 10) is Outcome.NON_FINITE
    assert torch.equal(x.detach(), start().detach())


def interrupting(function: Callable, calls: int) -> Callable:
    """``function``, but the call of that number is Ctrl-C."""
    left = iter(range(calls, -1, -1))

    def call(*arguments: object) -> object:
        if next(left) == 1:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


@both
def test_an_interrupt_while_watching_keeps_the_step_that_was_made(optimiser: Optimiser) -> None:
    x, states = start(), []
    watch = interrupting(lambda *_: states.append(x.detach().clone()), 4)
    assert optimiser.minimise(lambda: bowl(x), [x], 50, watch=watch) is Outcome.INTERRUPTED
    y = start()
    optimiser.minimise(lambda: bowl(y), [y], 50, watch=interrupting(lambda *_: None, 4))
    assert len(states) == 3
    assert torch.equal(x, y)
    assert float(bowl(x).detach()) < float(bowl(states[-1]))


@both
def test_cancelled_work_stops_as_an_interrupt_does(optimiser: Optimiser) -> None:
    def cancel(iteration: int, cost: float) -> None:
        if iteration == 3:
            raise Cancelled

    x, y = start(), start()
    assert optimiser.minimise(lambda: bowl(x), [x], 50, watch=cancel) is Outcome.INTERRUPTED
    optimiser.minimise(lambda: bowl(y), [y], 50, watch=interrupting(lambda *_: None, 4))
    assert torch.equal(x, y)


@pytest.mark.parametrize("call", [1, 2, 5])
@both
def test_an_interrupt_within_a_step_keeps_the_last_whole_one(
    optimiser: Optimiser, call: int
) -> None:
    x, states = start(), [start().detach().clone()]
    cost = interrupting(lambda: bowl(x), call)
    assert (
        optimiser.minimise(cost, [x], 50, watch=lambda *_: states.append(x.detach().clone()))
        is Outcome.INTERRUPTED
    )
    assert torch.equal(x.detach(), states[-1])


@both
def test_other_errors_come_through(optimiser: Optimiser) -> None:
    x = start()

    def cost() -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        optimiser.minimise(cost, [x], 5)


def test_every_outcome_says_what_to_do() -> None:
    assert {outcome for outcome in Outcome if outcome.usable} == {
        Outcome.CONVERGED,
        Outcome.ITERATION_LIMIT,
    }
    assert Outcome.NON_FINITE.label == "non finite"
    assert all(outcome.value.endswith(".") and len(outcome.value) > 20 for outcome in Outcome)


# --- stopping -------------------------------------------------------------------------------------


def stops_at(stopping: SlopeStopping, costs: np.ndarray) -> int | None:
    """After how many costs it says stop."""
    return next(
        (n for n in range(1, len(costs) + 1) if stopping.converged(costs[:n].tolist())), None
    )


def test_a_line_is_judged_by_its_slope_relative_to_the_cost() -> None:
    stopping = SlopeStopping(window=10, tolerance=1e-3)
    for level in (1.0, 1e-6, 1e6):
        # falls by less than a thousandth of 1 an iteration
        assert stops_at(stopping, level * np.linspace(1, 1 - 0.9e-3 * 40, 40)) == 20
        assert stops_at(stopping, level * np.linspace(1, 1 - 1.2e-3 * 40, 40)) is None
    assert stops_at(stopping, np.zeros(40)) == 20


def test_an_exponential_stops_when_its_slope_falls_below_the_tolerance() -> None:
    """cost = 1 + exp(-t / 50): the slope exp(-t / 50) / 50 is a thousandth of the cost at t =
    150.
    """
    count = stops_at(SlopeStopping(window=10, tolerance=1e-3), 1 + np.exp(-np.arange(400) / 50))
    assert count == pytest.approx(150 + 5, abs=3)  # the line is fitted to the last ten


def test_noise_does_not_hide_a_slope_that_is_clearly_above_it() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, 200)
    # a line through 20 points errs by 0.002 (12 / 20^3)^0.5 = 8e-5, the slope is 2.5e-3
    falling = np.linspace(1, 0.5, 200) + noise
    assert stops_at(SlopeStopping(), falling) is None
    assert stops_at(SlopeStopping(), 0.5 + noise) is not None


def test_never_stopping_never_stops() -> None:
    assert not NeverStopping().converged([1.0] * 1000)
    x = start()
    assert (
        Adam(0.5, stopping=NeverStopping()).minimise(lambda: bowl(0 * x + TARGET), [x], 100)
        is Outcome.ITERATION_LIMIT
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adams_arithmetic_is_torchs(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Parameters of several pieces, in any layout; one that has no gradient stays, and its steps
    are not counted.
    """
    starts = [
        torch.randn(70, 90, generator=generator, dtype=torch.float64).T,
        torch.randn(3, generator=generator, dtype=torch.float64),
        torch.ones(2, dtype=torch.float64),
    ]
    ours, theirs = (
        [nn.Parameter(start.to(dtype)) for start in starts],
        [nn.Parameter(start.clone()) for start in starts],
    )
    moments, adam = (
        AdamState(ours, (0.9, 0.99)),
        torch.optim.Adam(theirs, lr=0.3, betas=(0.9, 0.99)),
    )
    for iteration in range(20):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            gradient = (
                torch.randn(other.shape[::-1], generator=generator, dtype=torch.float64)
                .movedim(0, -1)
                .to(dtype)
                * 1e-3
            )
            mine.grad, other.grad = (
                (None, None) if index == 2 and iteration % 3 else (gradient, gradient.double())
            )
        moments.step(0.3)
        adam.step()
    for mine, other in zip(ours, theirs, strict=True):
        # twenty steps of 0.3, each wrong by a few roundings of its own size and of the parameter's
        torch.testing.assert_close(mine.double(), other, rtol=0, atol=200 * torch.finfo(dtype).eps)
