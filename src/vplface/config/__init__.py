"""Configuration of training runs: recipes, overrides and the validated sections."""

from vplface.config.distill import DistillConfig
from vplface.config.durations import Duration
from vplface.config.finetune import FinetuneConfig
from vplface.config.folds import FoldConfig, FoldsConfig
from vplface.config.overrides import apply_overrides, overlay
from vplface.config.ramps import RampConfig, RampsConfig
from vplface.config.recipes import read_config, read_recipe, shipped_recipes
from vplface.config.run import Config, build_config
from vplface.config.sections import (
    BackboneConfig,
    DataConfig,
    EvaluationConfig,
    EvaluationSet,
    OptimizerConfig,
    ScheduleConfig,
    Source,
    SyntheticConfig,
)
from vplface.config.variational import VariationalConfig

__all__ = [
    "BackboneConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "Duration",
    "EvaluationConfig",
    "EvaluationSet",
    "FinetuneConfig",
    "FoldConfig",
    "FoldsConfig",
    "OptimizerConfig",
    "RampConfig",
    "RampsConfig",
    "ScheduleConfig",
    "Source",
    "SyntheticConfig",
    "VariationalConfig",
    "apply_overrides",
    "build_config",
    "overlay",
    "read_config",
    "read_recipe",
    "shipped_recipes",
]
