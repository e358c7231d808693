"""Many runs and their comparison: the arms of a recipe, or a study over several settings."""

from __future__ import annotations

from vplface.study.arms import Study, compare_arms, run
from vplface.study.cost import Cost, Estimate, estimate
from vplface.study.grid import Cell, Grid, grid_of_recipe, is_study, read_grid
from vplface.study.pool import pool
from vplface.study.results import Results, conclude
from vplface.study.runner import run_all
from vplface.study.single import finish, measure

__all__ = [
    "Cell",
    "Cost",
    "Estimate",
    "Grid",
    "Results",
    "Study",
    "compare_arms",
    "conclude",
    "estimate",
    "finish",
    "grid_of_recipe",
    "is_study",
    "measure",
    "pool",
    "read_grid",
    "run",
    "run_all",
]
