"""The cost of a teacher, by hand."""

import numpy as np
import torch

from helpers.onnx_files import exported
from helpers.small_runs import settings
from vplface.backbones import build
from vplface.cli.plan_tables import _distilled
from vplface.data.formats.image_folder import ImageFolder
from vplface.footprint import InferenceSize, NetworkSize, RunSize, footprint
from vplface.plan import TeacherPlan, plan
from vplface.stored_model import ModelCard, save_model


def planned(faces, output, teacher, **distill):
    small = {"ema": None, "variational": None, "evaluation": {}, "distill": {"teacher": str(teacher), **distill}}
    config = settings(faces, output, **small)
    return config, plan(config)


def test_footprint_counts_the_activations_of_a_teacher_before_those_of_the_backbone():
    network = NetworkSize(parameters=1000, trained=900, buffer_bytes=80, activation_bytes=7_000)
    size = RunSize(classes=100, batch=8, dim=16, device="cpu")

    def total(peak):
        return footprint(size, network, InferenceSize(50, 200, peak, 1)).memory.total

    alone = footprint(size, network).memory.total
    assert total(3_000) == total(7_000) == alone + 200
    assert total(9_000) == alone + 200 + 2_000


def test_plan_counts_a_model_as_teacher(faces, tmp_path):
    torch.manual_seed(0)
    backbone = build("tiny", 8, width=16)
    save_model(tmp_path / "large", backbone, ModelCard("tiny", 8, {"width": 16}))
    config, found = planned(faces, tmp_path, tmp_path / "large")
    state = sum(tensor.nbytes for tensor in [*backbone.parameters(), *backbone.buffers()])
    size = found.teacher.size
    assert (found.teacher.on_cpu, size.state_bytes) == (False, state)
    assert found.footprint.memory.teacher == state
    assert found.footprint.memory.teacher_activations == size.peak_bytes
    assert found.operations.teacher == 16 * size.forward
    assert 3 < found.operations.teacher / (found.operations.backbone / 3) < 4.5  # twice the width
    (_, followed), (_, cost) = _distilled(config.distill, found.teacher)
    assert followed == f"{tmp_path / 'large'}: 1 · cosine"
    assert cost.startswith(f"{size.parameters / 1e6:.2f} M parameters, ")
    assert cost.endswith(" a picture, in float32")


def test_plan_counts_an_onnx_teacher_as_its_graph(faces, tmp_path):
    torch.manual_seed(0)
    backbone = build("tiny", 8, width=8)
    file = exported(backbone, tmp_path / "model.onnx")
    described = {"color": "rgb", "mean": [0.5] * 3, "std": [0.5] * 3}
    config, found = planned(faces, tmp_path, file, preprocessing=described)
    assert found.teacher.on_cpu
    stem = 2 * 8 * 3 * 49 * 28 * 28
    assert 3 * found.operations.teacher == found.operations.backbone + 16 * stem  # the same network
    assert found.footprint.memory.teacher == found.teacher.size.state_bytes > 0  # the run is on the CPU, too
    assert " by onnxruntime on the CPU: " in _distilled(config.distill, found.teacher)[1][1]


def test_plan_counts_stored_embeddings_without_a_forward_pass(faces, tmp_path):
    pictures = ImageFolder(faces)
    names = np.array([pictures.name(index) for index in range(48)])
    np.savez(tmp_path / "teacher.npz", names=names, embeddings=np.ones((48, 32), np.float32))
    config, found = planned(faces, tmp_path, tmp_path / "teacher.npz", distance=1.0)
    assert found.teacher == TeacherPlan(None, on_cpu=True, embeddings=48 * 32 * 4)
    assert (found.operations.teacher, found.footprint.memory.teacher) == (0, 0)
    assert _distilled(config.distill, found.teacher)[1] == ("  its cost", "6,144 bytes of CPU memory, no forward pass")
