"""Runs that fail: the error names the cause and the last good checkpoint, and saved files are complete."""

import dataclasses
import json
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from helpers.small_runs import settings
from vplface.errors import DataError
from vplface.head import PrototypeHead
from vplface.softmax import tiled
from vplface.stored_model import load_model
from vplface.training import checkpoint, checkpoint_manifest
from vplface.training.failures import TrainingError
from vplface.training.train import train
from vplface.training.trainer import Trainer


def test_diverged_names_step_cause_and_checkpoint(faces, tmp_path, monkeypatch):
    config = settings(faces, tmp_path)
    original = torch.optim.SGD.step

    def poisoned(self, *args):
        original(self, *args)
        poisoned.steps += 1
        if poisoned.steps == 7:
            next(iter(self.param_groups[0]["params"])).data.fill_(float("nan"))

    poisoned.steps = 0
    monkeypatch.setattr(torch.optim.SGD, "step", poisoned)
    with pytest.raises(TrainingError, match=r"step 8: embeddings of sample 0 is NaN.*stem.*step-00000005.*lr"):
        train(config)
    monkeypatch.undo()
    assert train(config, resume=True).step == 12


def test_diverged_by_an_infinite_learning_rate_leaves_a_finite_model_of_step_0(faces, tmp_path):
    config = settings(faces, tmp_path, optimizer={"lr": float("inf")}, schedule={"length": 12, "warmup": 0})
    with pytest.raises(TrainingError, match="diverged at step 1: the learning rate is inf; no checkpoint had been"):
        train(config)
    stored = load_file(config.run_folder / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in stored.values())
    assert json.loads((config.run_folder / "model.json").read_text())["step"] == 0


def test_diverged_distinguishes_an_infinite_loss_from_broken_embeddings(faces, tmp_path, monkeypatch):
    infinite = lambda problem, *rest, **options: problem.features.sum() * float("inf")  # noqa: E731
    monkeypatch.setattr(tiled, "margin_softmax", infinite)
    with pytest.raises(
        TrainingError, match=r"step 1: the loss is .* although all embeddings are finite; no checkpoint"
    ):
        train(settings(faces, tmp_path))


@pytest.mark.parametrize(
    ("labels", "width", "fault"),
    [(99, 8, r"label 99 of sample 0 is not a class id in \[0, \d+\)"), (0, 4, r"embeddings must be \[batch ≥ 1, 8\]")],
)
def test_refused_reports_a_ValueError_of_the_head_and_not_a_divergence(
    faces, tmp_path, monkeypatch, labels, width, fault
):
    step = Trainer.train_step

    def refused(trainer, batch, **options):
        if trainer.run.step == 6:
            backbone = trainer.network
            trainer.network = lambda inputs: backbone(inputs)[:, :width]
            batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, labels))
        return step(trainer, batch, **options)

    monkeypatch.setattr(Trainer, "train_step", refused)
    with pytest.raises(TrainingError, match=rf"refused the batch of step 7: {fault}.*step-00000005") as caught:
        train(settings(faces, tmp_path, loggers=[]))
    assert "diverged" not in str(caught.value)
    assert "optimizer.lr" not in str(caught.value)


def test_out_of_memory_advises_a_larger_accumulate(faces, tmp_path, monkeypatch):
    def hungry(*args, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Trainer, "train_step", hungry)
    with pytest.raises(TrainingError, match=r"batch of 16 into more parts \(accumulate=2"):
        train(settings(faces, tmp_path))


@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyboardInterrupt(), RuntimeError("a bug"), SystemExit(2)])
def test_Checkpoints_end_the_run_on_any_error_of_the_writer(faces, tmp_path, monkeypatch, error):
    def fails(tensors, path):
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(DataError, match=f"a checkpoint could not be written.*{type(error).__name__}"):
        train(settings(faces, tmp_path, checkpoint_every=1))


def test_Checkpoints_write_in_the_main_thread_if_no_other_can_start(faces, tmp_path, monkeypatch):
    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(checkpoint, "threading", SimpleNamespace(Thread=NoThread, Event=threading.Event))
    run = train(settings(faces, tmp_path, loggers=[]))
    assert checkpoint_manifest.newest_checkpoint(tmp_path / "run/checkpoints")[0].name == f"step-{run.step:08d}"


