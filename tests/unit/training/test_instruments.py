import math

import pytest
import torch
from torch.nn.functional import normalize

from vplface import ArcFace, CosFace, Gaussian, LastFeature, NormSoftmax, PrototypeHead, SeveralFeatures, Variational
from vplface.softmax import reference
from vplface.training import instruments
from vplface.training.instruments import first_samples, gradient_norm, injected_angle, measure, nearer_to_memory


def made(classes=23, dim=6, margin=None, lam=0.4, group=None, steps=4, memory=None, **options):
    """A head with some classes remembered, and a batch that is under way."""
    margin = margin or ArcFace(8.0, 0.3)
    variational = Variational(lam, 3, 0, options.pop("renormalise", True), memory or LastFeature())
    head = PrototypeHead(
        classes, dim, margin=margin, variational=variational, dtype=torch.float64, process_group=group, **options
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        embeddings = torch.randn(6, dim, generator=generator, dtype=torch.float64)
        labels = torch.randint(classes - 3, (6,), generator=generator)
        share = slice(None) if group is None else slice(3 * group.rank(), 3 * group.rank() + 3)
        head(embeddings[share], labels[share]).backward()
    return head, embeddings, labels


def angle(u, v):
    return math.degrees(math.acos(min(float(normalize(u, dim=0).detach() @ normalize(v, dim=0).detach()), 1.0)))


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("tile", [5, 8192])
def test_injected_angle_gives_mean_and_95th_percentile_over_living_classes(monkeypatch, renormalise, tile):
    monkeypatch.setattr(instruments, "_TILE", tile)
    head, *_ = made(renormalise=renormalise)
    angles = [
        angle(u, v)
        for u, v, t in zip(head.variational_prototypes(), head.weight, head.timer.tolist(), strict=True)
        if t > 0
    ]
    assert len(angles) == 12
    mean, high = injected_angle(head)
    assert mean == pytest.approx(sum(angles) / 12)
    assert high == pytest.approx(float(torch.tensor(angles).quantile(0.95)), rel=1e-6)


def test_injected_angle_matches_hand_computed_values():
    head = PrototypeHead(3, 2, variational=Variational(0.5, 9, 0), dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
    head(torch.tensor([[0.0, 1.0], [0.0, 5.0]], dtype=torch.float64), torch.tensor([0, 1])).backward()
    # Class 0 half way to what is a right angle away, class 1 where it was.
    assert injected_angle(head) == (pytest.approx(22.5), pytest.approx(42.75))


def test_injected_angle_samples_many_living_classes_evenly(monkeypatch):
    monkeypatch.setattr(instruments, "CLASSES", 4)
    head, *_ = made()
    living = [row for row, t in enumerate(head.timer.tolist()) if t > 0]
    u = head.variational_prototypes()
    angles = [angle(u[row], head.weight[row]) for row in living[::3]]  # 12 of them live
    assert injected_angle(head)[0] == pytest.approx(sum(angles) / len(angles))


@pytest.mark.parametrize("margin", [NormSoftmax(8.0), ArcFace(64.0, 0.5), CosFace(30.0, 0.3)])
@pytest.mark.parametrize("tile", [4, 8192])
@pytest.mark.parametrize("injected", [True, False])
def test_gradient_norm_matches_autograd_and_changes_nothing(monkeypatch, margin, tile, injected):
    monkeypatch.setattr(instruments, "_TILE", tile)
    head, embeddings, labels = made(margin=margin)
    features = normalize(embeddings, dim=1)
    weight = head.weight.detach().clone().requires_grad_()
    injection = head.injection if injected else None
    reference.margin_softmax(features, labels, weight, margin, injection).backward()
    before = [t.clone() for t in (head.weight, head.memory, head.timer)]
    assert gradient_norm(head, features, labels, injection) == pytest.approx(float(weight.grad.norm()), rel=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(before, (head.weight, head.memory, head.timer), strict=True))


@pytest.mark.parametrize("tile", [4, 8192])
def test_nearer_to_memory_matches_a_brute_force_search(monkeypatch, tile):
    monkeypatch.setattr(instruments, "_TILE", tile)
    shares = set()
    for seed in range(6):
        head, *_ = made(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        features = normalize(torch.randn(40, 6, generator=generator, dtype=torch.float64), dim=1)
        labels = torch.randint(23, (40,), generator=generator)
        nearer = 0
        for x, y in zip(features, labels.tolist(), strict=True):
            living = [j for j, t in enumerate(head.timer.tolist()) if t > 0 and j != y]
            strangers = [float(x @ normalize(head.weight.detach()[j], dim=0)) for j in living]
            nearer += max(float(x @ head.memory[j]) for j in living) > max(strangers)
        assert nearer_to_memory(head, features, labels) == nearer / 40
        shares.add(nearer)
    assert len(shares) > 1


def test_nearer_to_memory_is_None_without_another_living_class():
    head = PrototypeHead(4, 2, variational=Variational(0.2, 5, 0))
    head(torch.tensor([[1.0, 0.0]]), torch.tensor([2])).backward()
    assert nearer_to_memory(head, torch.eye(2), torch.tensor([2, 2])) is None


def test_measure_returns_nothing_before_the_memory_exists():
    head = PrototypeHead(4, 2, variational=Variational(0.2, 5, 3))
    assert measure(head, torch.eye(2), torch.tensor([0, 1])) == {}
    assert injected_angle(head) == (None, None)
    assert measure(PrototypeHead(4, 2), torch.eye(2), torch.tensor([0, 1])) == {}


def test_measure_inside_micro_batches_uses_the_memory_before_the_step():
    head, embeddings, labels = made()
    met = head.injection.memory.clone(), head.injection.timer.clone()
    with head.micro_batches():
        head(embeddings, labels).backward()
        found = measure(head, embeddings, labels)
        assert torch.equal(head.memory, met[0])
        assert torch.equal(head.timer, met[1])
    other, *_ = made()
    assert found == measure(other, embeddings, labels)
    assert not torch.equal(head.timer, met[1])


@pytest.mark.parametrize("memory", [Gaussian(), SeveralFeatures(2), LastFeature()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measure_uses_what_each_kind_of_memory_injects(memory, dtype):
    head, embeddings, labels = made(memory=memory, classes=8)
    weight = head.weight.detach().to(dtype)
    head.to(dtype)
    features = normalize(embeddings.to(torch.float32), dim=1)
    injection = head.injection
    u, v = injection(normalize(weight.float(), dim=1)), normalize(weight.float(), dim=1)
    found = measure(head, embeddings, labels)
    living = injection.timer > 0
    degrees = torch.rad2deg(2 * torch.asin((u - v).norm(dim=1) / 2))[living]
    assert found["injected_angle"]["mean"] == pytest.approx(float(degrees.mean()), rel=1e-3)
    own = torch.arange(8) == labels.unsqueeze(1)
    strangers = [
        torch.where(living & ~own, features @ points.float().t(), -2.0).amax(1)
        for points in (injection.memory_rows(slice(None)), v)
    ]
    assert found["nearer_to_memory"] == float((strangers[0] > strangers[1]).double().mean())
    plain = weight.float().requires_grad_()
    reference.margin_softmax(features, labels, plain, head.margin).backward()
    assert found["gradient_norm"]["plain"] == pytest.approx(float(plain.grad.norm()), rel=1e-4)


def test_first_samples_keeps_at_most_SAMPLES(monkeypatch):
    monkeypatch.setattr(instruments, "SAMPLES", 4)
    features, labels = first_samples(made()[0], torch.ones(6, 6), torch.arange(6))
    assert features.shape == (4, 6)
    assert labels.tolist() == [0, 1, 2, 3]


def measured_in_group(group, samples):
    head, embeddings, labels = made(group=group)
    share = slice(3 * group.rank(), 3 * group.rank() + 3)
    with pytest.MonkeyPatch.context() as patch:  # these processes go on to other tests
        patch.setattr(instruments, "SAMPLES", samples)
        return measure(head, embeddings[share], labels[share])


@pytest.mark.slow
@pytest.mark.parametrize("samples", [64, 4, 2])
def test_measure_in_two_processes_matches_one(processes, monkeypatch, samples):
    monkeypatch.setattr(instruments, "SAMPLES", samples)
    expected = measure(*made())
    for found in processes.run(measured_in_group, 2, samples):
        assert found["injected_angle"] == pytest.approx(expected["injected_angle"])
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"])
        assert found["nearer_to_memory"] == expected["nearer_to_memory"]
