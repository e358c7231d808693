"""The state of a run in one safetensors file: everything that a step depends on, and nothing that can execute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vplface.errors import DataError
from vplface.files import replacing
from vplface.training.state import Training

FORMAT = "2"


def save_checkpoint(path: Path, run: Training) -> None:
    """Write the state of a run, atomically: networks, prototypes, memory, optimiser, average, drift, random state.

    Raises:
        DataError: if the file cannot be written; the one before stays.
    """
    tensors = {f"backbone.{key}": value for key, value in run.backbone.state_dict().items()}
    tensors |= {f"head.{key}": value for key, value in run.head.state_dict().items()}
    if run.average is not None:
        tensors |= {f"average.{key}": value for key, value in run.average.state_dict().items()}
    for number, optimizer in enumerate(run.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    if run.drift.last is not None:
        tensors["drift"] = run.drift.last
    tensors["rng.cpu"] = torch.get_rng_state()
    if run.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(run.device)
    owned = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    notes = {"step": run.step, "best": run.best, "unreadable": sorted(run.unreadable)}
    with replacing(path) as temporary:
        try:
            save_file(owned, temporary, metadata={"format": FORMAT, "notes": json.dumps(notes)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_checkpoint(path: Path, run: Training) -> None:
    """Put a run that was prepared from the same configuration into the state that was saved.

    Raises:
        DataError: if the file is damaged or belongs to another configuration.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise DataError(f"checkpoint {path} cannot be read: {error}") from error
    if meta.get("format") != FORMAT:
        raise DataError(f"{path} is not a checkpoint of this program (format {meta.get('format')!r})")
    try:
        run.backbone.load_state_dict(_part(tensors, "backbone."))
        run.head.load_state_dict(_part(tensors, "head."))
        if run.average is not None:
            run.average.load_state_dict(_part(tensors, "average."))
        for number, optimizer in enumerate(run.optimizers):
            optimizer.load_state_dict(_optimizer_state(_part(tensors, f"optimizer{number}."), optimizer))
    except (RuntimeError, ValueError, KeyError) as error:
        raise DataError(
            f"checkpoint {path} does not fit this configuration ({error}); resume with the configuration of the run,"
            " or start a new run under another name"
        ) from error
    run.drift.last = tensors["drift"].to(run.device) if "drift" in tensors else None
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and run.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], run.device)
    notes = json.loads(meta["notes"])
    run.step, run.best, run.unreadable = notes["step"], notes["best"], set(notes["unreadable"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": whole["param_groups"]}
