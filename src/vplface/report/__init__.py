"""Numbers to plots and pages: what a run folder holds, as one self-contained HTML file."""

from __future__ import annotations

from vplface.report.page import PictureOf, write_report
from vplface.report.record import RunRecord, Sphere, read_run

__all__ = ["PictureOf", "RunRecord", "Sphere", "read_run", "write_report"]
