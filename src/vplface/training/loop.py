"""Former place of :func:`vplface.training.train.train`, kept until version 0.2."""

from vplface.training.train import train

__all__ = ["train"]
