"""Initialisation from another run: its backbone, and the prototypes of the identities that both runs have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vplface.errors import ConfigError, DataError
from vplface.reading import read_json
from vplface.run_folder import RunFolder
from vplface.training.checkpoint import read_rows, read_tensors
from vplface.training.checkpoint_manifest import COMMON, newest_checkpoint, read_manifest
from vplface.training.class_means import mean_directions
from vplface.training.run_state import RunState

_NOT_INHERITED = ("step_count", "begun_at", "delta_t", "margin_", "terms.")
_OPTIMIZER_STATE = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}


def whole_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint of a run that another may start from.

    Raises:
        DataError: if there is none.
    """
    path, faults = newest_checkpoint(RunFolder(folder).checkpoints)
    if path is None:
        damaged = f" ({faults[0][1]})" if faults else ""
        raise DataError(
            f"{folder} holds no whole checkpoint to start from{damaged}; give a run folder, or use only its backbone:"
            " backbone.weights=FILE"
        )
    return path


def init_from_run(path: Path, run: RunState) -> None:
    """Initialise a fresh run with the backbone of another's checkpoint, and its prototypes with momentum and memory.

    Classes are matched by the name of their identity. A class that the other run did not have starts, by
    ``config.init_new_classes``, from the mean embedding of its pictures, with the mean length of the old rows of W, or
    as drawn. Its memory is empty.

    Args:
        path: the checkpoint, in the folder of its run.
        run: just built; it is changed in place.

    Raises:
        ConfigError: if the embedding sizes differ, or the backbone or the kind of memory is another.
        DataError: if the folder does not hold the names of its identities.
    """
    folder = path.parents[1]
    manifest, head = read_manifest(path), run.head
    if manifest["dim"] != head.embedding_dim:
        raise ConfigError(
            f"{folder} has embeddings of {manifest['dim']} dimensions, this run of {head.embedding_dim}; set"
            f" backbone.embedding_dim={manifest['dim']}"
        )
    common = read_tensors(path / COMMON)
    try:
        run.backbone.load_state_dict(
            {key.removeprefix("backbone."): value for key, value in common.items() if key.startswith("backbone.")}
        )
    except RuntimeError as error:
        raise ConfigError(f"{folder} has another backbone: {str(error).splitlines()[-1].strip()}") from error
    if run.encoder is not None:
        run.encoder.module.load_state_dict(run.backbone.state_dict())
    known = _identities(folder)
    names = [run.pictures.identities[label] for label in head.classes]
    pairs = sorted((known[name], row) for row, name in enumerate(names) if name in known)
    old = torch.tensor([identity for identity, _ in pairs], dtype=torch.int64)
    here = torch.tensor([row for _, row in pairs], dtype=torch.int64, device=run.device)
    _inherit_rows(run, here, read_rows(path, manifest, old), common)
    new = np.setdiff1d(np.arange(len(names)), here.cpu().numpy())
    if run.config.init_new_classes == "mean" and len(new):
        length = float(head.weight.detach()[here].norm(dim=-1).mean()) if len(here) else 1.0
        directions = mean_directions(run, new + head.classes.start)
        with torch.no_grad():
            for row, direction in zip(new.tolist(), directions, strict=True):
                if direction.any():
                    head.weight[row].view(-1, head.embedding_dim)[0] = length * direction


def _inherit_rows(run: RunState, here: Tensor, rows: dict[str, Tensor], common: dict[str, Tensor]) -> None:
    """Write the rows of the classes that both runs have to their new positions."""
    head, device = run.head, run.device

    def placed(values: Tensor) -> Tensor:
        result = torch.zeros(len(head.classes), *values.shape[1:], dtype=values.dtype, device=device)
        result[here] = values.to(device)
        return result

    if rows["head.weight"].shape[1:] != head.weight.shape[1:]:
        raise ConfigError(
            f"that run has prototypes of {list(rows['head.weight'].shape[1:])} for each class, this one of"
            f" {list(head.weight.shape[1:])}; set subcenters to the same number"
        )
    with torch.no_grad():
        head.weight[here] = rows["head.weight"].to(head.weight)
    if head.begun_at is not None and "head.memory" in rows:  # start: auto waits until features have settled again
        of_memory = {name: value for name, value in _of_head(rows).items() if not name.startswith(("weight", "terms."))}
        memory = {name: placed(value) for name, value in of_memory.items()}
        memory |= {name: value for name, value in _of_head(common).items() if not name.startswith(_NOT_INHERITED)}
        try:
            head.load_state_dict(head.state_dict() | memory)
        except RuntimeError as error:
            raise ConfigError(f"the memory does not fit this run: {str(error).splitlines()[-1].strip()}") from error
    state = {}
    for name in _OPTIMIZER_STATE[run.config.optimizer.name]:
        found = [value for key, value in rows.items() if key.endswith(f".{name}")]
        if found:
            state[name] = placed(found[0].to(head.weight.dtype))
    if state:
        optimizer = head.optimizer or run.optimizer
        steps = [value for key, value in common.items() if key.startswith("optimizer0.") and key.endswith(".step")]
        optimizer.state[head.weight] = state | ({"step": steps[0].clone()} if steps else {})


def _of_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("head."): value for key, value in tensors.items() if key.startswith("head.")}


def _identities(folder: Path) -> dict[str, int]:
    path = RunFolder(folder).identities
    try:
        return {str(name): label for label, name in enumerate(read_json(path))}
    except (DataError, TypeError) as error:
        raise DataError(
            f"{path}, the names of the identities of that run, cannot be read: {error}; resume that run, which writes"
            " them again"
        ) from error
