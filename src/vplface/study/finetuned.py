"""The comparison of a fine-tuned model with the one that it started from, and which of the two the run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from vplface.config import Config
from vplface.embedder import Embedder
from vplface.evaluation import Evaluation, compare
from vplface.evaluation.figure import Difference
from vplface.files import PRIVATE, write_json
from vplface.reading import kind_of
from vplface.run_folder import RunFolder
from vplface.stored_model import ModelCard, load_model, save_model
from vplface.training.validation import Validation, values_of


def judge(
    config: Config, validation: Validation, untouched: Mapping[str, Evaluation], last: Mapping[str, Evaluation]
) -> None:
    """Compare the best fine-tuned model with the untouched one, and keep the better in ``best``.

    The fine-tuned model is that of the best validation; if none is left in ``best``, the last one. It is better if the
    95 % interval of the paired difference, in the figure by which the best model is chosen, lies above 0: people are
    resampled, the same for both. The guard has fallen if that of its figure lies below 0. Leaves finetuning.json in the
    run folder.

    Args:
        config: the run.
        validation: its evaluation sets.
        untouched: the evaluation of the model that the run started from, with intervals.
        last: that of the last model of the run.
    """
    folder = RunFolder(config.run_folder)
    path, backbone, card = _finetuned(folder)
    tuned = last
    if path != folder.path:
        tuned = validation.run(Embedder.from_backbone(backbone, card), config.evaluation.bootstrap)
    differences = {name: compare(untouched[name], found) for name, found in tuned.items()}
    values = values_of(tuned)
    deciding, guarded = validation.deciding(values), validation.guarded(values)
    ends = _interval(differences, deciding)
    helped = None if ends is None else ends[0] > 0
    ends_of_guard = _interval(differences, guarded)
    if not helped:
        save_model(folder.best.path, *load_model(folder.untouched.path))
    elif path != folder.best.path:
        save_model(folder.best.path, backbone, card)
    write_json(
        folder.finetuning,
        {
            "schema": 1,
            "step": card.step,
            "helped": helped,
            "guard_fell": None if ends_of_guard is None else ends_of_guard[1] < 0,
            "deciding": _place(deciding),
            "guard": _place(guarded),
            "untouched": _shown(untouched),
            "finetuned": _shown(tuned),
            "differences": differences,
        },
        PRIVATE,
    )


def _finetuned(folder: RunFolder) -> tuple[Path, nn.Module, ModelCard]:
    """Folder, network and card of the best fine-tuned model that the run has left."""
    if kind_of(folder.best.card) is not None:
        backbone, card = load_model(folder.best.path)
        if card.step:
            return folder.best.path, backbone, card
    return folder.path, *load_model(folder.path)


def _interval(
    differences: Mapping[str, Mapping[str, Any]], place: tuple[str, str] | None
) -> tuple[float, float] | None:
    if place is None or place[1] not in differences[place[0]]:
        return None
    return Difference.from_json(differences[place[0]][place[1]]).interval


def _place(place: tuple[str, str] | None) -> dict[str, str] | None:
    return None if place is None else {"set": place[0], "metric": place[1]}


def _shown(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    return {
        name: {"protocol": dict(found.protocol), "metrics": found.metrics_json()} for name, found in evaluations.items()
    }
