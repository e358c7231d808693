"""The story of a training run: batches in, a model out."""

from __future__ import annotations

import itertools
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vplface.config import Config, read_config
from vplface.data.batches import Batch, load_batches
from vplface.data.pictures import Preprocessing
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError, TrainingInterrupted, VplfaceError
from vplface.files import PRIVATE, locked, remove_temporaries, replacing
from vplface.paths import argument
from vplface.progress import progress
from vplface.ranks import OtherRankError
from vplface.reading import is_folder, kind_of, read_json, read_json_object
from vplface.run_folder import RunFolder
from vplface.stored_model import ModelCard, save_model
from vplface.training.checkpoint import (
    Checkpoints,
    digest_of_names,
    has_checkpoints,
    last_trained_with,
    load_checkpoint,
    newest_checkpoint,
    read_manifest,
    trained_on,
    trained_with,
)
from vplface.training.instruments import measure, own_cosines
from vplface.training.interrupt import Interrupt
from vplface.training.journal import Journal, environment, write_json
from vplface.training.loggers import Loggers
from vplface.training.parts import fewest
from vplface.training.start import start_from, whole_checkpoint
from vplface.training.state import Training, prepare
from vplface.training.validation import Validation
from vplface.training.world import World, join

_PATIENCE = 10.0
"""Seconds in which the workers of a run that was killed notice that it is gone, and let go of its folder."""

NO_MATTER = frozenset(
    {
        "name",
        "output",
        "device",
        "threads",
        "data.workers",
        "log_every",
        "checkpoint_every",
        "checkpoints_kept",
        "compile",
        "timeout",
        "loggers",
    }
)
"""Keys on which nothing depends that a run finds."""


def changed_keys(before: Config, config: Config) -> tuple[str, ...]:
    """The dotted keys, less those of no matter, that two configurations differ in."""
    one, other = (each.model_dump(mode="json") for each in (before, config))
    return tuple(key for key in _differing(one, other) if key not in NO_MATTER)


def stored_config(folder: Path) -> Config | None:
    """What the run in a folder was asked for: its config.yaml, or its newest checkpoint's where that cannot be read.

    Raises:
        ConfigError: naming config.yaml, if it cannot be read and no checkpoint can say what it held.
    """
    run_folder = RunFolder(folder)
    path = run_folder.config
    if kind_of(path) is None:
        return last_trained_with(run_folder.checkpoints)
    try:
        return read_config(path)
    except (ConfigError, DataError) as error:
        found = last_trained_with(run_folder.checkpoints)
        if found is None:
            raise ConfigError(f"{error}; delete it and restart the run with --overwrite") from error
        return found


def restore_config(folder: Path) -> None:
    """Write config.yaml of a run from its newest checkpoint, where it is damaged or missing."""
    run_folder = RunFolder(folder)
    path, aside = run_folder.config, run_folder.damaged_config
    if not is_folder(run_folder.checkpoints):
        return
    fault = f"{path} is missing"
    if kind_of(path) is not None:
        try:
            read_config(path)
            return
        except (ConfigError, DataError) as error:
            fault = f"{error}; it was kept as {aside.name}"
    found = last_trained_with(run_folder.checkpoints)
    if found is not None:
        with suppress(FileNotFoundError):
            path.replace(aside)
        _write_config(path, found)
        print(f"{fault}; a new one was written from the newest checkpoint", file=sys.stderr)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{prefix}{key}.")
        elif one != other:
            yield prefix + key


def _of_evaluation(key: str) -> bool:
    """Whether a key says what is asked of a model and not what is trained; who is held out is a matter of training."""
    return key.startswith("evaluation.") and key != "evaluation.seed"


