"""The cost of a teacher of distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vplface.backbones import ONNX
from vplface.backbones.onnx_graph import read_graph
from vplface.errors import ConfigError, DataError
from vplface.footprint import InferenceSize, inference_of
from vplface.training.run_state import RunState
from vplface.training.teacher import EmbeddingsTeacher, ModelTeacher


@dataclass(frozen=True)
class TeacherPlan:
    """The cost of a teacher in each process.

    Attributes:
        size: of the model that embeds the pictures of each step, all of this process at once; None for stored
            embeddings, and for an ONNX file whose operators cannot be counted.
        on_cpu: whether it is in the memory of the CPU, whatever the device of the run.
        embeddings: bytes of stored embeddings.
        unknown: why the cost is not known; "" if it is.
    """

    size: InferenceSize | None
    on_cpu: bool
    embeddings: int = 0
    unknown: str = ""


def teacher_of(run: RunState, gpus: int) -> TeacherPlan | None:
    """The cost of the teacher of a run; None without one. An ONNX file is counted as if torch executed its graph."""
    if run.distillation is None:
        return None
    teacher, pictures = run.distillation.teacher, math.ceil(run.batches.batch_size / gpus)
    if isinstance(teacher, EmbeddingsTeacher):
        return TeacherPlan(None, on_cpu=True, embeddings=teacher.nbytes)
    assert isinstance(teacher, ModelTeacher)
    if teacher.path.suffix != ".onnx":
        card = teacher.card
        size = inference_of(card.backbone, card.embedding_dim, pictures, **card.backbone_options)
        return TeacherPlan(size, on_cpu=False)
    try:
        file = read_graph(teacher.path)
        size = inference_of(ONNX, file.dim, pictures, graph=file.graph.to_text())
    except (ConfigError, DataError) as error:
        return TeacherPlan(None, on_cpu=True, unknown=str(error))
    return TeacherPlan(size, on_cpu=True)
