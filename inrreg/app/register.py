"""Run a registration: load the inputs of a request, run the stages of its preset, measure, and give
a result that can be saved.
"""

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from inrreg.app.contrasts import in_units_of, seen_at_once
from inrreg.app.load import Job, load
from inrreg.app.metrics import (
    SCHEMA,
    final_outcome,
    key,
    measurements,
    peak_memory_mb,
    rendered,
    stage_entry,
    strict,
)
from inrreg.app.request import Request
from inrreg.app.result import Result
from inrreg.app.typed_metrics import Metrics
from inrreg.app.warnings import collected_warnings
from inrreg.core.errors import RegistrationError
from inrreg.core.image_pair import ImagePair
from inrreg.core.precision import full_single_precision
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import limit_threads
from inrreg.evaluation import jacobian_statistics
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.stages.protocol import STOPPING_OUTCOMES, Stage
from inrreg.transforms import Transform

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def _with_arguments_of(
    request: Callable[P, Request],
) -> Callable[[Callable[[Request], R]], Callable[P, R]]:
    """Turns a function of a ``Request`` into one of the fields of ``Request``."""

    def decorated(function: Callable[[Request], R]) -> Callable[P, R]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(request(*args, **kwargs))

        returned = inspect.signature(function).return_annotation
        signature = inspect.signature(request).replace(return_annotation=returned)
        vars(called)["__signature__"] = signature
        return called

    return decorated


@_with_arguments_of(Request)
def register(request: Request) -> Result:
    """Find the map from fixed to moving world points; the arguments are the fields of ``Request``.

    Images and masks (1 means "use this") are paths, nibabel or SimpleITK images, ``Image``, or
    numpy arrays with one ``spacing`` (mm) or ``affine`` for all of them. Landmarks are a CSV path
    of pairs or ``(fixed, moving)``, each ``Points``, a path or an array ``[n, d]``, RAS mm.
    ``landmarks`` measure the error and ``guide_landmarks`` take part in the fit. ``contrasts`` are
    further contrasts of the pair, ``(fixed, moving)`` each. Lesion masks (1 means "has no
    counterpart") are for presets such as pathology: with the ``mask_mode`` "fixed" they are used
    unchanged, with "prior" they help to find regions without a counterpart, with "learn" none is
    given. ``settings`` change values of the preset, such as
    ``{"continuous.optimiser.learning_rate": 0.2}``. ``initial`` maps fixed to moving points and is
    improved. The same inputs, seed and thread count give the same field, bit for bit, on a CPU. A
    registration that needs more than ``max_memory_mb`` of memory by our estimate is refused. A
    KeyboardInterrupt ends the run with the map found so far: the outcome is ``INTERRUPTED``.

    Raises:
        InputError: something about the input is wrong; nothing has been computed then.
        RegistrationError: out of memory.
    """
    return register_request(request)


@_with_arguments_of(Request)
def prepare(request: Request) -> Job:
    """Load and check everything ``register`` needs, without computing anything; arguments and
    errors are those of ``register``.
    """
    return load(request)


def register_request(request: Request) -> Result:
    """What ``register`` does, from a request; raises what ``register`` raises."""
    return run(load(request), request.progress)


def run(job: Job, progress: Progress | None = None) -> Result:
    """Run the stages of a prepared job, then measure.

    Raises:
        InputError: a stage cannot work on these images.
        RegistrationError: out of memory.
    """
    try:
        with collected_warnings() as notes, limit_threads(job.threads), full_single_precision():
            return _run(job, progress, notes)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RegistrationError(
            f"out of memory on {job.device}"
            f" ({str(error).splitlines()[0] if str(error) else 'no detail'}); take a preset with"
            " coarser levels, smaller images or another device"
        ) from error


def _run(job: Job, progress: Progress | None, notes: list[str]) -> Result:
    watch = Stopwatch()
    pair = job.pair.to(job.device)
    if job.device.type == "cuda":
        # after the first copy to the device, which initialises CUDA
        torch.cuda.reset_peak_memory_stats(job.device)
    contrasts = [(fixed.to(job.device), moving.to(job.device)) for fixed, moving in job.contrasts]
    seen = seen_at_once(pair, contrasts, job.preset.intensity)
    stages = run_stages(
        job.preset.stages, seen, copy.deepcopy(job.initial), seed=job.seed, progress=progress
    )
    fitted, transform = watch.seconds, stages[-1].transform
    on_grid = rendered(pair, transform)
    numbers = measurements(pair, transform, on_grid, job.landmarks)
    folded = jacobian_statistics(on_grid.determinant, pair.fixed_mask).folded_percent
    outcome = final_outcome(stages, folded, job.preset.folding_limit_percent)
    measured = watch.seconds - fitted
    metrics = {
        "schema": SCHEMA,
        "outcome": {"name": key(outcome), "message": outcome.value},
        "notes": [*job.notes, *notes],
        "stages": [stage_entry(stage, job.landmarks) for stage in stages],
        "time_s": {
            "loading": job.loading_s,
            "stages": fitted,
            "measuring": measured,
            "total": job.loading_s + fitted + measured,
        },
        "memory_mb": peak_memory_mb(job.device),
        **numbers,
    }
    history = [record for stage in stages for record in stage.history]
    matched = next(
        (stage.correspondences for stage in reversed(stages) if stage.correspondences is not None),
        None,
    )
    change = next(
        (
            in_units_of(stage.change, job.pair.fixed, seen.fixed)
            for stage in reversed(stages)
            if stage.change is not None
        ),
        None,
    )
    return Result(
        transform.to("cpu"),
        pair.fixed.grid,
        outcome,
        Metrics.from_json(strict(metrics)),
        job.config,
        job.pair,
        job.landmarks,
        history,
        on_grid.to("cpu"),
        matched,
        change,
    )


def run_stages(
    stages: Sequence[Stage],
    pair: ImagePair,
    initial: Transform | None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[StageResult]:
    """Each stage from what the one before found; an interrupt or a non-finite cost ends the chain
    with what was reached.

    Raises:
        KeyboardInterrupt: before the first stage has found anything.
    """
    results: list[StageResult] = []
    for stage in stages:
        watch = Stopwatch()
        try:
            results.append(
                stage.run(
                    pair,
                    results[-1].transform if results else initial,
                    seed=seed,
                    progress=progress,
                )
            )
        except KeyboardInterrupt:
            if not results:
                raise
            results.append(
                StageResult(
                    stage.name,
                    results[-1].transform,
                    Outcome.INTERRUPTED,
                    watch.seconds,
                    kept=False,
                )
            )
        if results[-1].outcome in STOPPING_OUTCOMES:
            log.warning("%s", _early_end(results))
            break
    return results


def _early_end(results: Sequence[StageResult]) -> str:
    """Where the last stage ended, and what was kept."""
    last = results[-1]
    why = (
        "was stopped on request"
        if last.outcome is Outcome.INTERRUPTED
        else "met a cost that is not finite"
    )
    if not last.history:
        return (
            f"stage {last.name} {why} before its first iteration was done;"
            f" {f'what stage {results[-2].name} found' if len(results) > 1 else 'the start'} is"
            " kept"
        )
    at = last.history[-1]
    return (
        f"stage {last.name} {why} at {at.level_mm:g} mm; the map after iteration {at.iteration + 1}"
        f" of {at.iterations} is kept"
    )
