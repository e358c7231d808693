"""Made-up runs for the tests of this folder."""

from helpers.report_runs import sphere, study, vpl_run

__all__ = ["sphere", "study", "vpl_run"]
