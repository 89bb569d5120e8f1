"""The exit codes of the command line.

| code | meaning |
| --- | --- |
| 0 | done: the fit converged or reached its iteration limit |
| 2 | bad input or options: nothing was computed |
| 3 | the result could not be computed or written, or a defect of inrreg |
| 4 | the fit diverged, or its cost was not finite; the result is written |
| 5 | the map folds beyond the limit of the preset; the result is written |
| 130 | interrupted (Ctrl-C) |

Ctrl-C during ``register`` or ``demo`` ends the running stage. If a stage has found a map, that map
is measured and written with the outcome ``INTERRUPTED``; otherwise nothing is written. Ctrl-C
during ``cohort`` stops the pairs that run and keeps the results of those that are finished; the
same command continues from there. The exit code is 130 in each case.
"""

BAD_INPUT, FAILED, STOPPED = 2, 3, 130

EXIT = {
    "CONVERGED": 0,
    "ITERATION_LIMIT": 0,
    "DIVERGED": 4,
    "NON_FINITE": 4,
    "FOLDED": 5,
    "INTERRUPTED": STOPPED,
}
"""The exit code of each outcome, by the name of the ``Outcome``."""

SUMMARY = (
    "Exit codes: 0 done, 2 bad input, 3 could not be computed or written, 4 diverged, 5 folded"
    " beyond the limit of the preset, 130 interrupted."
)
