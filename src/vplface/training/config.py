"""Former place of the configuration, which is :mod:`vplface.config`; kept until version 0.2."""

from vplface.config import Config, build_config, read_config, read_recipe

__all__ = ["Config", "build_config", "read_config", "read_recipe"]
