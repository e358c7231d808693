"""Reports: the content of a run folder as plots and one self-contained HTML file."""

from __future__ import annotations

from vplface.report.average import average_runs
from vplface.report.evaluation_page import write_evaluation
from vplface.report.faces import PictureOf
from vplface.report.finetuning import FINETUNED, UNTOUCHED, guards_of
from vplface.report.page import write_report
from vplface.report.record import RunRecord, Sphere, read_run
from vplface.report.study_page import write_study

__all__ = [
    "FINETUNED",
    "UNTOUCHED",
    "PictureOf",
    "RunRecord",
    "Sphere",
    "average_runs",
    "guards_of",
    "read_run",
    "write_evaluation",
    "write_report",
    "write_study",
]
