"""The losses of distillation by hand, and runs with a teacher of each kind."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, smooth_l1_loss

from helpers.silence import Started
from helpers.small_runs import before_step, cut_off, journal, settings
from vplface.config import build_config
from vplface.data.batches import Batch
from vplface.data.pictures import Preprocessing
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError
from vplface.training import distillation
from vplface.training.distillation import LOSSES, angle_loss, cosine_loss, distance_loss
from vplface.training.run_state import build_run
from vplface.training.teacher import teacher_of
from vplface.training.train import train

CPU = torch.device("cpu")
SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)


def unit(count, dim, seed=0):
    return normalize(torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


def huber(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def test_cosine_loss_is_half_the_squared_distance():
    s, t = unit(5, 3), unit(5, 3, seed=1)
    torch.testing.assert_close(cosine_loss(s, t), ((s - t).square().sum(1) / 2).mean())


def test_distance_loss_matches_a_value_by_hand():
    # The square has sides √2 and diagonals 2, mean (8√2 + 4·2)/12; the teacher has points at 0, 0, 90 and 90 degrees.
    teacher = SQUARE[[0, 0, 1, 1]]
    mean_s, mean_t = (8 * math.sqrt(2) + 8) / 12, 8 * math.sqrt(2) / 12
    expected = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                ours = (2.0 if (i - j) % 4 == 2 else math.sqrt(2)) / mean_s
                theirs = (0.0 if i // 2 == j // 2 else math.sqrt(2)) / mean_t
                expected += huber(ours - theirs) / 12
    assert float(distance_loss(SQUARE, teacher)) == pytest.approx(expected, abs=1e-5)


def test_angle_loss_matches_a_value_by_hand():
    s, t = unit(4, 3), unit(4, 6, seed=1)

    def angle(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return float(a @ b / (a.norm() * b.norm()))

    triplets = [(i, j, k) for i in range(4) for j in range(4) for k in range(4) if len({i, j, k}) == 3]
    expected = sum(huber(angle(s, *each) - angle(t, *each)) for each in triplets) / len(triplets)
    assert float(angle_loss(s, t)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_have_exact_gradients_and_vanish_for_the_teacher(kind):
    s, t = unit(5, 4).requires_grad_(), unit(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: LOSSES[kind](normalize(x, dim=1), t), s)
    assert float(LOSSES[kind](t, t)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["distance", "angle"])
def test_relational_losses_do_not_see_a_rotation(kind):
    t = unit(6, 4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    assert float(LOSSES[kind](t @ turn, t)) == pytest.approx(0.0, abs=1e-10)
    assert float(cosine_loss(t @ turn, t)) > 0.1


@pytest.mark.parametrize("kind", ["distance", "angle"])
def test_relational_losses_of_equal_or_too_few_pictures_are_finite(kind):
    s = unit(3, 4)[[0, 0, 1]].clone().requires_grad_()
    LOSSES[kind](s, unit(3, 4, seed=1)).backward()
    assert s.grad.isfinite().all()
    assert float(LOSSES[kind](s[:1], s[:1].detach()).detach()) == 0.0


def pairs_of(rows):
    squared = (2.0 - 2.0 * rows @ rows.t()).clamp_min(1e-12)
    distances = squared.sqrt()[~torch.eye(len(rows), dtype=torch.bool)]
    return distances / distances.mean()


def triplets_of(rows):
    directions = normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
    i, j, k = torch.tensor(list(itertools.permutations(range(len(rows)), 3))).unbind(1)
    return (directions[j, i] * directions[j, k]).sum(1)


@pytest.mark.parametrize(("kind", "chosen"), [("distance", pairs_of), ("angle", triplets_of)])
@pytest.mark.parametrize("twice", [False, True])
def test_relational_losses_are_means_over_different_pictures_with_their_gradients(kind, chosen, twice):
    leaves = [unit(6, 4).requires_grad_() for _ in range(2)]
    ours, expected = (each[[0, 1, 1, 2, 3, 3] if twice else slice(None)] for each in leaves)
    t = unit(6, 5, seed=1)
    losses = LOSSES[kind](ours, t), smooth_l1_loss(chosen(expected), chosen(t))
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, atol=1e-12, rtol=1e-12)
    assert leaves[0].grad.any()


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_read_nothing_on_the_host(kind):
    student, teacher = (torch.empty(9, 4, device="meta", requires_grad=each) for each in (True, False))
    with Started() as started:
        LOSSES[kind](student, teacher).backward()
    assert started.operations.total() > 0


def test_angle_loss_of_a_large_batch_is_the_mean_over_groups(monkeypatch):
    s, t = unit(8, 3), unit(8, 3, seed=1)
    halves = [angle_loss(s[part], t[part]) for part in (slice(0, 4), slice(4, 8))]
    monkeypatch.setattr(distillation, "GROUP", 4)
    torch.testing.assert_close(angle_loss(s, t), torch.stack(halves).mean())


@pytest.fixture(scope="module")
def teacher(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return train(settings(faces, folder, loggers=[])).folder.path


def embeddings_file(teacher, pictures, path):
    embedder = Embedder.load(teacher)
    names = [f"somewhere/{pictures.name(index)}" for index in range(len(pictures))]
    np.savez(path, names=np.array(names), embeddings=embedder.embed_set(pictures))
    return path


def test_teachers_from_a_run_and_from_its_file_agree_without_augmentation(faces, tmp_path, teacher):
    pictures = build_run(settings(faces, tmp_path)).pictures
    file = embeddings_file(teacher, pictures, tmp_path / "teacher.npz")
    indices = torch.tensor([5, 0, 3])
    shown = torch.stack([torch.from_numpy(pictures.picture(int(index))) for index in indices])
    batch = Batch(shown, torch.zeros(3, dtype=torch.int64), [], indices)
    ours, theirs = (normalize(teacher_of(path, pictures, CPU)(batch), dim=1) for path in (teacher, file))
    torch.testing.assert_close(ours, theirs)
    assert not ours.requires_grad
    assert not ours.is_inference()


@pytest.mark.slow
def test_teacher_of_reads_an_onnx_file(faces, tmp_path, teacher):
    onnx = pytest.importorskip("vplface.deploy.onnx", reason="needs vplface[onnx]", exc_type=ImportError)
    pytest.importorskip("onnxruntime")
    onnx.export(teacher, tmp_path / "teacher.onnx")
    pictures = torch.randint(256, (3, 112, 112, 3), dtype=torch.uint8)
    batch = Batch(pictures, torch.zeros(3, dtype=torch.int64), [])
    ours, theirs = (teacher_of(path, None, CPU)(batch) for path in (tmp_path / "teacher.onnx", teacher))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_teacher_of_prepares_pictures_as_it_is_told(faces, tmp_path, teacher):
    pictures = torch.randint(256, (3, 112, 112, 3), dtype=torch.uint8)
    turned = Batch(pictures.flip(3), torch.zeros(3, dtype=torch.int64), [])
    expected = teacher_of(teacher, None, CPU)(Batch(pictures, turned.labels, []))
    torch.testing.assert_close(teacher_of(teacher, None, CPU, Preprocessing(color="bgr"))(turned), expected)


@pytest.mark.parametrize("weights", [{}, pytest.param({"distance": 1, "angle": 2}, marks=pytest.mark.slow)], ids=str)
def test_train_draws_the_network_towards_its_teacher(faces, tmp_path, teacher, weights):
    losses = {}
    for strength in (1e-6, 20.0):
        chosen = {kind: strength * weight for kind, weight in (weights or {"cosine": 1}).items()}
        distill = {"teacher": str(teacher), **chosen}
        run = train(settings(faces, tmp_path / str(strength), distill=distill, seed=3, variational=None))
        lines = [line for line in journal(run.folder.path) if "loss" in line]
        losses[strength] = sum(lines[-1][f"distill/{kind}"] for kind in chosen)
    assert losses[20.0] < 0.9 * losses[1e-6]


@pytest.mark.parametrize("kind", [pytest.param("run", marks=pytest.mark.slow), "file"])
def test_train_with_a_teacher_resumes_bit_for_bit(faces, tmp_path, monkeypatch, teacher, kind):
    path = teacher
    if kind == "file":
        path = embeddings_file(teacher, build_run(settings(faces, tmp_path)).pictures, tmp_path / "teacher.npz")
    changes = {"distill": {"teacher": str(path), "cosine": 1, "angle": 1}, "accumulate": 2}
    changes["schedule"] = {"length": 8, "warmup": 2}
    whole = train(settings(faces, tmp_path / "whole", **changes))
    config = settings(faces, tmp_path / "torn", **changes)
    with monkeypatch.context() as patch:
        before_step(patch, 7, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(config, resume=True)
    assert journal(resumed.folder.path) == journal(whole.folder.path)
    assert torch.equal(resumed.head.weight, whole.head.weight)


def test_train_refuses_to_resume_with_another_teacher(faces, tmp_path, teacher):
    file = embeddings_file(teacher, build_run(settings(faces, tmp_path)).pictures, tmp_path / "teacher.npz")
    config = settings(faces, tmp_path, distill={"teacher": str(file)}, schedule={"length": 5, "warmup": 0})
    train(config)
    stored = dict(np.load(file))
    np.savez(file, names=stored["names"], embeddings=-stored["embeddings"])
    with pytest.raises(DataError, match=r"distill.teacher: .*teacher.npz is no longer what"):
        train(config, resume=True)


def test_distill_refuses_a_teacher_of_another_size_or_without_a_picture(faces, tmp_path, teacher):
    backbone = {"name": "tiny", "embedding_dim": 6, "options": {"width": 8}}
    with pytest.raises(ConfigError, match=r"distill.cosine .* have 8 numbers, those of this run 6"):
        build_run(settings(faces, tmp_path, backbone=backbone, distill={"teacher": str(teacher)}))
    build_run(settings(faces, tmp_path, backbone=backbone, distill={"teacher": str(teacher), "distance": 1}))
    np.savez(tmp_path / "few.npz", names=np.array(["nobody/0.png"]), embeddings=np.ones((1, 8), np.float32))
    with pytest.raises(DataError, match=r"distill.teacher: .*few.npz: .* have no embedding"):
        build_run(settings(faces, tmp_path, distill={"teacher": str(tmp_path / "few.npz")}))
    file = {"teacher": str(tmp_path / "few.npz"), "preprocessing": {"color": "bgr"}}
    with pytest.raises(ConfigError, match=r"distill.preprocessing: .*few.npz holds embeddings"):
        build_run(settings(faces, tmp_path, distill=file))
    with pytest.raises(DataError, match=r"distill.teacher: .*no such folder"):
        build_run(settings(faces, tmp_path, distill={"teacher": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"techer": "x"}, "unknown key 'distill.techer'; did you mean 'teacher'"),
        ({"teacher": "x", "cosin": 1}, "unknown key 'distill.cosin'; did you mean 'cosine'"),
        ({"cosine": 1}, "distill.teacher: Field required"),
        ({"teacher": "x", "preprocessing": {"colour": "bgr"}}, "distill.preprocessing.colour'; did you mean 'color'"),
        ({"teacher": "x", "angle": -1}, "distill.angle: .*greater than or equal to 0"),
        ({"teacher": "x", "angle": 0}, "distill: the weights of all losses are 0"),
    ],
)
def test_DistillConfig_names_the_key_at_fault(distill, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"name": "a", "data": {"train": "x"}, "distill": distill}, "test")