class TrainingError(VplfaceError):
    """Training cannot go on: a loss that is not finite, or no memory left."""


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> Training | None:
    """Carry out a run and leave its folder behind: journal, checkpoints, models.

    Started by torchrun, each process trains with its part of every batch and holds its part of the classes. What
    torchrun starts again after a failure goes on from the last checkpoint by itself.

    Args:
        config: the run.
        resume: go on from the last whole checkpoint of the run folder.
        overwrite: start anew although the folder holds a run.

    Returns:
        The finished run; None in all processes but the first.

    Raises:
        ConfigError: if the configuration cannot be carried out, or the folder holds another run.
        DataError: if pictures, lists or checkpoints are at fault.
        TrainingError: if the loss is not finite or memory runs out; the last good checkpoint is named.
        TrainingInterrupted: after Ctrl-C, SIGTERM or SIGUSR1, when everything is saved.
        RankError: if another process of the run has died or hangs.
    """
    with join(config.timeout) as world, world.blaming(), ExitStack() as stack:
        if world.again:
            resume = has_checkpoints(RunFolder(config.run_folder).checkpoints)
            overwrite = not resume
        if kind_of(config.run_folder) is not None or not resume:
            world.once(lambda: stack.enter_context(_alone_in(config.run_folder)))
        chosen = world.once(lambda: _claim(config, resume, overwrite))
        run = _prepare_in_turn(config, world)
        if chosen is not None:
            checkpoint = Path(chosen)
            world.once(lambda: _compare_data(run, checkpoint))
            load_checkpoint(Path(chosen), run, world)
            before = trained_with(Path(chosen)) or stored_config(config.run_folder) or config
            if any(_of_evaluation(key) for key in changed_keys(before, config)):
                run.best = None  # the figure of another question
        elif config.init_from is not None:
            source = config.init_from
            start_from(Path(str(world.once(lambda: str(whole_checkpoint(source))))), run)
        return _carry_out(run, world, fresh=chosen is None)


def _prepare_in_turn(config: Config, world: World) -> Training:
    """Build the run, the first process before the others: it may have to write pictures that all read."""
    made: list[Training] = []
    world.once(lambda: made.append(prepare(config, world)))
    return made[0] if made else prepare(config, world)


def _carry_out(run: Training, world: World, fresh: bool) -> Training | None:
    config, folder = run.config, RunFolder(run.config.run_folder)
    checkpoints = Checkpoints(
        folder.checkpoints, world, config.checkpoints_kept, trained_on(config, run.pictures) if world.main else None
    )
    with ExitStack() as stack:
        validation = journal = None
        if world.main:
            validation = Validation(config.evaluation, run.heldout)
            loggers = stack.enter_context(Loggers(config, run.step, fresh))
            _move_in(config, fresh)
            if fresh:  # from here on the folder always holds a model whose weights are finite
                save_model(folder.path, run.model, model_card(run))
            write_json(folder.environment, environment() | _counts(run, world))
            write_json(folder.identities, list(run.pictures.identities), PRIVATE)
            journal = stack.enter_context(Journal(folder.metrics, run.step, loggers))
        world.has_begun()
        interrupt = stack.enter_context(Interrupt())
        stack.push(lambda kind, error, trace: checkpoints.abandon() if error is not None else None)
        try:
            _fit(run, world, checkpoints, journal, validation, interrupt)
            checkpoints.finish()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if _is_out_of_memory(error):
                raise TrainingError(_memory_advice(config, error)) from error
            raise
    return run if world.main else None


