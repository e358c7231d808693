"""What a class is: prototypes, and the memory that makes them variational."""

from vplface.prototypes.coverage import Remembered, coverage, expected_coverage, remembered
from vplface.prototypes.injection import Injection
from vplface.prototypes.variational import Variational, inject, remember

__all__ = [
    "Injection",
    "Remembered",
    "Variational",
    "coverage",
    "expected_coverage",
    "inject",
    "remember",
    "remembered",
]
