"""The verbs demo and doctor."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from inrreg.app.command_line.options import (
    Device,
    Output,
    Quiet,
    Seed,
    Threads,
    Verbose,
    finish,
)
from inrreg.app.console import out, progress_shown, set_up_logging


def demo(
    what: Annotated[Literal["lung"], Positional] = "lung",
    output: Output = Path("demo"),
    size: Annotated[int, arg(metavar="N")] = 96,
    motion_mm: Annotated[float, arg(metavar="MM")] = 20.0,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Make a breathing lung pair with known truth, register it, and say how far off the answer is.

    Args:
        what: Kind of phantom.
        output: Folder for the pair (``pair``) and the result (``result``).
        size: Voxels along the longest axis; the field of view stays the same.
        motion_mm: Mean motion of the landmarks in the lungs.
        seed: Start of all random numbers.
        threads: CPU threads.
        device: cpu, cuda or cuda:N.
        quiet: Say nothing but errors.
        verbose: Say what each stage does, and show the traceback of an unexpected error.
    """
    from inrreg.app.demo import lung_demo

    set_up_logging(quiet, verbose)
    with nullcontext() if quiet else progress_shown() as progress:
        result = lung_demo(
            output,
            size=size,
            motion_mm=motion_mm,
            seed=seed,
            threads=threads,
            device=device,
            progress=progress,
        )
    return finish(result, output / "result", f"{what} phantom against its known truth", quiet)


def doctor() -> int:
    """Say what this installation can do, and why not where it cannot."""
    from inrreg.app.doctor import findings

    for name, finding in findings():
        out.print(f"{name:<14} {finding}", highlight=False, soft_wrap=True)
    return 0