def _fit(
    run: Training,
    world: World,
    checkpoints: Checkpoints,
    journal: Journal | None,
    validation: Validation | None,
    interrupt: Interrupt,
) -> None:
    config, folder, per_epoch = run.config, run.config.run_folder, len(run.batches)
    log_every, save_every = (max(length.steps(per_epoch), 1) for length in (config.log_every, config.checkpoint_every))
    validate_every = None if config.evaluation.every is None else max(config.evaluation.every.steps(per_epoch), 1)
    prepare_input = Preprocessing()
    network: Any = torch.compile(run.backbone) if config.compile else run.backbone
    if world.group is not None:
        # With batch statistics those of rank 0 are kept: of the first slice of every batch.
        on = [run.device] if run.device.type == "cuda" else None
        # Looking for unused parameters keeps DDP from regrouping its buckets after the first step, with which sums over
        # three or more ranks would round otherwise in a resumed run. Where exactness is not to be had, speed is.
        fixed = run.device.type == "cpu"
        network = DistributedDataParallel(
            network, device_ids=on, process_group=world.group, find_unused_parameters=fixed
        )
    taken, clock = 0, time.perf_counter()

    world.meet()
    with progress(config.name, run.rate.steps, done=run.step, shown=world.main) as advance:
        for batch in _batches(run, world, interrupt):
            world.arrive(run.step)
            epoch = run.step / per_epoch
            run.unreadable.update(batch.unreadable)
            logs = (run.step + 1) % log_every == 0 or run.step + 1 == run.rate.steps
            looks = (run.step + 1) % run.drift.every == 0
            try:
                factor = _set_rates(run)
                loss, figures = _step(run, world, network, prepare_input, batch, logs, looks)
            except FloatingPointError as error:
                checkpoints.finish()
                raise TrainingError(_divergence(run, folder, str(error), run.step + 1)) from error
            run.step += 1
            taken += len(batch.labels)
            entry: dict[str, Any] = {}
            if logs:
                rate = world.sum([taken])[0] / (time.perf_counter() - clock)
                entry = {"loss": loss, "lr": config.optimizer.lr * factor, "coverage": run.head.coverage()}
                entry |= {f"terms/{name}": value for name, value in run.head.term_values().items()}
                entry |= {"pictures_per_second": round(rate, 1), "unreadable": len(world.union(run.unreadable))}
                advance(0, f"loss {loss:.3f}  {rate:.0f} pictures/s")
                taken, clock = 0, time.perf_counter()
            advance(1, f"loss {loss:.3f}")
            if looks and (by_age := run.head.cosine_by_age()):
                entry["cosine_by_age"] = {age: found.mean for age, found in by_age.items()}
                entry["samples_by_age"] = {age: found.samples for age, found in by_age.items()}
            entry |= figures | _follow_drift(run, world)
            if entry and journal is not None:
                journal.write({"step": run.step, "epoch": round(epoch, 3), **entry, "time": round(time.time(), 3)})
            finished = run.step == run.rate.steps
            if validate_every and (run.step % validate_every == 0 or finished):
                world.once(lambda: _validate(run, folder, journal, validation))
            stop, preempted = (said > 0 for said in world.sum([interrupt.requested, interrupt.preempted]))
            checkpoints.check()
            if run.step % save_every == 0 or finished or stop:
                _save(run, checkpoints, world)
                clock = time.perf_counter()
            if stop and not finished:
                raise _stopped(run, checkpoints, preempted)
    if run.step < run.rate.steps:  # told to stop while it waited for pictures
        if world.group is not None:
            raise TrainingError(
                f"received a stop signal while rank {world.rank} waited for the pictures of step {run.step + 1};"
                f" {_last_good(folder)}"
            )
        _save(run, checkpoints, world)
        raise _stopped(run, checkpoints, interrupt.preempted)


def _set_rates(run: Training) -> float:
    """Set the learning rates of the next step and return their factor.

    Raises:
        FloatingPointError: a rate is not finite.
    """
    factor = run.rate.factor(run.step)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
            if not math.isfinite(group["lr"]):
                raise FloatingPointError(f"the learning rate is {group['lr']}")
    return factor


def _save(run: Training, checkpoints: Checkpoints, world: World) -> None:
    """Save a checkpoint and the model, or end a run whose weights are not finite or no longer embed a picture."""
    try:
        bad = not all(_embeds(module, run.drift.pictures[:2]) for module in (run.backbone, run.model))
        if world.sum([float(bad)])[0]:
            raise FloatingPointError("the embeddings of the first pictures are not finite")
        checkpoints.save(run)
    except FloatingPointError as error:
        checkpoints.finish()
        raise TrainingError(_divergence(run, run.config.run_folder, str(error), run.step)) from error
    if world.main:
        save_model(run.config.run_folder, run.model, model_card(run))


