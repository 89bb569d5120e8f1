"""The command line: verbs over the Python API, nothing more. The same preset gives the same field from Python."""

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tyro.conf import Positional, arg

from inrreg.console import err, metrics_table, out, progress_bar, set_up_logging
from inrreg.errors import InputError, OutputError, RegistrationError
from inrreg.optimisation import Outcome

log = logging.getLogger("inrreg.cli")

EXIT = {Outcome.CONVERGED: 0, Outcome.ITERATION_LIMIT: 0, Outcome.DIVERGED: 4, Outcome.NON_FINITE: 4, Outcome.FOLDED: 5, Outcome.INTERRUPTED: 130}
BAD_INPUT, FAILED, STOPPED = 2, 3, 130

Output = Annotated[Path, arg(aliases=["-o"])]
File = Annotated[Path, Positional]
Verbosity = Annotated[int, arg(aliases=["-v"])]


def register(
    fixed: File,
    moving: File,
    output: Output,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    landmarks: Path | None = None,
    guide_landmarks: Path | None = None,
    preset: str = "default",
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    dry_run: Annotated[bool, arg(help="Check everything, say what would be done, and stop.")] = False,
    verbosity: Verbosity = 0,
) -> int:
    """Find the map from the fixed to the moving image and write it, the warped image, metrics and a report.

    Args:
        fixed: Image whose grid the result lives on (NIfTI, MetaImage, NRRD, PNG).
        moving: Image to be aligned with it.
        output: Result folder; an older result of ours there is replaced.
        fixed_mask: 1 where the fixed image shall be used.
        moving_mask: 1 where the moving image shall be used.
        landmarks: CSV of point pairs that judge the result; never seen by the fit.
        guide_landmarks: CSV of point pairs that pull the fit.
        preset: default, lung, liver or brain.
        device: cpu, cuda or cuda:N.
        seed: Start of all random numbers.
        threads: CPU threads; as many as torch chooses unless given.
        verbosity: -1 quiet, 0 one line a level, 1 everything.
    """
    from inrreg.recipes import prepare, run
    from inrreg.result import check_output

    set_up_logging(verbosity)
    check_output(output)
    job = prepare(fixed, moving, preset=preset, fixed_mask=fixed_mask, moving_mask=moving_mask, landmarks=landmarks, guide_landmarks=guide_landmarks, device=device, seed=seed, threads=threads)
    check_output(output, job.pair.fixed.grid)
    if dry_run:
        _show_plan(job)
        return 0
    with progress_bar(enabled=verbosity >= 0 and err.is_terminal) as progress:
        result = run(job, landmarks, progress)
    result.save(output)
    out.print(metrics_table(result.metrics, f"{fixed.name} <- {moving.name}"))
    out.print(f"report: {output / 'report.html'}", soft_wrap=True, highlight=False)
    if not result.outcome.usable:
        log.warning("%s: %s", result.outcome.label, result.outcome.value)
    return EXIT[result.outcome]


def warp(
    image: File,
    result: File,
    output: Output,
    interpolation: Literal["linear", "cubic", "nearest"] = "linear",
) -> int:
    """Carry an image of the moving space onto the fixed grid.

    Args:
        image: Image in the moving image's space; its own grid may differ from the moving image's.
        result: Result folder of ``register``.
        output: Image file to write.
        interpolation: ``nearest`` for labels and masks.
    """
    from inrreg.io import read_image, read_labels, write_image
    from inrreg.result import load

    loaded = load(result)
    if interpolation == "nearest":
        write_image(loaded.warp(read_labels(image)), output)
    else:
        write_image(loaded.warp(read_image(image), interpolation), output)
    return 0


def points(points: File, result: File, output: Output, direction: Literal["fixed-to-moving", "moving-to-fixed"]) -> int:
    """Map points; say in which direction.

    Args:
        points: CSV with the header label,x,y,z in RAS mm, or Slicer's .mrk.json or .fcsv.
        result: Result folder of ``register``.
        output: CSV or .mrk.json to write.
        direction: ``fixed-to-moving`` for points seen in the fixed image, ``moving-to-fixed`` for points seen in the moving one.
    """
    from inrreg.io import read_points, write_points
    from inrreg.result import load

    given, transform = read_points(points), load(result).transform
    if direction == "moving-to-fixed":
        transform = transform.inverse()
    with torch.no_grad():
        write_points(replace(given, coords=transform(given.coords)), output)
    return 0


