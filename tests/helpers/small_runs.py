"""Small runs of training, which take a second, and ways to stop them at a step."""

import json
import os
import signal

import pytest

from vplface.config import build_config
from vplface.errors import TrainingInterrupted
from vplface.training.train import train
from vplface.training.trainer import Trainer

CLOCKS = ("pictures_per_second", "time")


def settings(faces, output, **changes):
    raw = {
        "name": "run",
        "output": str(output),
        "data": {"train": str(faces), "workers": 0, "augmentation": {"flip": 0.5, "shift": 0.05}},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "dropout": 0.2}},
        "margin": {"name": "arcface", "scale": 16, "margin": 0.2},
        "variational": {"lam": 0.3, "delta_t": 3, "start": 4},
        "optimizer": {"lr": 0.02},
        "schedule": {"length": 12, "warmup": 2},
        "batch_size": 16,
        "ema": 0.9,
        "evaluation": {"bootstrap": 20},
        "log_every": 1,
        "drift_every": 4,
        "checkpoint_every": 5,
    }
    return build_config({**raw, **changes}, "test")


def journal(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def before_step(monkeypatch, step, action):
    """Call an action before a run takes a step, counted from 1."""
    take = Trainer.train_step

    def taking(trainer, batch, **options):
        if trainer.run.step == step - 1:
            action()
        return take(trainer, batch, **options)

    monkeypatch.setattr(Trainer, "train_step", taking)


def interrupt_by(number):
    """An action that sends a signal to this process."""
    return lambda: os.kill(os.getpid(), number)


def cut_off():
    """An action that ends a run without saving, like the second Ctrl-C."""
    raise KeyboardInterrupt


def stopped_run(faces, tmp_path, monkeypatch):
    """A run of twelve steps that was stopped after the sixth."""
    config = settings(faces, tmp_path, loggers=[])
    with monkeypatch.context() as patch:
        before_step(patch, 6, interrupt_by(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            train(config)
    return config