@torch.no_grad()
def _embeds(module: nn.Module, pictures: Tensor) -> bool:
    """Whether a network makes finite embeddings of pictures; its mode is left as it was."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        return bool(module(pictures).isfinite().all())
    finally:
        for each, mode in modes:
            each.training = mode


def _stopped(run: Training, checkpoints: Checkpoints, preempted: bool) -> TrainingInterrupted:
    """What to say of a run that was told to stop, once everything is saved."""
    checkpoints.finish()
    folder = argument(run.config.run_folder)
    return TrainingInterrupted(
        f"stopped after step {run.step} of {run.rate.steps}; everything is saved."
        f" Go on with: vplface train {folder} --resume",
        preempted=preempted,
    )


def _follow_drift(run: Training, world: World) -> dict[str, Any]:
    """What the journal has to say of drift after a step, and of injection where it begins."""
    entry: dict[str, Any] = {}
    measured, begin = run.drift.step(run.remembering), run.drift.begin
    if measured is not None:
        shortest = measured.by_lag.get(run.drift.every)
        entry = {"drift": shortest, "drift_by_lag": measured.by_lag, "spread": measured.spread}
    if begin is not None and begin.step == run.step:
        entry["begin"] = {"delta_t": begin.delta_t, "settled": begin.settled, "by_drift": begin.by_drift}
        if begin.settled and world.main:  # where it had not, the monitor warns
            print(run.drift.sentence(begin), file=sys.stderr)
    return entry


def _step(
    run: Training,
    world: World,
    network: Any,
    prepare_input: Preprocessing,
    batch: Batch,
    logs: bool,
    looks: bool,
) -> tuple[float, dict[str, Any]]:
    """One optimiser step over a batch, in ``config.accumulate`` parts.

    Returns:
        The loss of the whole batch; where it is a step that ``logs``, the mean cosines to the own class, and where it
        is one that ``looks`` closer, what injection does.
    """
    parts = _parts(run, batch)
    # A part counts by its share of the batch, over all ranks.
    shares = [1.0]
    if len(parts) > 1:
        sizes = world.sum([len(rows) for rows in parts])
        shares = [size / sum(sizes) for size in sizes]
    total = 0.0
    found: dict[str, Any] = {}
    seen: list[tuple[Tensor, Tensor]] = []
    run.backbone.train()
    run.head.train()
    remembers = run.head.remembers
    if run.encoder is not None:  # batch statistics as the backbone has them, and nothing random
        for module in run.encoder.modules():
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    with run.head.micro_batches():
        for number, (rows, share) in enumerate(zip(parts, shares, strict=True)):
            inputs = prepare_input(batch.pictures[rows].to(run.device, non_blocking=True))
            labels = batch.labels[rows].to(run.device, non_blocking=True)
            last = number == len(parts) - 1
            with nullcontext() if world.group is None or last else network.no_sync():
                with _autocast(run):
                    embeddings, memory = network(inputs), None
                    if run.encoder is not None and remembers:
                        with torch.no_grad():
                            memory = run.encoder(inputs)
                    try:
                        loss = run.head(embeddings, labels, memory) * share
                    except (ValueError, OtherRankError) as error:
                        raise FloatingPointError(str(error)) from error
                if not loss.isfinite():
                    raise FloatingPointError(f"the loss is {loss.item()} although all embeddings are finite")
                loss.backward()
            total += loss.item()
            seen.append((embeddings.detach(), labels))
        if logs or looks:
            whole, of_whole = (torch.cat(each) for each in zip(*seen, strict=True))
            if logs:
                own = own_cosines(run.head, whole, of_whole)
                found = dict(zip(("cos_prototype", "cos_memory"), own, strict=True))
            if looks:
                found |= measure(run.head, whole, of_whole)
    if run.config.optimizer.clip is not None:
        _clip(run, world, run.config.optimizer.clip)
    for optimizer in run.optimizers:
        optimizer.step()
    for average in (run.average, run.encoder):
        if average is not None:
            average.update_parameters(run.backbone)
    return total, found


def _parts(run: Training, batch: Batch) -> list[Tensor]:
    """Rows of the parts of a batch: as many on every rank, for every slice has enough for all parts."""
    parts = torch.arange(len(batch.labels)).tensor_split(run.config.accumulate)
    return [rows for rows in parts if len(rows)]


def _clip(run: Training, world: World, most: float) -> None:
    """Scale the gradients of backbone and prototypes to a common norm of at most ``most``."""
    parameters = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters if p is not run.head.weight]
    norm = nn.utils.get_total_norm(gradients)
    if run.head.optimizer is None and run.head.weight.grad is not None:
        squares = world.sum([float(run.head.weight.grad.square().sum())])[0]
        norm = torch.hypot(norm, norm.new_tensor(squares).sqrt())
    if not norm.isfinite():
        raise FloatingPointError(f"the norm of the gradient is {norm.item()}")
    nn.utils.clip_grads_with_norm_(parameters, most, norm)


def _validate(run: Training, folder: Path, journal: Journal | None, validation: Validation | None) -> None:
    assert journal is not None
    assert validation is not None
    if not validation.questions:
        return
    card = model_card(run)
    evaluations = validation.run(Embedder.from_backbone(run.model, card), bootstrap=0)
    values = {
        name: {metric: figure.value for metric, figure in evaluation.metrics.items()}
        for name, evaluation in evaluations.items()
    }
    journal.write({"step": run.step, "validation": values, "time": round(time.time(), 3)})
    value = validation.criterion(values)
    finite = all(tensor.isfinite().all() for tensor in run.model.state_dict().values())
    if finite and value is not None and (run.best is None or value > run.best):
        run.best = value
        save_model(RunFolder(folder).best.path, run.model, card)


def model_card(run: Training) -> ModelCard:
    """What the model of a run has to say about itself."""
    config = run.config
    folders = ", ".join(source.path.name for source in config.data.train)
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


def _batches(run: Training, world: World, interrupt: Interrupt) -> Iterator[Batch]:
    """The batches that are left; they end early if one is waited for when the run is told to stop."""
    config = run.config

    def give_up(seconds: float) -> bool:
        # Others may be in a step with this rank, and can save only after it.
        return interrupt.requested and (world.group is None or seconds > _PATIENCE)

    workers = config.data.workers if config.data.workers is not None else min(4, max(torch.get_num_threads() // 2, 1))
    return load_batches(
        run.pictures,
        run.batches,
        config.data.augmentation,
        config.seed,
        run.step,
        run.rate.steps,
        workers,
        (world.rank, world.size),
        fewest(config, run.batches, world.size),
        give_up,
    )


def _autocast(run: Training) -> torch.autocast:
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.config.precision == "bfloat16")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make the run folder, and keep other runs out of it."""
    otherwise = "another process is training in this folder; let it end, or choose another name (name=...)"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, otherwise, _PATIENCE))
            for place in (folder, RunFolder(folder).best.path):
                if is_folder(place):
                    remove_temporaries(place)
        except OSError as error:
            raise ConfigError(f"cannot write the run folder {folder}: {error.strerror or error}") from error
        yield


