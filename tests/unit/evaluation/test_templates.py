"""Templates: pooling against its definition, figures against loops, and special cases of the protocols."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from vplface.data.ijb import Faces, TemplateList, TemplatePairs
from vplface.errors import DataError
from vplface.evaluation import Evaluation
from vplface.evaluation.bootstrap import draws
from vplface.evaluation.tar_at_far import tar_at_far
from vplface.evaluation.templates import (
    Flags,
    Templates,
    cosines_of_pairs,
    evaluate_one_to_many,
    evaluate_template_pairs,
    one_to_one,
    pool,
    pooling,
)


def faces_of(template, medium, picture=None):
    picture = np.arange(len(template)) if picture is None else np.array(picture)
    names = [f"{number}.jpg" for number in range(int(picture.max()) + 1)]
    return Faces(names, picture, np.array(template), np.array(medium))


def literally(x, faces, norm, scores):
    """Weigh, average each medium, add the media, normalise: one face after the other."""
    found = {}
    for template in sorted(set(faces.template.tolist())):
        total = 0.0
        for medium in sorted(set(faces.medium[faces.template == template].tolist())):
            frames = []
            for picture in faces.picture[(faces.template == template) & (faces.medium == medium)]:
                face = x[picture].astype(np.float64)
                face = face if norm else face / np.linalg.norm(face)
                frames.append(face if scores is None else scores[picture] * face)
            total = total + np.mean(frames, axis=0)
        found[template] = total / np.linalg.norm(total)
    return found


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("detector", [False, True])
@pytest.mark.parametrize("block", [3, 8192])
def test_pool_agrees_with_a_literal_loop(monkeypatch, norm, detector, block):
    monkeypatch.setattr(pooling, "_FACES", block)
    rng = np.random.default_rng(0)
    faces = faces_of(rng.integers(5, 12, 60), rng.integers(-3, 4, 60), rng.integers(0, 40, 60))
    x = rng.normal(size=(len(faces.pictures), 6)).astype(np.float32) * rng.uniform(1, 30, (len(faces.pictures), 1))
    scores = rng.uniform(0.1, 1, len(x)) if detector else None
    found = pool(x, faces, norm=norm, scores=scores)
    expected = literally(x, faces, norm, scores)
    assert found.number.tolist() == list(expected)
    np.testing.assert_allclose(found.features, np.stack(list(expected.values())), atol=1e-6)
    assert not found.equal_norms


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_pool_does_not_depend_on_the_order_of_faces(seed, count):
    rng = np.random.default_rng(seed)
    template, medium, order = rng.integers(4, size=count), rng.integers(3, size=count), rng.permutation(count)
    x = rng.normal(size=(count, 5))
    one = pool(x, faces_of(template, medium), norm=True)
    other = pool(x[order], faces_of(template[order], medium[order]), norm=True)
    np.testing.assert_array_equal(one.number, other.number)
    np.testing.assert_allclose(one.features, other.features, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_pool_counts_each_medium_once_for_any_number_of_frames(seed, frames):
    rng = np.random.default_rng(seed)
    still, frame = rng.normal(size=(2, 5))
    once = pool(np.stack([still, frame]), faces_of([1, 1], [1, 2]), norm=True)
    many = pool(np.stack([still, *[frame] * frames]), faces_of([1] * (1 + frames), [1] + [2] * frames), norm=True)
    np.testing.assert_allclose(once.features, many.features, atol=1e-6)
    # As stills, the frames count each.
    stills = pool(np.stack([still, *[frame] * frames]), faces_of([1] * (1 + frames), range(1 + frames)), norm=True)
    assert (stills.features @ frame) / np.linalg.norm(frame) > (once.features @ frame) / np.linalg.norm(frame)


def test_pool_keeps_media_of_different_templates_apart():
    x = np.eye(3)
    found = pool(x, faces_of([1, 1, 2], [7, 8, 7]), norm=True)
    np.testing.assert_allclose(found.features, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-7)


def test_pool_weighs_faces_by_norm_and_detector_score():
    x, faces, scores = np.array([[3.0, 0], [0, 1]]), faces_of([1, 1], [1, 2]), np.array([1.0, 0.5])

    def angle(**options):
        return pool(x, faces, **options).features[0] * np.sqrt(10)

    np.testing.assert_allclose(angle(norm=True), [3, 1], atol=1e-6)
    np.testing.assert_allclose(angle(norm=False), np.sqrt(5) * np.ones(2), atol=1e-6)
    np.testing.assert_allclose(angle(norm=True, scores=scores) * np.sqrt(37 / 10), [6, 1], atol=1e-6)
    np.testing.assert_allclose(angle(norm=False, scores=scores) * np.sqrt(5 / 10), [2, 1], atol=1e-6)
    assert pool(np.eye(2), faces, norm=True).equal_norms


def test_Flags_parse_reads_what_str_writes():
    assert str(Flags.parse("n1d0f1")) == "N1D0F1"
    assert Flags.parse("N0D1F0") == Flags(norm=False, detector=True, flip=False)
    for text in ("", "N1D1", "N2D1F1", "F1D1N1"):
        with pytest.raises(ValueError, match="N1D1F1"):
            Flags.parse(text)


@pytest.mark.parametrize(
    ("embedding", "template", "message"),
    [
        ([[1, 0], [np.nan, 0]], [1, 1], r"1 of 2 embeddings .*1\.jpg"),
        ([[1, 0], [0, 0]], [1, 1], r"1 of 2 embeddings .*1\.jpg"),
        ([[1, 0], [-1, 0]], [4, 4], "template 4 is zero"),
    ],
)
def test_pool_names_embeddings_and_templates_without_direction(embedding, template, message):
    with pytest.raises(DataError, match=message):
        pool(np.array(embedding, float), faces_of(template, [1, 2]), norm=True)


@pytest.mark.parametrize("block", [40, 1 << 23])
def test_cosines_of_pairs_in_blocks_equals_the_dot_products(monkeypatch, block):
    monkeypatch.setattr(one_to_one, "_BLOCK_ELEMENTS", block)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 7)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    left, right = rng.integers(30, size=(2, 500))
    np.testing.assert_allclose(cosines_of_pairs(x, left, right), (x[left] * x[right]).sum(axis=1), atol=1e-6)


def world(seed, subjects=20, each=4, dim=5, noise=0.8):
    """Templates of several subjects, and many pairs of them."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), each)
    x = rng.normal(size=(subjects, dim))[subject] + noise * rng.normal(size=(len(subject), dim))
    number = 100 + 3 * np.arange(len(subject))
    found = Templates(
        number,
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32),
        [f"{n}.jpg" for n in number],
        False,
    )
    left, right = np.triu_indices(len(subject), 1)
    some = (subject[left] == subject[right]) | (rng.random(len(left)) < 0.4)
    left, right = left[some], right[some]
    return found, subject, TemplatePairs(number[left], number[right], subject[left] == subject[right]), left, right


