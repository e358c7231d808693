"""README.md of a model on the Hugging Face Hub, written from the model's own files alone.

It begins with the metadata by which the hub lists it (YAML between two lines of ---).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vplface.data.pictures import Preprocessing
from vplface.errors import import_extra
from vplface.evaluation.figure import Figure, Interval
from vplface.evaluation.metrics import Metric, in_order
from vplface.evaluation.operating_point import OperatingPoint
from vplface.report.record import RunRecord
from vplface.report.results import protocol_sentence
from vplface.stored_model import ModelCard

UNKNOWN_LICENCE = "unknown"

_PAPER = (
    "Jiankang Deng, Jia Guo, Jing Yang, Alexandros Lattas, Stefanos Zafeiriou: *Variational Prototype Learning for "
    "Deep Face Recognition*. CVPR 2021."
)


@dataclass(frozen=True)
class Measured:
    """Figures of the published weights under one protocol.

    Attributes:
        name: of the evaluation set.
        protocol: how the figures were made.
        metrics: the figure of each, as :meth:`vplface.evaluation.figure.Figure.to_json` gives it.
    """

    name: str
    protocol: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]

    @property
    def figures(self) -> list[tuple[Metric, float, Interval | None]]:
        """Metric, value and interval of those that judge the model and have a value, in the order of reports."""
        found = []
        for key in in_order(self.metrics):
            metric, figure = Metric.parse(key), Figure.from_json(self.metrics[key])
            if figure.value is not None and not metric.descriptive:
                found.append((metric, figure.value, figure.interval))
        return found


def model_page(
    card: ModelCard,
    repo: str,
    licence: str,
    measured: Sequence[Measured],
    settings: Mapping[str, Any],
    point: OperatingPoint | None,
) -> str:
    """The page, Markdown.

    Args:
        card: the model's card.
        repo: ``owner/name``.
        licence: of the weights, as the hub abbreviates it.
        measured: figures of these weights.
        settings: the configuration of the run, as far as it is known.
        point: the threshold that goes with the weights.
    """
    name = repo.rpartition("/")[2]
    what = (
        f"A face-recognition network ({_text(card.backbone)}): it turns a picture of an aligned face into "
        f"{card.embedding_dim} numbers, and the cosine between two such embeddings says how likely the two pictures "
        "show one person. Trained and measured with vplface (Variational Prototype Learning)."
    )
    limits = (
        "A threshold belongs to a population and a camera. Choose it on pairs from where it will be used, for the "
        "false accept rate that is acceptable there. Embeddings of faces are personal data in many places."
    )
    sections = [
        f"# {_text(name)}",
        what,
        *_figures(name, measured),
        *_use(repo, card.preprocessing, point),
        *_training(card, settings),
        "## Limits",
        _text(card.limits),
        limits,
        "## Licence",
        _licence(licence),
        "## Citation",
        _PAPER,
    ]
    metadata = _metadata(name, card, licence, measured)
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(name: str, card: ModelCard, licence: str, measured: Sequence[Measured]) -> str:
    yaml = import_extra("yaml", "train")
    values: dict[str, Any] = {
        "license": licence,
        "library_name": "vplface",
        "pipeline_tag": "image-feature-extraction",
        "tags": [
            "face-recognition",
            "face-verification",
            "metric-learning",
            *(["variational-prototype-learning"] if card.variational else []),
            card.backbone,
        ],
    }
    results = [
        {
            "task": {"type": "face-verification", "name": "Face verification"},
            "dataset": {"type": _slug(each.name), "name": " ".join(each.name.split())},
            "metrics": [
                {
                    "type": metric.key,
                    "name": metric.label,
                    "value": round(value, 6),
                    **({"args": {"ci95": [round(end, 6) for end in ends]}} if ends else {}),
                }
                for metric, value, ends in each.figures
            ],
        }
        for each in measured
        if each.figures
    ]
    if results:
        values["metrics"] = list(dict.fromkeys(metric.key for each in measured for metric, _, _ in each.figures))
        values["model-index"] = [{"name": name, "results": results}]
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000))


def _figures(name: str, measured: Sequence[Measured]) -> list[str]:
    parts = ["## Figures"]
    if not any(each.figures for each in measured):
        return [
            *parts,
            "None are recorded for these weights. `vplface evaluate` measures them on pairs of your own.",
        ]
    parts.append(
        "Of these weights, with 95 % intervals, in percent. Figures under different protocols are not comparable."
    )
    for each in measured:
        if not each.figures:
            continue
        rows = [
            f"| {_text(metric.label)} | {100 * value:.2f} | "
            + ("—" if ends is None else f"{100 * ends[0]:.2f} – {100 * ends[1]:.2f}")
            + " |"
            for metric, value, ends in each.figures
        ]
        record = RunRecord(Path(), name, evaluations={each.name: {"protocol": each.protocol}})
        parts += [
            f"### {_text(each.name)}",
            "\n".join(["| figure | value | 95 % interval |", "|---|---:|---:|", *rows]),
            _text(protocol_sentence([record], each.name)),
        ]
    return [part for part in parts if part]


def _use(repo: str, how: Preprocessing, point: OperatingPoint | None) -> list[str]:
    mean, std = (", ".join(f"{255 * each:g}" for each in values) for values in (how.mean, how.std))
    if len(set(how.mean)) == len(set(how.std)) == 1:
        prepared = f"(x − {255 * how.mean[0]:g}) / {255 * how.std[0]:g}"
    else:
        prepared = f"(x − mean) / std with mean {mean} and std {std}, in that order of channels"
    code = f"""```python
import vplface

embedder = vplface.from_pretrained("{repo}")
a, b = embedder(["ada.jpg", "grace.jpg"])  # aligned faces
similarity = float(a @ b)  # a cosine
```"""
    command = (
        f"Or `vplface hub pull {repo} --out FOLDER`, and use FOLDER as the model: in `vplface evaluate`, "
        "`verify`, `enroll`, or `export` to ONNX."
    )
    pictures = (
        f"Pictures: {how.size} × {how.size}, aligned by five landmarks to the ArcFace template, as `vplface data "
        f"align` does it; {how.color.upper()}, {prepared} for x in 0 … 255. The embedder prepares them so, and gives "
        "embeddings of unit norm; those of the bare network are not normalised."
    )
    threshold = (
        "Threshold: from pairs of your own, `vplface evaluate FOLDER --data DIR --pairs FILE --save-operating-point "
        "1e-4`."
        if point is None
        else f"Threshold: accepted from a cosine of {point.threshold:.4f} on, at which FAR was {point.actual_far:.2g} "
        f"and TAR {100 * point.tar:.2f} % on {_text(Path(point.data).name)}."
    )
    installed = "With vplface and its extras `train` and `hub` installed:"
    return ["## Use", installed, code, command, pictures, threshold]


def _training(card: ModelCard, settings: Mapping[str, Any]) -> list[str]:
    schedule = settings.get("schedule")
    length = schedule.get("length") if isinstance(schedule, Mapping) else None
    facts = {
        "pictures": f"{card.pictures:,}" if card.pictures is not None else None,
        "people": f"{card.identities:,}" if card.identities is not None else None,
        "steps": f"{card.step:,}" if card.step is not None else None,
        "length": length,
        "batch size": settings.get("batch_size"),
        "loss": card.margin,
        "variational prototypes": card.variational or "none, plain prototypes",
        "backbone": ", ".join(
            [card.backbone, *(f"{key} {value}" for key, value in card.backbone_options.items() if key != "graph")]
        ),
        "vplface": card.vplface_version,
    }
    lines = [f"- data: {_text(card.training_data)}"]
    lines += [f"- {key}: {_text(str(value))}" for key, value in facts.items() if value is not None]
    return ["## Training", "\n".join(lines)]


def _licence(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return (
            "Not stated by the publisher. Without a licence nobody has permission to use the weights. The terms "
            "of the training data may restrict their use further."
        )
    return f"{_text(licence)}, as stated by the publisher. The terms of the training data may restrict its use."


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "set"


def _text(value: str) -> str:
    """A value as text in a paragraph or a cell: one line, with Markdown and HTML escaped."""
    line = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", line)