def _claim(config: Config, resume: bool, overwrite: bool) -> str | None:
    """Say why the run folder cannot be ours, if it cannot; returns the checkpoint to go on from."""
    folder, run_folder = config.run_folder, RunFolder(config.run_folder)
    chosen = None
    if resume:
        chosen, faults = newest_checkpoint(run_folder.checkpoints)
        for damaged, fault in faults:
            print(f"{fault}; it is put aside", file=sys.stderr)
            aside = (damaged.with_name(f"damaged-{damaged.name}.{n}") for n in itertools.count())
            damaged.rename(next(path for path in aside if not path.exists()))
        if chosen is None:
            raise ConfigError(f"{folder} holds no whole checkpoint to resume from; train without --resume")
        if faults:
            print(f"going on from {chosen}", file=sys.stderr)
        before = trained_with(chosen) or stored_config(folder)
        if before is None:
            raise ConfigError(f"{run_folder.config} is missing, and no checkpoint records it; put the file back")
        if changed := [key for key in changed_keys(before, config) if not _of_evaluation(key)]:
            raise ConfigError(
                f"{folder} was trained with another {', '.join(changed)}; resume it as it was"
                f" (vplface train {argument(folder)} --resume{_former(before, changed)}), or start a new run"
                " under another name (name=...)"
            )
    elif not overwrite and run_folder.holds_run():
        raise ConfigError(
            f"{folder} already holds a run; go on with it (--resume), replace it (--overwrite), or choose another name"
            " (name=...)"
        )
    return None if chosen is None else str(chosen)


