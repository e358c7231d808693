"""The comparison of a fine-tuned model with the one that it started from, and which of the two the run keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    resampled, the same for both. A guard has fallen if that of its figure lies below 0. Leaves finetuning.json in the
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
    deciding = validation.deciding(values)
    ends = _interval(differences, deciding)
    helped = None if ends is None else ends[0] > 0
    guards = [_guard(differences, place) for place in validation.guarded(values)]
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
            "guard_fell": _any(guard["fell"] for guard in guards),
            "deciding": _place(deciding),
            "guard": {key: guards[0][key] for key in ("set", "metric")} if guards else None,
            "guards": guards,
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


def _guard(differences: Mapping[str, Mapping[str, Any]], place: tuple[str, str]) -> dict[str, Any]:
    """Set and metric of a guard, and whether it has fallen: None where there is no interval."""
    ends = _interval(differences, place)
    return {"set": place[0], "metric": place[1], "fell": None if ends is None else ends[1] < 0}


def _any(fell: Iterable[bool | None]) -> bool | None:
    """Whether any guard has fallen; None if none has, and of one it is not known, or there are none."""
    outcomes = set(fell)
    return True if True in outcomes else None if outcomes != {False} else False


def _place(place: tuple[str, str] | None) -> dict[str, str] | None:
    return None if place is None else {"set": place[0], "metric": place[1]}


def _shown(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    return {
        name: {"protocol": dict(found.protocol), "metrics": found.metrics_json()} for name, found in evaluations.items()
    }
