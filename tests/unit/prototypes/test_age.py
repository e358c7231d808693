import pytest
import torch

from vplface import NormSoftmax, PrototypeHead, Variational
from vplface.prototypes import CosineByAge, Injection
from vplface.prototypes.age import BINS, cosine_by_age


def unit(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def by_hand(head, samples):
    """{age: cosines} of a head's steps, given as (degrees, label), from the dates at which classes were seen."""
    found, seen = {}, {}
    for step, batch in enumerate(samples):
        for degrees, label in batch:
            if label in seen and step - seen[label][1] <= head.variational.delta_t:
                then, at = seen[label]
                angle = torch.deg2rad(torch.tensor(float(degrees - then), dtype=torch.float64))
                found.setdefault(step - at, []).append(float(angle.cos()))
        for degrees, label in batch:
            seen[label] = degrees, step
    return {age: sum(each) / len(each) for age, each in sorted(found.items())}


def test_PrototypeHead_cosine_by_age_matches_hand_computed_values():
    head = PrototypeHead(3, 2, margin=NormSoftmax(4.0), variational=Variational(0.3, 3, 0), dtype=torch.float64)
    head.by_age = CosineByAge()
    samples = [
        [(0, 0), (90, 1)],
        [(10, 0), (40, 2)],  # 0 at age 1: cos 10°
        [(50, 0), (100, 0)],  # 0 at age 1: cos 40°, cos 90°; the last is remembered
        [(150, 1), (40, 2)],  # 1 at age 3: cos 60°; 2 at age 2: 1
        [(0, 2)],  # 2 at age 1: cos 40°
        [(100, 0)],  # 0 at age 3: 1
        [(0, 1)],  # 1 at age 3: cos 150°
        [],
    ]
    for batch in samples[:-1]:
        degrees, labels = zip(*batch, strict=True)
        head(unit(*degrees), torch.tensor(labels)).backward()
    cos = {angle: float(unit(angle)[0, 0]) for angle in (10, 40, 60, 90, 150)}
    expected = {
        1: (cos[10] + cos[40] + cos[90] + cos[40]) / 4,
        2: 1.0,
        3: (cos[60] + 1.0 + cos[150]) / 3,
    }
    assert by_hand(head, samples[:-1]) == pytest.approx(expected)
    found = head.cosine_by_age()
    assert {age: each.mean for age, each in found.items()} == pytest.approx(expected, abs=1e-6)
    assert {age: each.samples for age, each in found.items()} == {1: 4, 2: 1, 3: 3}
    assert head.cosine_by_age() == {}


def test_PrototypeHead_cosine_by_age_ignores_expired_memories():
    head = PrototypeHead(2, 2, margin=NormSoftmax(4.0), variational=Variational(0.3, 2, 0), dtype=torch.float64)
    head.by_age = CosineByAge()
    for degrees, label in ((0, 0), (0, 1), (0, 1), (0, 0)):
        head(unit(degrees), torch.tensor([label])).backward()
    assert head.cosine_by_age() == {1: (1.0, 1)}


def test_CosineByAge_update_ignores_timers_above_delta_t():
    counted = CosineByAge()
    counted.update(unit(0.0, 0.0, 0.0), unit(0.0, 60.0, 0.0), torch.tensor([9, 4, 0]), 4)
    assert cosine_by_age(counted.sums, counted.counts, 4) == {1: (0.5, 1)}


@pytest.mark.parametrize("delta_t", [1, 7, 16, 17, 100, 1000])
def test_CosineByAge_bins_hold_every_age_once(delta_t):
    ages = torch.arange(1, delta_t + 1)
    x = unit(*([0.0] * delta_t))
    counted = CosineByAge()
    counted.update(x, x, delta_t - ages + 1, delta_t)
    assert counted.counts.sum() == delta_t
    width = -(-delta_t // BINS)
    edges = list(cosine_by_age(counted.sums, counted.counts, delta_t))
    assert edges == [*range(width, delta_t, width), delta_t]
    assert counted.counts[: len(edges)].tolist() == [
        len([a for a in ages if e - width < a <= e]) for e in edges[:-1]
    ] + [delta_t - width * (len(edges) - 1)]


def test_CosineByAge_sums_do_not_depend_on_the_order():
    generator = torch.Generator().manual_seed(0)
    x, m = (torch.nn.functional.normalize(torch.randn(500, 8, generator=generator), dim=1) for _ in range(2))
    timer = torch.randint(0, 5, (500,), generator=generator)
    whole, parts = CosineByAge(), CosineByAge()
    whole.update(x, m, timer, 4)
    for rows in torch.randperm(500, generator=generator).split(37):
        parts.update(x[rows], m[rows], timer[rows], 4)
    assert torch.equal(whole.sums, parts.sums)
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts.sum() == (timer > 0).sum()


@pytest.mark.parametrize("classes", [0, 3])
def test_CosineByAge_count_leaves_out_classes_that_are_elsewhere(classes):
    counted = CosineByAge()
    features = torch.eye(2)
    counted.count(
        features,
        torch.tensor([-1, -1]),
        Injection(torch.ones(classes, 2), torch.ones(classes, dtype=torch.int32), 0.3),
        4,
    )
    assert counted.counts.sum() == 0
