"""Checkpoints: everything a step depends on, in safetensors files with their checksums, and nothing that can execute.

    step-00001200/
        manifest.json            format, step, notes, which rows lie where, bytes and SHA-256 of every file
        common.safetensors       backbone, its start (L2-SP), moving averages, their optimiser's state, drift,
                                 and what memory and terms share
        rows-00000-of-00004.safetensors    W, M, T and momentum of the classes of a rank, and its random state

A folder gets its name when all of its files are on the disk, so a checkpoint is complete or absent. It can be loaded
by any number of ranks.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vplface.errors import DataError
from vplface.files import flush_folder
from vplface.reading import read_json_object
from vplface.training.checkpoint_manifest import (
    COMMON,
    FORMAT,
    MANIFEST,
    checkpoint_name,
    file_digest,
    manifest_digest,
    newest_first,
    read_manifest,
    row_files,
)
from vplface.training.distributed import DistributedContext
from vplface.training.host_copy import copies_on_host
from vplface.training.run_state import RunState
from vplface.training.stored_tensors import StoredTensors

PATIENCE = 600.0
"""Seconds that the first rank waits for the files of the others."""


class Checkpoints:
    """Writes checkpoints of a run in the background, each rank its own part, and keeps the newest.

    As a context manager it waits at the end for the current write; after an error it does not wait for other ranks.

    Args:
        folder: of the run's checkpoints; all ranks see it.
        context: the processes that share the run.
        keep: how many to keep.
        recorded: further entries of the manifest; see :func:`~.checkpoint_manifest.describe_run`.
    """

    def __init__(
        self, folder: Path, context: DistributedContext, keep: int, recorded: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self._context = context
        self._keep = keep
        self._recorded = dict(recorded or {})
        self._writer: threading.Thread | None = None
        self._fault: BaseException | None = None
        self._abandoned = threading.Event()
        if context.is_main:
            for torn in folder.glob(".step-*"):
                shutil.rmtree(torn, ignore_errors=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abandon()

    def save(self, run: RunState) -> None:
        """Copy the state of a run and write it in the background; waits for the previous write.

        Raises:
            DataError: if the previous write failed.
            FloatingPointError: if weights, memory or the optimiser's state are not finite; nothing is written then.
        """
        self.finish()
        unreadable = self._context.union(run.unreadable)
        common, rows = _state(run)
        bad = _not_finite(common | rows)
        if self._context.sum([float(bad is not None)])[0]:
            raise FloatingPointError(f"{bad or 'the state of another rank'} is not finite")
        # All ranks write into one new folder, not into what a killed run has left of the same step.
        attempt = self._context.on_main(lambda: f"{os.getpid()}-{time.time_ns()}")
        notes = {"step": run.step, "best": run.best, "stale": run.stale, "unreadable": sorted(unreadable)}
        manifest = {
            "format": FORMAT,
            "notes": notes,
            "classes": run.head.num_classes,
            "dim": run.head.embedding_dim,
            "world": self._context.size,
            **self._recorded,
        }
        part = self.folder / f".{checkpoint_name(run.step)}.{attempt}"
        own = {"first": run.head.classes.start, "stop": run.head.classes.stop}
        copies = copies_on_host(common if self._context.is_main else {}), copies_on_host(rows)
        write = partial(self._write, part, run.step, manifest, own, *copies)
        self._writer = threading.Thread(target=write)
        try:
            self._writer.start()
        except RuntimeError:  # the system has no more threads
            self._writer = None
            write()

    def finish(self) -> None:
        """Wait for the current write.

        Raises:
            DataError: if it failed; the checkpoints before it are unharmed.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    def abandon(self) -> None:
        """Finish the current write, but do not wait for the parts of other ranks, which will not come."""
        self._abandoned.set()
        if self._writer is not None:
            self._writer.join()

    def check(self) -> None:
        """Raise the error of a write in the background, if there was one.

        Raises:
            DataError: if a write failed; the checkpoints before it are unharmed.
        """
        if self._fault is not None:
            fault, self._fault = self._fault, None
            why = str(fault) if isinstance(fault, OSError | SafetensorError) else f"{type(fault).__name__}: {fault}"
            raise DataError(
                f"a checkpoint could not be written to {self.folder}: {why}; the checkpoints before it are unharmed"
            ) from fault

    def _write(
        self,
        part: Path,
        step: int,
        manifest: dict[str, Any],
        own: dict[str, int],
        common: dict[str, Tensor],
        rows: dict[str, Tensor],
    ) -> None:
        rank, world = self._context.rank, self._context.size
        try:
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            receipts = {}
            name = f"rows-{rank:05d}-of-{world:05d}.safetensors"
            receipts[name] = _write_file(part / name, rows) | own
            if self._context.is_main:
                receipts[COMMON] = _write_file(part / COMMON, common)
            receipt = part / f"receipt-{rank}.json"
            receipt.with_suffix(".part").write_text(json.dumps(receipts), encoding="utf-8")
            receipt.with_suffix(".part").rename(receipt)
            if self._context.is_main:
                self._complete(part, step, manifest)
        except BaseException as error:  # any error must reach the thread of training
            self._fault = error
            shutil.rmtree(part, ignore_errors=True)

    def _complete(self, part: Path, step: int, manifest: dict[str, Any]) -> None:
        """Wait until all ranks have written, then write the manifest, rename the folder, and delete the oldest ones."""
        receipts = [part / f"receipt-{rank}.json" for rank in range(self._context.size)]
        deadline = time.monotonic() + PATIENCE
        while missing := [rank for rank, receipt in enumerate(receipts) if not receipt.exists()]:
            if time.monotonic() > deadline or not part.exists() or self._abandoned.wait(0.02):
                raise OSError(f"rank {missing[0]} did not write its part; do all ranks see {self.folder}?")
        files: dict[str, Any] = {}
        for receipt in receipts:
            files |= read_json_object(receipt)
            receipt.unlink()
        manifest |= {"files": files}
        with (part / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest | {"sha256": manifest_digest(manifest)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        whole, again = self.folder / checkpoint_name(step), 0
        while whole.exists():  # a run stopped at this step and resumed from it
            again += 1
            whole = self.folder / f"{checkpoint_name(step)}.{again}"
        part.rename(whole)
        flush_folder(self.folder)
        for old in newest_first(self.folder)[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(path: Path, run: RunState, context: DistributedContext) -> None:
    """Restore a run that was built from the same configuration from a checkpoint of any number of ranks.

    Raises:
        DataError: if a file cannot be read or the checkpoint belongs to another configuration.
    """
    manifest, head = read_manifest(path), run.head
    if (manifest["classes"], manifest["dim"]) != (head.num_classes, head.embedding_dim):
        raise DataError(
            f"checkpoint {path} has {manifest['classes']:,} classes of {manifest['dim']} dimensions, this configuration"
            f" {head.num_classes:,} of {head.embedding_dim}; resume with the configuration of the run, or start a new"
            " run under another name from this one (--init-from)"
        )
    common = read_tensors(path / COMMON)
    rows = read_rows(path, manifest, torch.arange(head.classes.start, head.classes.stop))
    try:
        run.backbone.load_state_dict(_part(common, "backbone."))
        head.load_state_dict(_part(common, "head.") | _part(rows, "head."))
        for name, average in (("average.", run.average), ("encoder.", run.encoder)):
            if average is not None:
                average.load_state_dict(_part(common, name))
        if run.start is not None:
            run.start.load_state_dict(_part(common, "start."))
        run.drift.load_state_dict(_part(common, "drift."))
        for number, optimizer in enumerate(run.optimizers):
            state = _part(common, f"optimizer{number}.") | _state_of_weight(rows, optimizer, head.weight)
            optimizer.load_state_dict(_optimizer_state(state, optimizer))
    except (RuntimeError, ValueError, KeyError) as error:
        raise DataError(
            f"checkpoint {path} does not fit this configuration ({error}); resume with the configuration of the run,"
            " or start a new run under another name"
        ) from error
    if head.by_age is not None:
        head.by_age.clear()
        if context.is_main and "age.sums" in common:
            head.by_age.sums, head.by_age.counts = common["age.sums"], common["age.counts"]
    random = path / f"rows-{context.rank:05d}-of-{manifest['world']:05d}.safetensors"
    if random.exists():
        stored = StoredTensors(random)
        torch.set_rng_state(stored.tensor("rng.cpu"))
        if "rng.cuda" in stored.names and run.device.type == "cuda":
            torch.cuda.set_rng_state(stored.tensor("rng.cuda"), run.device)
    notes = manifest["notes"]
    run.step, run.best, run.unreadable = notes["step"], notes["best"], set(notes["unreadable"])
    run.stale = notes.get("stale", 0)  # which checkpoints of version 0.1 lack


def read_rows(path: Path, manifest: Mapping[str, Any], classes: Tensor) -> dict[str, Tensor]:
    """The rows of W, M, T and the optimiser's state of some classes, given by ascending id, whichever ranks saved them.

    Raises:
        DataError: if a file cannot be read.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, file in row_files(manifest):
        inside = classes[(classes >= file["first"]) & (classes < file["stop"])] - file["first"]
        stored = StoredTensors(path / name)
        first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, -1)
        for key in stored.names:
            if not key.startswith("rng."):
                found = stored.rows(key, first, last + 1)
                if len(found) != last + 1 - first:
                    raise DataError(f"checkpoint {path / name}: {key!r} has fewer rows than {MANIFEST} says")
                parts.setdefault(key, []).append(found[inside - first])
    return {key: torch.cat(each) for key, each in parts.items()}


def _state(run: RunState) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state that all ranks share, and the state of the classes of this rank; no copies."""
    common = {f"backbone.{key}": value for key, value in run.backbone.state_dict().items()}
    rows = {f"head.{key}": value for key, value in run.head.state_dict().items()}
    common |= {key: rows.pop(key) for name in run.head.shared_state if (key := f"head.{name}") in rows}
    for name, average in (("average", run.average), ("encoder", run.encoder)):
        if average is not None:
            common |= {f"{name}.{key}": value for key, value in average.state_dict().items()}
    if run.start is not None:
        common |= {f"start.{key}": value for key, value in run.start.state_dict().items()}
    for number, optimizer in enumerate(run.optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensor = torch.as_tensor(value)
                by_row = parameters[index] is run.head.weight and tensor.shape == run.head.weight.shape
                (rows if by_row else common)[f"optimizer{number}.{index}.{key}"] = tensor
    common |= {f"drift.{key}": value for key, value in run.drift.state_dict().items()}
    if run.head.by_age is not None:
        common["age.sums"], common["age.counts"] = run.head.by_age_total()
    rows["rng.cpu"] = torch.get_rng_state()
    if run.device.type == "cuda":
        rows["rng.cuda"] = torch.cuda.get_rng_state(run.device)
    return common, rows


def _not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is not finite, except measurements and random states; a GPU checks all before it waits."""
    checked = {
        name: value.isfinite().all()
        for name, value in state.items()
        if value.is_floating_point() and not name.startswith(("drift.", "age.", "rng."))
    }
    return next((name for name, finite in checked.items() if not finite), None)


def _write_file(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        DataError: if it cannot be read.
    """
    stored = StoredTensors(path)
    return {key: stored.tensor(key) for key in stored.names}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _state_of_weight(rows: dict[str, Tensor], optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """State of W by the index that W has in an optimizer, whichever optimizer of the run has saved it; else nothing."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = [key for key in rows if key.startswith("optimizer")]  # optimizer0.12.momentum_buffer
    indices = [index for index, parameter in enumerate(parameters) if parameter is weight]
    return {f"{index}.{key.split('.', 2)[2]}": rows[key] for index in indices for key in saved}


def _optimizer_state(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": whole["param_groups"]}