@pytest.mark.parametrize("rule", ["strict", "nearest"])
def test_evaluate_template_pairs_agrees_with_a_plain_loop(rule):
    templates, subject, pairs, left, right = world(0)
    found = evaluate_template_pairs(templates, pairs, Flags(), fars=(0.1, 0.01), far_rule=rule, bootstrap=8, seed=2)
    similarity = (templates.features[left].astype(float) * templates.features[right]).sum(axis=1)
    for number, counts in enumerate([np.ones(20, int), *draws(20, 8, 2)]):
        weight = np.where(pairs.same, counts[subject[left]], counts[subject[left]] * counts[subject[right]])
        genuine, impostor = (np.repeat(similarity[kind], weight[kind]) for kind in (pairs.same, ~pairs.same))
        for far, metric in ((0.1, "tar@far=1e-1"), (0.01, "tar@far=1e-2")):
            expected = tar_at_far(genuine, impostor, far, rule).tar
            said = found.replicates[metric][number - 1] if number else found.metrics[metric]["value"]
            assert said == pytest.approx(expected)
    assert found.protocol["identities"] == 20
    assert found.protocol["genuine"] == 120
    area = np.trapezoid(found.curves["roc"]["tar"], found.curves["roc"]["far"])
    assert area == pytest.approx(roc_auc_score(pairs.same, similarity), abs=0.01)
    assert sum(found.curves["histogram"]["impostor"]) == (~pairs.same).sum()
    assert json.loads(json.dumps(found.to_dict()))
    assert Evaluation.from_dict(found.to_dict()).metrics == found.metrics


