"""Periods for which enrolments are kept: two years, six months, ninety days."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from vplface.errors import UsageError

_PART = r"(\d{1,5})\s*(years?|yrs?|y|months?|mo|m|weeks?|w|days?|d)"
_WRITTEN = re.compile(rf"\s*{_PART}(?:[\s,]*{_PART})*\s*", re.IGNORECASE)
_LONGEST_MONTHS = 1200


@dataclass(frozen=True)
class Period:
    """A period of whole calendar months and days.

    Attributes:
        months: months; a year has twelve.
        days: days; a week has seven.
    """

    months: int = 0
    days: int = 0

    @classmethod
    def parse(cls, text: str) -> Period:
        """``"2y"``, ``"18 months"``, ``"90d"``, ``"6w"``, or several parts as in ``"1y 6m"``; ``m`` is months.

        Raises:
            UsageError: the text is no period, or one of no days or of more than a hundred years.
        """
        if _WRITTEN.fullmatch(text) is None:
            raise UsageError(
                f"{text!r} is not a period; write a whole number and a unit: 2y, 18m (months), 6w or 90d, or 1y6m"
            )
        months = days = 0
        for number, unit in re.findall(_PART, text, re.IGNORECASE):
            match unit[0].lower():
                case "y":
                    months += 12 * int(number)
                case "m":
                    months += int(number)
                case "w":
                    days += 7 * int(number)
                case _:
                    days += int(number)
        if not 0 < months + days / 30.4 <= _LONGEST_MONTHS:
            raise UsageError(f"{text!r}: a period must have at least one day and at most a hundred years")
        return cls(months, days)

    def before(self, moment: datetime) -> datetime:
        """The moment one period earlier; the last day of a month stands for a day that the month does not have."""
        year, month = divmod(12 * moment.year + moment.month - 1 - self.months, 12)
        day = min(moment.day, calendar.monthrange(year, month + 1)[1])
        return moment.replace(year=year, month=month + 1, day=day) - timedelta(days=self.days)