def _former(before: Config, changed: Sequence[str]) -> str:
    """Overrides that give changed keys the values that they had, as far as a command line can hold them."""
    values = before.model_dump(mode="json")
    told = ""
    for key in changed:
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        told += f" {shlex.quote(f'{key}={json.dumps(value)}')}"
    return told if len(told) < 500 else ""


def _move_in(config: Config, fresh: bool) -> None:
    """Write what the run is asked for into its folder; a fresh one takes away all that an earlier one has left."""
    folder = RunFolder(config.run_folder)
    try:
        if fresh:
            folder.remove_run()
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {folder.path}: {error.strerror or error}") from error
    _write_config(folder.config, config)


def _write_config(path: Path, config: Config) -> None:
    with replacing(path) as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")


def _compare_data(run: Training, checkpoint: Path) -> None:
    """Refuse to resume with other classes than the run has, and say so where pictures have come or gone."""
    folder, now = run.config.run_folder, list(run.pictures.identities)
    known = read_manifest(checkpoint).get("data") or {}
    before: list[str] = []
    try:
        before = [str(name) for name in read_json(RunFolder(folder).identities)]
        pictures = known["pictures"] if known else int(read_json_object(RunFolder(folder).environment)["pictures"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        if not known:
            raise DataError(
                f"{folder} does not say what it was trained on: {error}; put the file back, or start a new run from its"
                " backbone (backbone.weights=FILE)"
            ) from error
        pictures = known["pictures"]
    same = digest_of_names(now) == known["identities"] if known else now == before
    if not same:
        gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        examples = ", ".join([f"without {name}" for name in gone[:2]] + [f"with {name}" for name in new[:2]])
        raise DataError(
            f"the identities in the data are no longer those of {folder} ({len(now):,} instead of {len(before):,}:"
            f" {examples or 'in another order'}); put them back, or start a new run from it (--init-from"
            f" {argument(folder)})"
        )
    if len(run.pictures) != pictures:
        print(
            f"there are {len(run.pictures):,} pictures instead of the {pictures:,} that {folder} was trained on so far;"
            " the run goes on, with other batches than it would have had",
            file=sys.stderr,
        )


def _counts(run: Training, world: World) -> dict[str, Any]:
    return {
        "identities": len(run.pictures.identities),
        "pictures": len(run.pictures),
        "steps_per_epoch": len(run.batches),
        "steps": run.rate.steps,
        "delta_t": run.head.delta_t,
        "drift_every": run.drift.every,
        "parameters": sum(p.numel() for p in run.backbone.parameters()),
        "device": str(run.device),
        "processes": world.size,
    }


def _divergence(run: Training, folder: Path, fault: str, step: int) -> str:
    bad = [name for name, p in run.backbone.named_parameters() if not p.isfinite().all()]
    cause = f" (already in the weights: {bad[0]} and {len(bad) - 1} more)" if bad else ""
    return (
        f"training diverged at step {step}: {fault}{cause}; {_last_good(folder)}. Lower optimizer.lr, lengthen"
        " schedule.warmup, or set optimizer.clip"
    )


def _last_good(folder: Path) -> str:
    last, _ = newest_checkpoint(RunFolder(folder).checkpoints)
    return "no checkpoint had been written yet" if last is None else f"the last good checkpoint is {last}"


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text


def _memory_advice(config: Config, error: BaseException) -> str:
    return (
        f"memory ran out ({str(error).splitlines()[0] if str(error) else 'no details'}). Take the batch of"
        f" {config.batch_size} in more parts (accumulate={2 * config.accumulate}: same result, less memory), make it"
        " smaller (batch_size=...), or compute in precision=bfloat16"
    )
