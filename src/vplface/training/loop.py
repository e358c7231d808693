"""The story of a training run: batches in, a model out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vplface.data.batches import Batch, load_batches
from vplface.data.pictures import Preprocessing
from vplface.embedder import Embedder, ModelCard, save_model
from vplface.errors import ConfigError, VplfaceError
from vplface.head import PrototypeHead
from vplface.progress import progress
from vplface.training.checkpoint import load_checkpoint, save_checkpoint
from vplface.training.config import Config, read_config
from vplface.training.interrupt import Interrupt
from vplface.training.journal import Journal, environment, write_json
from vplface.training.state import Training, prepare
from vplface.training.validation import Validation

MAY_CHANGE_ON_RESUME = frozenset({"device", "threads", "log_every", "checkpoint_every", "compile"})


class TrainingInterrupted(VplfaceError):  # noqa: N818 - it is no error
    """Training was stopped by Ctrl-C; everything is saved."""


class TrainingError(VplfaceError):
    """Training cannot go on: a loss that is not finite, or no memory left."""


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> Training:
    """Carry out a run and leave its folder behind: journal, checkpoints, models.

    Args:
        config: the run.
        resume: go on from the last checkpoint of the run folder.
        overwrite: start anew although the folder holds a run.

    Raises:
        ConfigError: if the configuration cannot be carried out, or the folder holds another run.
        DataError: if pictures, lists or checkpoints are at fault.
        TrainingError: if the loss is not finite or memory runs out; the last good checkpoint is named.
        TrainingInterrupted: after Ctrl-C, when everything is saved.
    """
    folder = _claim(config, resume, overwrite)
    run = prepare(config)
    last = folder / "checkpoints" / "last.safetensors"
    if resume:
        load_checkpoint(last, run)
    validation = Validation(config.evaluation, run.heldout)
    write_json(folder / "environment.json", environment() | _counts(run))
    with Journal(folder, run.step) as journal, Interrupt() as interrupt:
        try:
            _fit(run, folder, journal, validation, interrupt)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if _is_out_of_memory(error):
                raise TrainingError(_memory_advice(config, error)) from error
            raise
    return run


def _fit(run: Training, folder: Path, journal: Journal, validation: Validation, interrupt: Interrupt) -> None:
    config, per_epoch = run.config, len(run.batches)
    log_every, drift_every, save_every = (
        max(length.steps(per_epoch), 1) for length in (config.log_every, config.drift_every, config.checkpoint_every)
    )
    validate_every = None if config.evaluation.every is None else max(config.evaluation.every.steps(per_epoch), 1)
    prepare_input = Preprocessing()
    network = torch.compile(run.backbone) if config.compile else run.backbone
    taken, clock = 0, time.perf_counter()

    with progress(config.name, run.rate.steps, done=run.step) as advance:
        for batch in _batches(run):
            epoch = run.step / per_epoch
            run.unreadable.update(batch.unreadable)
            factor = run.rate.factor(run.step)
            for optimizer in run.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor
            logs = (run.step + 1) % log_every == 0 or run.step + 1 == run.rate.steps
            try:
                loss, cosines = _step(run, network, prepare_input, batch, logs)
            except FloatingPointError as error:
                raise TrainingError(_divergence(run, folder, str(error))) from error
            run.step += 1
            taken += len(batch.labels)
            entry: dict[str, Any] = {}
            if logs:
                rate = taken / (time.perf_counter() - clock)
                entry = {"loss": loss, "lr": config.optimizer.lr * factor, "coverage": run.head.coverage(), **cosines}
                entry |= {"pictures_per_second": round(rate, 1), "unreadable": len(run.unreadable)}
                advance(0, f"loss {loss:.3f}  {rate:.0f} pictures/s")
                taken, clock = 0, time.perf_counter()
            advance(1, f"loss {loss:.3f}")
            if run.step % drift_every == 0:
                entry["drift"] = run.drift.measure(run.backbone)
            if entry:
                journal.write({"step": run.step, "epoch": round(epoch, 3), **entry, "time": round(time.time(), 3)})
            finished = run.step == run.rate.steps
            if validate_every and (run.step % validate_every == 0 or finished) and validation.questions:
                _validate(run, folder, journal, validation)
            if run.step % save_every == 0 or finished or interrupt.requested:
                _save(run, folder)
                clock = time.perf_counter()
            if interrupt.requested and not finished:
                raise TrainingInterrupted(
                    f"stopped after step {run.step} of {run.rate.steps}; everything is saved."
                    f" Go on with: vplface train {folder} --resume"
                )


def _step(
    run: Training, network: Any, prepare_input: Preprocessing, batch: Batch, measure: bool
) -> tuple[float, dict[str, float | None]]:
    """One optimiser step over a batch, in ``config.accumulate`` parts; returns the loss of the whole batch."""
    total, size = 0.0, len(batch.labels)
    cosines: dict[str, float | None] = {}
    seen: list[tuple[Tensor, Tensor]] = []
    run.backbone.train()
    run.head.train()
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    with run.head.micro_batches():
        for rows in torch.arange(size).chunk(run.config.accumulate):
            inputs = prepare_input(batch.pictures[rows].to(run.device, non_blocking=True))
            labels = batch.labels[rows].to(run.device, non_blocking=True)
            with _autocast(run):
                embeddings = network(inputs)
                try:
                    loss = run.head(embeddings, labels) * (len(rows) / size)
                except ValueError as error:
                    raise FloatingPointError(str(error)) from error
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} although all embeddings are finite")
            loss.backward()
            total += loss.item()
            seen.append((embeddings.detach(), labels))
        if measure:
            cosines = _cosines(run.head, *(torch.cat(parts) for parts in zip(*seen, strict=True)))
    if run.config.optimizer.clip is not None:
        parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, run.config.optimizer.clip)
        if not norm.isfinite():
            raise FloatingPointError(f"the norm of the gradient is {norm.item()}")
    for optimizer in run.optimizers:
        optimizer.step()
    if run.average is not None:
        run.average.update_parameters(run.backbone)
    return total, cosines


def _cosines(
    head: PrototypeHead, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
) -> dict[str, float | None]:
    """Mean cosine of samples to their own prototype, and to their own memory where that is alive."""
    features = nn.functional.normalize(embeddings.float(), dim=1)
    own = nn.functional.cosine_similarity(features, head.weight.detach()[labels])
    result: dict[str, float | None] = {"cos_prototype": own.mean().item(), "cos_memory": None}
    if head.memory is not None and head.timer is not None:
        alive = head.timer[labels] > 0
        if alive.any():
            remembered = head.memory[labels[alive]].float()
            result["cos_memory"] = nn.functional.cosine_similarity(features[alive], remembered).mean().item()
    return result


def _validate(run: Training, folder: Path, journal: Journal, validation: Validation) -> None:
    card = model_card(run)
    evaluations = validation.run(Embedder.from_backbone(run.model, card), bootstrap=0)
    values = {
        name: {metric: figure["value"] for metric, figure in evaluation.metrics.items()}
        for name, evaluation in evaluations.items()
    }
    journal.write({"step": run.step, "validation": values, "time": round(time.time(), 3)})
    value = validation.criterion(values)
    if value is not None and (run.best is None or value > run.best):
        run.best = value
        save_model(folder / "best", run.model, card)


def _save(run: Training, folder: Path) -> None:
    save_checkpoint(folder / "checkpoints" / "last.safetensors", run)
    save_model(folder, run.model, model_card(run))


def model_card(run: Training) -> ModelCard:
    """What the model of a run has to say about itself."""
    config = run.config
    folders = ", ".join(source.folder.name for source in config.data.train)
    return ModelCard(
        backbone=config.backbone.name,
        backbone_options=dict(config.backbone.options),
        embedding_dim=config.backbone.embedding_dim,
        preprocessing=Preprocessing(),
        training_data=folders,
        identities=len(run.pictures.identities),
        pictures=len(run.pictures),
        step=run.step,
        margin=str(config.margin),
        variational=None if run.head.variational is None else str(run.head.variational),
    )


def _batches(run: Training) -> Iterator[Batch]:
    config = run.config
    workers = config.data.workers if config.data.workers is not None else min(4, max(torch.get_num_threads() // 2, 1))
    augmentation = config.data.augmentation
    return load_batches(run.pictures, run.batches, augmentation, config.seed, run.step, run.rate.steps, workers)


def _autocast(run: Training) -> torch.autocast:
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bfloat16")


def _claim(config: Config, resume: bool, overwrite: bool) -> Path:
    """Make the run folder ours, or say why it cannot be."""
    folder = config.run_folder
    stored, last = folder / "config.yaml", folder / "checkpoints" / "last.safetensors"
    if resume:
        if not last.exists():
            raise ConfigError(f"{folder} holds no checkpoint to resume from; train without --resume")
        before = read_config(stored).model_dump(mode="json")
        now = config.model_dump(mode="json")
        changed = sorted(key for key in now if now[key] != before[key] and key not in MAY_CHANGE_ON_RESUME)
        if changed:
            raise ConfigError(
                f"{folder} was trained with another {', '.join(changed)}; resume it as it was (vplface train {folder}"
                " --resume), or start a new run under another name (name=...)"
            )
    elif stored.exists() and not overwrite:
        raise ConfigError(
            f"{folder} already holds a run; go on with it (--resume), replace it (--overwrite), or choose another name"
            " (name=...)"
        )
    elif stored.exists():
        for old in (last, folder / "metrics.jsonl", folder / "evaluation.json"):
            old.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stored.write_text(config.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {folder}: {error.strerror or error}") from error
    return folder


def _counts(run: Training) -> dict[str, Any]:
    return {
        "identities": len(run.pictures.identities),
        "pictures": len(run.pictures),
        "steps_per_epoch": len(run.batches),
        "steps": run.rate.steps,
        "parameters": sum(p.numel() for p in run.backbone.parameters()),
        "device": str(run.device),
    }


def _divergence(run: Training, folder: Path, fault: str) -> str:
    bad = [name for name, p in run.backbone.named_parameters() if not p.isfinite().all()]
    cause = f" (already in the weights: {bad[0]} and {len(bad) - 1} more)" if bad else ""
    last = folder / "checkpoints" / "last.safetensors"
    good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written yet"
    return (
        f"training diverged at step {run.step + 1}: {fault}{cause}; {good}. Lower optimizer.lr, lengthen"
        " schedule.warmup, or set optimizer.clip"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text


def _memory_advice(config: Config, error: BaseException) -> str:
    return (
        f"memory ran out ({str(error).splitlines()[0] if str(error) else 'no details'}). Take the batch of"
        f" {config.batch_size} in more parts (accumulate={2 * config.accumulate}: same result, less memory), make it"
        " smaller (batch_size=...), or compute in precision=bfloat16"
    )
