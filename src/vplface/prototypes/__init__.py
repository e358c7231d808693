"""What a class is: prototypes, and the memory that makes them variational."""

from vplface.prototypes.age import CosineByAge
from vplface.prototypes.coverage import Remembered, coverage, covering, expected_coverage, remembered
from vplface.prototypes.injection import Injection
from vplface.prototypes.variational import Variational, inject, remember

__all__ = [
    "CosineByAge",
    "Injection",
    "Remembered",
    "Variational",
    "coverage",
    "covering",
    "expected_coverage",
    "inject",
    "remember",
    "remembered",
]
