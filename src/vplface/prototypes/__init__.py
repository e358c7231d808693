"""Prototypes of classes, and the memory that makes them variational."""

from vplface.prototypes.age import CosineByAge
from vplface.prototypes.batch import check_batch
from vplface.prototypes.coverage import SimulatedMemory, coverage, covering, expected_coverage, simulate_memory
from vplface.prototypes.draw import Draw
from vplface.prototypes.drift_start import DriftStartRule
from vplface.prototypes.injection import Injection
from vplface.prototypes.memory import Memory, living, require_memory_dtype
from vplface.prototypes.variational import LastFeature, Variational, inject, last_samples, remember

__all__ = [
    "CosineByAge",
    "Draw",
    "DriftStartRule",
    "Injection",
    "LastFeature",
    "Memory",
    "SimulatedMemory",
    "Variational",
    "check_batch",
    "coverage",
    "covering",
    "expected_coverage",
    "inject",
    "last_samples",
    "living",
    "remember",
    "require_memory_dtype",
    "simulate_memory",
]
