"""From the nested numbers of ``metrics.json`` to tables that read: a row for every leaf, its unit
from the key's suffix, "not measured" where nothing is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inrreg.report.page import Row, Table, Value, format_value

UNITS = {"_mm": "mm", "_percent": "%", "_s": "s", "_mb": "MB", "_intensity2": "intensity²"}
"""The unit that ends a key."""

SECTIONS = {
    "similarity": "Image agreement",
    "landmarks": "Landmark error",
    "jacobian": "Jacobian determinant",
    "inverse": "Inverse consistency",
    "overlap": "Label overlap",
    "surface": "Surface distance",
}
"""What stands over the table of a section."""

EXPECTED = ("similarity", "landmarks", "jacobian", "inverse")
"""Sections that are shown as not measured where they are absent."""

COST = ("time_s", "memory_mb")
"""Keys that share one table."""

SNAPPED = "snapped_"
"""What begins the keys of landmark errors at voxel centres, which have a table of their own."""

NAMES = {
    "above_2mm": "Above 2 mm",
    "above_5mm": "Above 5 mm",
    "cost_first": "First cost",
    "cost_last": "Last cost",
    "folded": "Folded voxels",
    "initial": "Mean before registration",
    "initial_mean": "Mean before registration",
    "lncc": "Local correlation (LNCC)",
    "max": "Largest",
    "mean_dice": "Mean Dice",
    "memory": "Peak memory",
    "min": "Smallest",
    "mse": "Mean squared difference",
    "n": "Count",
    "n_folded": "Number of folded voxels",
    "n_labels": "Number of labels",
    "n_voxels": "Number of voxels",
    "not_inverted": "Not inverted",
    "ncc": "Correlation (NCC)",
    "p1": "1st percentile",
    "p5": "5th percentile",
    "p25": "25th percentile",
    "p75": "75th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
    "residual_max": "Largest residual",
    "residual_mean": "Mean residual",
    "sd": "Standard deviation",
    "sd_log": "Standard deviation of the logarithm",
    "trimmed98": "Mean of the best 98 %",
}
"""Names of keys without their unit; others are read as they are written."""


def metric_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """The tables of ``metrics`` as it stands in ``metrics.json``; schema and outcome, which the
    page shows elsewhere, are left out.
    """
    sections = dict.fromkeys(EXPECTED) | {
        name: value
        for name, value in metrics.items()
        if isinstance(value, Mapping) and name not in (*COST, "outcome")
    }
    tables = [
        table
        for name, value in sections.items()
        for table in _section(SECTIONS.get(name, _words(name)), value)
    ]
    cost = [row for name in COST if name in metrics for row in _rows(name, metrics[name])]
    others = [
        row
        for name, value in metrics.items()
        if name not in (*sections, *COST, "schema", "outcome", "stages")
        for row in _rows(name, value)
    ]
    stages = [_stage(stage) for stage in metrics.get("stages") or ()]
    return tables + [
        Table(heading, rows)
        for heading, rows in (("Stages", stages), ("Time and memory", cost), ("Other", others))
        if rows
    ]


def summary_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """Outcome, run time, folding and landmark error: what a reader wants first."""
    jacobian, landmarks = metrics.get("jacobian") or {}, metrics.get("landmarks") or {}
    errors = landmarks.get("all") or landmarks
    initial = next(
        (errors[key] for key in ("initial_mean_mm", "initial_mm") if errors.get(key) is not None),
        None,
    )
    least = jacobian.get("min")
    return [
        Row("Outcome", outcome_label(metrics)),
        _duration(_total_seconds(metrics)),
        Row(
            "Folded voxels",
            jacobian.get("folded_percent"),
            "%",
            "" if least is None else f"smallest determinant {format_value(least)}",
        ),
        Row(
            "Mean landmark error",
            errors.get("mean_mm"),
            "mm",
            "" if initial is None else f"before registration {format_value(initial)} mm",
        ),
    ]


def outcome_label(metrics: Mapping[str, Any]) -> str | None:
    """The outcome in words, for instance "iteration limit"; None where there is none."""
    name = (metrics.get("outcome") or {}).get("name")
    return None if name is None else str(name).replace("_", " ").lower()


def _section(heading: str, values: Any) -> Iterator[Table]:
    """A table of the leaves, then one for each mapping below; "not measured" where there is nothing
    at all.
    """
    if not values:
        yield Table(heading, [Row("Not done in this run", None)])
        return
    if set(values) == {"before", "after"}:
        yield Table(heading, _before_and_after(values["before"], values["after"]))
        return
    leaves = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    snapped = {
        name.removeprefix(SNAPPED): value
        for name, value in leaves.items()
        if name.startswith(SNAPPED)
    }
    for title, chosen in (
        (heading, {name: value for name, value in leaves.items() if not name.startswith(SNAPPED)}),
        (f"{heading}, at voxel centres", snapped),
    ):
        if chosen:
            yield Table(
                title, [row for name, value in chosen.items() for row in _rows(name, value)]
            )
    for name, value in values.items():
        told = name == "groups" and list(value.values()) == [values.get("all")]
        if isinstance(value, Mapping) and value and not told:
            yield from _section(
                heading if name in ("all", "groups") else f"{heading}, {name.replace('_', ' ')}",
                value,
            )


def _before_and_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    """Both rows of a measure one below the other; one row where both are the same."""
    rows: list[Row] = []
    for name in {**before, **after}:
        if name in before and before[name] == after.get(name):
            rows += _rows(name, before[name])
            continue
        for when, values in (("before", before), ("after", after)):
            rows += (
                [row._replace(name=f"{row.name}, {when}") for row in _rows(name, values[name])]
                if name in values
                else []
            )
    return rows


def _rows(name: str, value: Any, unit: str = "") -> Iterator[Row]:
    """The row of a leaf, or those of all leaves below under its name; a leaf without a unit of its
    own takes that of the branch.
    """
    key, own = _split_unit(name)
    if isinstance(value, Mapping):
        for below, leaf in value.items():
            yield from (
                row._replace(name=f"{_words(key)}, {row.name[:1].lower()}{row.name[1:]}")
                for row in _rows(below, leaf, own or unit)
            )
    else:
        yield Row(_words(key), _leaf(value), own or unit)


def _split_unit(name: str) -> tuple[str, str]:
    return next(
        (
            (name.removesuffix(suffix), unit)
            for suffix, unit in UNITS.items()
            if name.endswith(suffix)
        ),
        (name, ""),
    )


def _words(key: str) -> str:
    return NAMES.get(key) or key[:1].upper() + key[1:].replace("_", " ")


def _leaf(value: Any) -> Value:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(format_value(_leaf(item)) for item in value) or None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _stage(stage: Mapping[str, Any]) -> Row:
    """Name and seconds of a stage; how it ended and all else that is told of it as the note."""
    told = dict(
        _flat(
            {
                name: value
                for name, value in stage.items()
                if name not in ("name", "seconds", "outcome", "message", "iterations", "landmarks")
            }
        )
    )
    landmarks = stage.get("landmarks") or {}
    error = (landmarks.get("all") or landmarks).get("mean_mm")
    parts = [
        str(stage.get("outcome", "")).replace("_", " ").lower(),
        f"{format_value(stage['iterations'])} iterations" if "iterations" in stage else "",
        *(
            f"{row.name.lower()} {format_value(row.value)} {row.unit}".strip()
            for name, value in told.items()
            for row in _rows(name, value)
        ),
        "" if error is None else f"landmark error {format_value(error)} mm",
    ]
    return Row(
        str(stage.get("name", "stage")),
        stage.get("seconds"),
        "s",
        ", ".join(part for part in parts if part),
    )


def _flat(told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leaves by name: a group's as ``leaf_group``, those of a list of groups each as a list."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from ((f"{leaf}_{name}", item) for leaf, item in value.items())
        elif (
            isinstance(value, Sequence)
            and value
            and all(isinstance(item, Mapping) for item in value)
        ):
            yield from ((leaf, [item.get(leaf) for item in value]) for leaf in value[0])
        else:
            yield name, value


def _total_seconds(metrics: Mapping[str, Any]) -> float | None:
    """``time_s.total`` if it is there, else the sum of its parts, else that of the stages."""
    time = metrics.get("time_s")
    if isinstance(time, Mapping):
        parts = [time["total"]] if "total" in time else list(time.values())
    else:
        parts = (
            [time]
            if time is not None
            else [stage.get("seconds") for stage in metrics.get("stages") or ()]
        )
    measured = [float(part) for part in parts if isinstance(part, int | float)]
    return sum(measured) if measured else None


def _duration(seconds: float | None) -> Row:
    """Seconds up to two minutes, then minutes and seconds."""
    if seconds is None or seconds < 120:
        return Row("Run time", seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    return Row(
        "Run time",
        f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min",
    )