def test_evaluate_template_pairs_needs_only_the_highest_impostors(monkeypatch):
    templates, _, pairs, *_ = world(1, subjects=60)
    whole = evaluate_template_pairs(templates, pairs, Flags(), fars=(0.01,), bootstrap=20)
    monkeypatch.setattr(one_to_one, "_KEEP_AT_LEAST", 10)
    monkeypatch.setattr(one_to_one, "tail_length", lambda far, impostors: int(4 * far * impostors))
    tail = evaluate_template_pairs(templates, pairs, Flags(), fars=(0.01,), bootstrap=20)
    assert tail.metrics == whole.metrics
    np.testing.assert_array_equal(tail.replicates["tar@far=1e-2"], whole.replicates["tar@far=1e-2"])
    assert tail.protocol["impostors"] == whole.protocol["impostors"]


def test_evaluate_template_pairs_gives_a_reason_where_impostors_are_too_few():
    templates, _, pairs, *_ = world(0)
    found = evaluate_template_pairs(templates, pairs, Flags(), fars=(1e-2, 1e-6), bootstrap=0)
    assert found.metrics["tar@far=1e-6"]["value"] is None
    assert "needs at least 1,000,000 impostor pairs" in found.metrics["tar@far=1e-6"]["reason"]
    assert found.metrics["tar@far=1e-2"]["actual_far"] <= 1e-2


def test_evaluate_template_pairs_stores_the_flags():
    templates, _, pairs, *_ = world(0)
    one, other = (evaluate_template_pairs(templates, pairs, Flags.parse(f), bootstrap=0) for f in ("N1D1F1", "N0D0F0"))
    assert (one.protocol["flags"], other.protocol["flags"]) == ("N1D1F1", "N0D0F0")
    assert (other.protocol["norm"], other.protocol["detector_score"], other.protocol["flip"]) == ("unit", False, "none")


def test_evaluate_template_pairs_refuses_unknown_templates_and_pairs_of_one_kind():
    templates, _, pairs, *_ = world(0)
    strange = TemplatePairs(np.array([100, 101]), np.array([103, 100]), np.array([True, False]))
    with pytest.raises(DataError, match=r"1 templates .* no faces, for example 101"):
        evaluate_template_pairs(templates, strange, Flags())
    with pytest.raises(DataError, match="need both"):
        evaluate_template_pairs(
            templates, TemplatePairs(pairs.left, pairs.right, np.ones(len(pairs.left), bool)), Flags()
        )


