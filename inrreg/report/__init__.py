"""The HTML page of a registration and its figures."""

from inrreg.report.curves import convergence, landmark_histogram
from inrreg.report.figures import (
    difference_planes,
    displacement_map,
    jacobian_map,
    three_planes,
    warped_grid,
)
from inrreg.report.metric_tables import metric_tables, summary_rows
from inrreg.report.page import Message, Plate, Row, Table, write_report
from inrreg.report.registration_report import ReportContent, registration_report

__all__ = [
    "Message",
    "Plate",
    "ReportContent",
    "Row",
    "Table",
    "convergence",
    "difference_planes",
    "displacement_map",
    "jacobian_map",
    "landmark_histogram",
    "metric_tables",
    "registration_report",
    "summary_rows",
    "three_planes",
    "warped_grid",
    "write_report",
]
