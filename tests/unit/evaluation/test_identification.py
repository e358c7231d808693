"""Identification against cases counted by hand and against loops over all comparisons."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from helpers.paths import ROOT
from vplface.errors import DataError
from vplface.evaluation import Evaluation
from vplface.evaluation.bootstrap import draws
from vplface.evaluation.identification import (
    Comparison,
    IdentificationOptions,
    LabelledEmbeddings,
    evaluate_identification,
)
from vplface.evaluation.identification import comparison as module
from vplface.evaluation.unit import unit


def at(*degrees):
    """Unit vectors in the plane: the cosine of two is that of the angle between them."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def side(people, *degrees, prefix="p"):
    return LabelledEmbeddings(at(*degrees), list(people), [f"{prefix}{number}" for number in range(len(people))])


def identify(probes, gallery, distractors=None, **options):
    return evaluate_identification(probes, gallery, distractors, IdentificationOptions(**options))


def value(evaluation, metric):
    return evaluation.metrics[metric]["value"]


def test_evaluate_identification_ranks_match_counts_by_hand():
    gallery = side("abc", 0, 40, 80, prefix="g")
    # a at 10: a first. b at 5: a (5 away), b (35) second. c at 0: a 0, b 40, c 80 third, behind the distractor at 60.
    probes = side("abc", 10, 5, 0)
    found = identify(probes, gallery, ranks=(1, 2, 3), fars=(), bootstrap=0)
    assert [value(found, f"rank-{k}") for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    with_distractor = identify(probes, gallery, at(60), ranks=(1, 2, 3, 4), fars=(), bootstrap=0)
    assert [value(with_distractor, f"rank-{k}") for k in (1, 2, 3, 4)] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert found.curves["cmc"]["rate"][:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    misses = with_distractor.worst["gallery_misses"]
    assert [(miss["probe"], miss["found"], miss["mate"], miss["mate_rank"]) for miss in misses] == [
        ("p2", "g0", "g2", 4),
        ("p1", "g0", "g1", 2),
    ]
    assert misses[1]["similarity"] == pytest.approx(np.cos(np.deg2rad(5)))


def test_evaluate_identification_mates_counts_the_best_or_each():
    gallery, probes = side("aab", 0, 50, 20), side("a", 5)
    # Best: the a at 0 (5 away) is before b (15). Each, among distractors at 15 and 60: a at 0 first, a at 50 second.
    best = identify(probes, gallery, ranks=(1,), fars=(), bootstrap=0)
    assert value(best, "rank-1") == 1
    each = identify(probes, gallery, at(15, 60), mates="each", ranks=(1, 2), fars=(), bootstrap=0)
    assert (value(each, "rank-1"), value(each, "rank-2")) == (0.5, 1)
    assert each.protocol["impostors"] == 2
    assert best.protocol["impostors"] == 1


def test_evaluate_identification_compares_no_picture_with_itself():
    both = side("aabb", 0, 30, 20, 50)
    # Before the mate 30 away come, of a at 0 and b at 50, one rival 20 away; of the others two, 10 and 20 away.
    found = identify(both, both, ranks=(1, 2), fars=(0.5,), bootstrap=0)
    assert (value(found, "rank-1"), value(found, "rank-2")) == (0, 0.5)
    assert (found.protocol["genuine"], found.protocol["impostors"]) == (4, 8)


def test_evaluate_identification_of_equal_embeddings_recognises_nobody():
    rng = np.random.default_rng(0)
    point = rng.normal(size=64)
    for people in (7, 33, 1001):
        names = [str(person) for person in range(people)]
        flat = LabelledEmbeddings(np.tile(point, (people, 1)), names, names)
        other = LabelledEmbeddings(np.tile(3 * point, (people, 1)), names, names)
        found = identify(flat, other, fars=(0.01,), bootstrap=0)
        assert value(found, "rank-1") == 0
        assert value(found, "tar@far=1e-2") in (0, None)


def test_evaluate_identification_tpir_matches_counts_by_hand():
    gallery = side("ab", 0, 90)
    # With mates: a 5 away, a 20 away, b 30 away, and an a that is nearer to b: a miss, however low the threshold.
    # Without: nearest 10, 25, 40 and 45 away.
    probes = side("aabawxyz", 5, -20, 120, 60, -10, 115, -40, 45)
    found = identify(probes, gallery, fpirs=(0.25, 0.5, 0.99), fars=(), bootstrap=0)
    assert value(found, "rank-1") == 3 / 4
    # FPIR 1/4: the threshold is above 25, one of the four without a mate passes: 5 and 20 are found.
    assert value(found, "tpir@fpir=2.5e-1") == 2 / 4
    assert found.metrics["tpir@fpir=2.5e-1"]["actual_fpir"] == 0.25
    assert value(found, "tpir@fpir=5e-1") == 3 / 4
    assert value(found, "tpir@fpir=9.9e-1") == 3 / 4  # the miss stays one
    low = identify(probes, gallery, fpirs=(0.1,), fars=(), bootstrap=9)
    assert value(low, "tpir@fpir=1e-1") is None
    assert "10 probes without a mate, there are 4" in low.metrics["tpir@fpir=1e-1"]["reason"]


def world(seed, identities=8, probes=36, gallery=24, distractors=40, dim=6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities + 4, dim))

    def some(count, people, name):
        who = rng.integers(people, size=count)
        return LabelledEmbeddings(
            centres[who] + 0.7 * rng.normal(size=(count, dim)),
            [f"id{w}" for w in who],
            [f"{name}{i}" for i in range(count)],
        )

    # Four people are among the probes only.
    return some(probes, identities + 4, "p"), some(gallery, identities, "g"), rng.normal(size=(distractors, dim))


def brute(probes, gallery, distractors, mates):
    """Loops over all comparisons: ranks of what counts, the nearest of each probe without a mate, all scores."""
    p, g, d = (unit(each, "") for each in (probes.embeddings, gallery.embeddings, distractors))
    ranks, without, genuine, impostor = [], [], [], []
    for i, person in enumerate(probes.people):
        own = [(float(p[i] @ g[j]), j) for j in range(len(g)) if gallery.people[j] == person]
        rivals = [float(p[i] @ row) for row in d]
        if mates == "best":
            rivals += [float(p[i] @ g[j]) for j in range(len(g)) if gallery.people[j] != person]
        counted = own if mates == "each" else own and [max(own)]
        ranks += [(1 + sum(r >= s for r in rivals), s, i) for s, _ in counted]
        genuine += [(s, i) for s, _ in own]
        impostor += [(r, i) for r in rivals]
        if not own:
            without.append((max(rivals), i))
    return ranks, without, genuine, impostor


def tar(genuine, impostor, far):
    """Of (score, weight): the share of genuine weight above the lowest threshold that keeps the rate."""
    (g, g_weight), (k, k_weight) = (np.array(each).T for each in (genuine, impostor))
    limits = np.append(np.sort(k)[::-1], -10)[:, None]
    accepted = np.concatenate([((k > some) * k_weight).sum(axis=1) for some in np.array_split(limits, 20)])
    lowest = limits[accepted <= far * k_weight.sum() * (1 + 1e-12)].min()
    return g_weight[g > lowest].sum() / g_weight.sum()


@pytest.mark.parametrize("mates", ["best", "each"])
@pytest.mark.parametrize("seed", [0, 1])
def test_evaluate_identification_figures_and_replicates_agree_with_loops(mates, seed):
    probes, gallery, distractors = world(seed)
    found = identify(
        probes,
        gallery,
        distractors,
        mates=mates,
        ranks=(1, 3, 20),
        fars=(0.1, 0.01),
        fpirs=(0.2,),
        bootstrap=6,
        seed=3,
    )
    ranks, without, genuine, impostor = brute(probes, gallery, distractors, mates)
    people = sorted(set(probes.people))
    number = np.array([people.index(person) for person in probes.people])
    everyone = np.ones(len(people))
    for replicate, counts in enumerate([everyone, *draws(len(people), 6, 3)]):
        weight = counts[number]

        def said(metric, replicate=replicate):
            return value(found, metric) if replicate == 0 else found.replicates[metric][replicate - 1]

        for k in (1, 3, 20):
            share = sum(weight[i] for r, _, i in ranks if r <= k) / sum(weight[i] for *_, i in ranks)
            assert said(f"rank-{k}") == pytest.approx(share)
        weighed = [[(s, weight[i]) for s, i in each] for each in (genuine, impostor)]
        for far, metric in ((0.1, "tar@far=1e-1"), (0.01, "tar@far=1e-2")):
            assert said(metric) == pytest.approx(tar(*weighed, far))
        if mates == "best":
            detected = [(s if r == 1 else -9.0, weight[i]) for r, s, i in ranks]
            assert said("tpir@fpir=2e-1") == pytest.approx(tar(detected, [(s, weight[i]) for s, i in without], 0.2))
    assert found.metrics["rank-1"]["ci95"] == pytest.approx(np.quantile(found.replicates["rank-1"], [0.025, 0.975]))


def test_Comparison_impostors_finds_the_highest_scores_however_unevenly_spread():
    rng = np.random.default_rng(5)
    gallery = rng.normal(size=(500, 8))
    probes = unit(rng.normal(size=(20, 8)), "")
    probes[3] = unit(gallery[:1], "")[0]
    gallery[:300] = gallery[0] + 0.05 * rng.normal(size=(300, 8))  # probe 3 alone has the 300 highest
    nobody = np.full(500, -2)
    compared = Comparison(probes, np.arange(20), gallery, nobody)
    for count in (1, 50, 400, 10_000):
        score, probe, row = compared.impostors(count)
        full = probes @ unit(gallery, "").T
        np.testing.assert_allclose(score, np.sort(full.ravel())[::-1][:count], atol=1e-6)
        np.testing.assert_allclose(score, full[probe, row], atol=1e-6)
        assert len(set(zip(probe.tolist(), row.tolist(), strict=True))) == count


@pytest.mark.parametrize("mates", ["best", "each"])
def test_evaluate_identification_with_faiss_gives_the_same_figures(mates):
    pytest.importorskip("faiss")
    probes, gallery, distractors = world(7)
    ours, theirs = (
        identify(probes, gallery, distractors, mates=mates, fars=(0.05,), fpirs=(0.2,), engine=engine, bootstrap=5)
        for engine in ("exact", "faiss")
    )
    assert {name: figure["value"] for name, figure in ours.metrics.items()} == {
        name: figure["value"] for name, figure in theirs.metrics.items()
    }
    assert ours.worst.keys() == theirs.worst.keys()
    for name, comparisons in ours.worst.items():
        assert comparisons == [pytest.approx(each, abs=1e-6) for each in theirs.worst[name]]
    assert ours.fingerprint == theirs.fingerprint


def test_evaluate_identification_refuses_wrong_arguments():
    gallery, probes = side("ab", 0, 90), side("cd", 0, 90)
    with pytest.raises(DataError, match=r"no probe has a mate.*'c'.*'a'"):
        identify(probes, gallery)
    with pytest.raises(DataError, match="distractors, and there are none"):
        identify(gallery, gallery, mates="each")
    with pytest.raises(DataError, match=r"different lengths: \[2, 3\]"):
        identify(gallery, gallery, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"1\.\.100"):
        identify(gallery, gallery, ranks=(0,))
    with pytest.raises(ValueError, match="false positive"):
        identify(gallery, gallery, fpirs=(1.0,))
    with pytest.raises(ValueError, match="one length"):
        LabelledEmbeddings(np.ones((2, 2)), ["a"], ["b", "c"])


def test_evaluate_identification_can_be_stored_and_read_back():
    probes, gallery, distractors = world(2)
    found = identify(probes, gallery, distractors, fars=(0.1, 1e-6), bootstrap=5)
    again = Evaluation.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.metrics == found.metrics
    assert again.curves == found.curves
    assert "reason" in again.metrics["tar@far=1e-6"]


def test_evaluate_identification_json_is_unchanged_byte_for_byte():
    """``tests/fixtures/identification.json`` was written when results were dicts. All cosines are exact in float32."""
    axes, halves = np.eye(4), np.array(list(itertools.product((-0.5, 0.5), repeat=4)))
    directions = np.concatenate([axes, -axes, halves])
    rng = np.random.default_rng(0)

    def some(count, people, name):
        of = [f"id{person}" for person in rng.integers(people, size=count)]
        return LabelledEmbeddings(directions[rng.integers(24, size=count)], of, [f"{name}{k}" for k in range(count)])

    probes, gallery, distractors = some(40, 12, "p"), some(20, 8, "g"), directions[rng.integers(24, size=5)]
    found = identify(probes, gallery, distractors, fars=(0.1, 1e-6), fpirs=(0.3, 0.01), bootstrap=8)
    stored = (ROOT / "tests" / "fixtures" / "identification.json").read_text(encoding="utf-8")
    assert json.dumps(found.to_dict(), indent=1) + "\n" == stored


def test_evaluate_identification_searches_once(monkeypatch):
    """A search is nearly all of the time; a second would double it."""

    calls = []
    search = module.search
    monkeypatch.setattr(module, "search", lambda *arguments: calls.append(arguments) or search(*arguments))
    probes, gallery, distractors = world(3)
    identify(probes, gallery, distractors, fars=(0.01,), bootstrap=2)
    assert len(calls) == 1


def test_evaluate_identification_without_rivals_reports_only_ranks():
    both = side("aa", 0, 30)
    found = identify(both, both, fars=(0.1,), bootstrap=3)
    assert value(found, "rank-1") == 1
    assert "there are 0" in found.metrics["tar@far=1e-1"]["reason"]
    assert found.curves.keys() == {"cmc"}