def at(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_evaluate_one_to_many_matches_counts_by_hand():
    # Gallery one: subjects 1 at 0 and 2 at 90 degrees; gallery two: 3 at 180 and 4 at 270.
    # Probes of 1 at 10, of 2 at 40 (nearer to 1), of 3 at 170 and of 4 at 280.
    templates = Templates(np.arange(8), at(0, 90, 180, 270, 10, 40, 170, 280), [f"{n}.jpg" for n in range(8)], False)
    galleries = {
        "G1": TemplateList(np.array([0, 1]), np.array([1, 2])),
        "G2": TemplateList(np.array([2, 3]), np.array([3, 4])),
    }
    probes = TemplateList(np.array([4, 5, 6, 7]), np.array([1, 2, 3, 4]))
    found = evaluate_one_to_many(templates, galleries, probes, Flags(), ranks=(1, 2), fpirs=(0.5,), bootstrap=0)
    assert found.metrics["rank-1"]["per_gallery"] == [0.5, 1.0]
    assert found.metrics["rank-1"]["value"] == 0.75
    assert found.metrics["rank-2"]["value"] == 1
    # Without a mate in G1: 170 (80 from 2) and 280 (80 from 1). In G2: 10 (100 from 4) and 40 (130 from 4).
    # G1: 80 and 80 are tied, one of them may not be accepted alone, so none is; 10 is found, 40 is behind.
    # G2: 100 is accepted, 130 not; both probes are 10 away from their mates.
    figure = found.metrics["tpir@fpir=5e-1"]
    assert figure["per_gallery"] == [0.5, 1.0]
    assert figure["actual_fpir"] == [0.0, 0.5]
    assert found.protocol["galleries"]["G1"] == {"templates": 2, "mated": 2, "non_mated": 2}
    [miss] = found.worst["gallery_misses"]
    assert (miss["probe"], miss["found"], miss["mate"], miss["mate_rank"]) == ("5.jpg", "0.jpg", "1.jpg", 2)
    # One gallery of all four would be another question: the probe of 2 has the same rank, but no probe lacks a mate.
    together = {"all": TemplateList(np.arange(4), np.arange(1, 5))}
    other = evaluate_one_to_many(templates, together, probes, Flags(), ranks=(1,), fpirs=(0.5,), bootstrap=0)
    assert other.metrics["tpir@fpir=5e-1"]["value"] is None
    assert "there are 0" in other.metrics["tpir@fpir=5e-1"]["reason"]


def test_evaluate_one_to_many_replicates_weigh_probes_by_subject():
    templates, subject, *_ = world(4, subjects=16, each=5)
    first = np.arange(0, 80, 5)
    galleries = {
        "G1": TemplateList(templates.number[first[:8]], subject[first[:8]]),
        "G2": TemplateList(templates.number[first[8:]], subject[first[8:]]),
    }
    rest = np.setdiff1d(np.arange(80), first)
    probes = TemplateList(templates.number[rest], subject[rest])
    found = evaluate_one_to_many(
        templates, galleries, probes, Flags(), ranks=(1, 5), fpirs=(0.1, 0.3), bootstrap=10, seed=1
    )
    x = templates.features.astype(float)
    for number, counts in enumerate([np.ones(16, int), *draws(16, 10, 1)]):
        rates = {"rank-1": [], "rank-5": [], "tpir@fpir=1e-1": [], "tpir@fpir=3e-1": []}
        for rows in (first[:8], first[8:]):
            cosines = x[rest] @ x[rows].T
            mate = subject[rest][:, None] == subject[rows]
            mated = mate.any(axis=1)
            own = np.where(mate, cosines, -9).max(axis=1)
            rank = 1 + (np.where(mate, -9, cosines) >= own[:, None]).sum(axis=1)
            weight = counts[subject[rest]]
            for k in (1, 5):
                rates[f"rank-{k}"].append((weight * (rank <= k))[mated].sum() / weight[mated].sum())
            true = np.repeat(np.where(rank == 1, own, -9)[mated], weight[mated])
            false = np.repeat(cosines.max(axis=1)[~mated], weight[~mated])
            for name, fpir in (("1e-1", 0.1), ("3e-1", 0.3)):
                rates[f"tpir@fpir={name}"].append(tar_at_far(true, false, fpir).tar)
        for metric, both in rates.items():
            said = found.replicates[metric][number - 1] if number else found.metrics[metric]["value"]
            assert said == pytest.approx(np.mean(both)), metric
    assert found.metrics["rank-1"]["ci95"][0] <= found.metrics["rank-1"]["value"] <= found.metrics["rank-1"]["ci95"][1]
    assert json.loads(json.dumps(found.to_dict()))


def test_evaluate_one_to_many_refuses_a_gallery_without_mates():
    templates, subject, *_ = world(0)
    gallery = {"G1": TemplateList(templates.number[:1], np.array([999]))}
    with pytest.raises(DataError, match="no probe has a mate in gallery G1"):
        evaluate_one_to_many(templates, gallery, TemplateList(templates.number[1:], subject[1:]), Flags())
