"""The verb cohort."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from inrreg.app.command_line.options import Device, Output, Quiet, Seed, Verbose
from inrreg.app.console import cohort_table, out, pairs_shown, set_up_logging
from inrreg.app.exit_codes import EXIT, FAILED, STOPPED

log = logging.getLogger(__name__)

Processes = Annotated[
    int | None,
    arg(metavar="N", help_behavior_hint="(default: as many as there are cores, one on a GPU)"),
]
Share = Annotated[
    int | None, arg(metavar="N", help_behavior_hint="(default: the cores shared out)")
]
Scheduler = Annotated[
    str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: this machine)")
]


def cohort(
    pairs: Annotated[Path, Positional, arg(metavar="PAIRS")],
    output: Output,
    preset: Annotated[str, arg(metavar="NAME")] = "default",
    device: Device = "cpu",
    seed: Seed = 0,
    processes: Processes = None,
    threads: Share = None,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Register many pairs, several at once, and end in one table; what is done already is not done
    again.

    Args:
        pairs: CSV with the columns name, fixed, moving, and as wanted fixed_mask, moving_mask,
            landmarks (or fixed_landmarks and moving_landmarks), guide_landmarks, preset; files
            relative to it.
        output: Folder for a result folder a pair and the table cohort.csv.
        preset: For the pairs whose line names none.
        device: cpu, cuda or cuda:N.
        seed: Start of all random numbers.
        processes: Pairs that run at once on this machine; each needs the memory of its own run.
        threads: CPU threads of each pair.
        scheduler: Address of a Dask scheduler whose workers see the same files; each of their
            threads takes a pair.
        quiet: Say nothing but errors.
        verbose: Show the traceback of an unexpected error.
    """
    from inrreg.app.cohort import run
    from inrreg.app.cohort_rows import TABLE

    set_up_logging(quiet, verbose)
    try:
        with nullcontext() if quiet else pairs_shown() as progress:
            rows = run(
                pairs,
                output,
                preset=preset,
                device=device,
                seed=seed,
                processes=processes,
                threads=threads,
                scheduler=scheduler,
                progress=progress,
            )
    except KeyboardInterrupt:
        log.error(
            "stopped; what was done until then stands in %s, and the same command goes on from"
            " there",
            output / TABLE,
        )
        return STOPPED
    if not quiet:
        out.print(cohort_table(rows))
        out.print(f"table: {output / TABLE}", soft_wrap=True, markup=False, highlight=False)
    return max(EXIT.get(row["outcome"].upper(), FAILED) for row in rows)