RUINED = {"sgd": {"lr": 1e30}, "adamw": {"lr": 1e30}, "head alone": {"head_lr_scale": 1e38}}


@pytest.mark.parametrize("changes", RUINED.values(), ids=RUINED)
def test_Checkpoints_never_hold_weights_that_are_not_finite(faces, tmp_path, request, changes):
    name = "adamw" if "adamw" in request.node.name else "sgd"
    options = {"checkpoint_every": 1, "checkpoints_kept": 9, "loggers": [], "ema": None}
    config = settings(faces, tmp_path, optimizer={"name": name, "clip": None}, **options)
    absurd = config.optimizer.model_copy(update=changes)  # more than a recipe accepts
    config = config.model_copy(update={"optimizer": absurd})
    with pytest.raises(TrainingError, match=r"diverged at step \d+"):
        train(config)
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


@pytest.mark.parametrize("part", ["weights", "momentum", "memory", "average"])
def test_Checkpoints_refuse_any_part_that_is_infinite(faces, tmp_path, monkeypatch, part):
    step = Trainer.train_step

    def ruins(trainer, *rest, **options):
        found = step(trainer, *rest, **options)
        if trainer.run.step == 6:
            ruined = {
                "weights": next(trainer.run.backbone.parameters()),
                "momentum": trainer.run.head.optimizer.state[trainer.run.head.weight]["momentum_buffer"],
                "memory": trainer.run.head.memory,
                "average": next(trainer.run.average.module.parameters()),
            }[part]
            ruined.data[(0,) * ruined.ndim] = float("inf")
        return found

    monkeypatch.setattr(Trainer, "train_step", ruins)
    with pytest.raises(TrainingError, match=r"diverged at step 7.*last good checkpoint is .*step-00000006"):
        train(settings(faces, tmp_path, checkpoint_every=1, loggers=[]))
    assert load_model(tmp_path / "run")[1].step == 6


@pytest.mark.parametrize("due", [{}, {"checkpoint_every": 7}, {"log_every": 7}, {"drift_every": 7}], ids=str)
def test_Trainer_names_the_step_of_an_infinite_loss_before_another_checkpoint(faces, tmp_path, monkeypatch, due):
    forward = PrototypeHead.forward

    def overflows(head, *rest):
        loss = forward(head, *rest)
        return loss * float("inf") if head.training and head.step_count == 6 else loss

    monkeypatch.setattr(PrototypeHead, "forward", overflows)
    config = settings(faces, tmp_path, **{"loggers": [], "log_every": 100, "checkpoint_every": 5, **due})
    checkpoint = (
        "no checkpoint had been" if "checkpoint_every" in due else "the last good checkpoint is .*step-00000005"
    )
    with pytest.raises(
        TrainingError, match=f"diverged at step 7: the loss is inf although all .* finite; {checkpoint}"
    ):
        train(config)
    assert load_model(tmp_path / "run")[1].step == (0 if "checkpoint_every" in due else 5)


@pytest.mark.parametrize("due", [{}, {"log_every": 3}, {"checkpoint_every": 3}, {"drift_every": 3}], ids=str)
def test_Trainer_names_the_step_of_a_fault_that_the_device_finds(faces, tmp_path, monkeypatch, due):
    pytest.importorskip("triton", reason="needs vplface[triton]")
    monkeypatch.setattr("vplface.softmax.fused.conditions.fastest_backend", lambda device: "triton")
    step = Trainer.train_step

    def spoils(trainer, batch, **options):
        assert trainer.run.head._reason_against_fused() is None
        backbone = trainer.network
        if trainer.run.step == 2:
            trainer.network = lambda inputs: backbone(inputs) * torch.nan
        try:
            return step(trainer, batch, **options)
        finally:
            trainer.network = backbone

    monkeypatch.setattr(Trainer, "train_step", spoils)
    config = settings(
        faces,
        tmp_path,
        backbone={"name": "tiny", "embedding_dim": 64, "options": {"width": 8}},
        optimizer={"lr": 0.02, "clip": None, "fused": True},
        loggers=[],
        **{"log_every": 100, "checkpoint_every": 2, **due},
    )
    with pytest.raises(TrainingError, match="diverged at step 3: embeddings of sample 0 is NaN or infinite"):
        train(config)
    assert load_model(tmp_path / "run")[1].step == (0 if "checkpoint_every" in due else 2)