def jacobian(result: File, output: Output) -> int:
    """Write the Jacobian determinant of the map on the fixed grid: below 1 the tissue is smaller in the moving image, at or below 0 the map folds.

    Args:
        result: Result folder of ``register``.
        output: Image file to write.
    """
    from inrreg.evaluation import jacobian_determinant, jacobian_statistics
    from inrreg.image import Image
    from inrreg.io import write_image
    from inrreg.result import load

    loaded = load(result)
    determinant = jacobian_determinant(loaded.transform, loaded.grid)
    write_image(Image.from_array(determinant, loaded.grid, "Jacobian determinant"), output)
    out.print(metrics_table({"jacobian": jacobian_statistics(determinant).to_json()}, "whole image"))
    return 0


def evaluate(
    result: File,
    landmarks: Path | None = None,
    fixed_labels: Path | None = None,
    moving_labels: Path | None = None,
    mask: Path | None = None,
    moving: Path | None = None,
    output: Annotated[Path | None, arg(aliases=["-o"])] = None,
) -> int:
    """Judge a result by what the fit has not seen: landmarks, labels, the Jacobian inside a mask.

    Args:
        result: Result folder of ``register``.
        landmarks: CSV of point pairs, RAS mm.
        fixed_labels: Label image on the fixed grid.
        moving_labels: Label image in the moving space.
        mask: 1 where the Jacobian counts, on the fixed grid.
        moving: Moving image: with it, landmark errors are also given snapped to its voxels.
        output: JSON file to write as well.
    """
    from inrreg.judge import judged
    from inrreg.result import load

    numbers = judged(load(result), landmarks=landmarks, fixed_labels=fixed_labels, moving_labels=moving_labels, mask=mask, moving=moving)
    out.print(metrics_table(numbers, str(result)))
    if output is not None:
        output.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0


def demo(
    what: Annotated[Literal["lung"], Positional] = "lung",
    output: Output = Path("demo"),
    size: int = 96,
    motion_mm: float = 20.0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
) -> int:
    """Make a breathing lung pair with known truth, register it, and say how far off the answer is.

    Args:
        what: Kind of phantom.
        output: Folder for the pair (``pair``) and the result (``result``).
        size: Voxels along the longest axis; the field of view stays the same.
        motion_mm: Mean motion of the landmarks.
        seed: Start of all random numbers.
        threads: CPU threads.
        device: cpu, cuda or cuda:N.
    """
    from inrreg.demo import lung_demo

    set_up_logging(0)
    with progress_bar(enabled=err.is_terminal) as progress:
        result = lung_demo(output, size=size, motion_mm=motion_mm, seed=seed, threads=threads, device=device, progress=progress)
    error = result.metrics["landmarks"]["all"]
    out.print(metrics_table(result.metrics, f"{what} phantom"))
    out.print(f"landmark error against the truth: {error['initial_mean_mm']:.2f} mm before, {error['mean_mm']:.2f} mm after (median {error['median_mm']:.2f} mm)", highlight=False)
    out.print(f"report: {output / 'result' / 'report.html'}", soft_wrap=True, highlight=False)
    return EXIT[result.outcome]


def doctor() -> int:
    """Say what this installation can do, and why not where it cannot."""
    from inrreg.doctor import findings

    for name, finding in findings():
        out.print(f"{name:<14} {finding}", highlight=False, soft_wrap=True)
    return 0


def _show_plan(job: Any) -> None:
    """The checked geometry and the stages of a job."""
    from inrreg.plan import plan

    for line in plan(job):
        out.print(line, highlight=False, soft_wrap=True)


VERBS: dict[str, Callable[..., int]] = {"register": register, "warp": warp, "points": points, "jacobian": jacobian, "evaluate": evaluate, "demo": demo, "doctor": doctor}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; exit codes: 0 good, 2 bad input, 3 failed, 4 diverged, 5 folded, 130 stopped."""
    try:
        sys.exit(tyro.extras.subcommand_cli_from_dict(VERBS, prog="inrreg", description="Register the pair at hand.", args=arguments))
    except InputError as error:
        _fail(error, BAD_INPUT)
    except (OutputError, RegistrationError) as error:
        _fail(error, FAILED)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written", STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def _fail(reason: object, code: int) -> None:
    err.print(f"inrreg: {reason}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
