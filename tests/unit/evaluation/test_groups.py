"""Error rates by group against counting pairs, and refused lists of groups."""

from __future__ import annotations

import numpy as np
import pytest

from vplface.errors import DataError
from vplface.evaluation.all_pairs import score_all_pairs
from vplface.evaluation.groups import Groups, group_errors, read_groups
from vplface.evaluation.scores import scores_of_pairs


class People:
    def __init__(self, sizes):
        self.identities = [f"p{k}" for k in range(len(sizes))]
        self.labels = np.repeat(np.arange(len(sizes)), sizes)
        self._names = [f"p{k}/{i}.jpg" for k, size in enumerate(sizes) for i in range(size)]

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return self._names[index]


def crowd(seed=0, identities=40, pictures=5, dim=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(identities), pictures)
    x = rng.normal(size=(identities, dim))[labels] + 0.8 * rng.normal(size=(len(labels), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def counted(x, labels, group, threshold, weight):
    """FNMR and FMR of a group, pair by pair; the weight of each person repeats the pairs."""
    wrong, total = np.zeros(2), np.zeros(2)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if group[i] and group[j]:
                same = labels[i] == labels[j]
                w = weight[labels[i]] * (1 if same else weight[labels[j]])
                accepted = np.float32(x[i]) @ np.float32(x[j]) >= threshold
                total[int(not same)] += w
                wrong[int(not same)] += w * (accepted != same)
    with np.errstate(invalid="ignore"):
        return wrong / total


@pytest.mark.parametrize("keep", [10**6, 2500])
@pytest.mark.parametrize("by", ["people", "pictures"])
def test_group_errors_agrees_with_counting_pair_by_pair(keep, by):
    x, labels = crowd(identities=16, pictures=4)
    scores = score_all_pairs(x, labels, keep).scores
    assert scores.complete == (keep == 10**6) or keep > scores.impostors
    rng = np.random.default_rng(1)
    of_picture = (rng.integers(-1, 3, 16)[labels] if by == "people" else rng.integers(-1, 3, len(labels))).astype(int)
    groups = Groups(["a", "b", "c"], of_picture)
    found = group_errors(scores, groups, {"far=1e-1": 0.6}, 25, seed=3)
    at = found["at"]["far=1e-1"]
    for g, name in enumerate(groups.names):
        expected = counted(x, labels, of_picture == g, 0.6, np.ones(16))
        for kind, value in zip(("fnmr", "fmr"), expected, strict=True):
            said = at["rates"][name][kind]["value"]
            assert said is None if np.isnan(value) else said == pytest.approx(value)
    # A replicate is the rate of pairs repeated as often as their people were drawn.
    replicates = []
    for number in range(25):
        drawn = np.bincount(np.random.default_rng((3, number)).integers(16, size=16), minlength=16)
        replicates.append([counted(x, labels, of_picture == g, 0.6, drawn) for g in range(3)])
    of_all = np.array(replicates)
    for g, name in enumerate(groups.names):
        for k, kind in enumerate(("fnmr", "fmr")):
            if (ends := at["rates"][name][kind]["ci95"]) is not None:
                assert ends == pytest.approx(np.nanquantile(of_all[:, g, k], [0.025, 0.975]).tolist())
    spread = at["spread"]["fnmr"]
    highest, lowest = (groups.names.index(spread[key]) for key in ("highest", "lowest"))
    differences = of_all[:, highest, 0] - of_all[:, lowest, 0]
    assert spread["ci95"] == pytest.approx(np.nanquantile(differences, [0.025, 0.975]).tolist())
    assert spread["value"] == max(r["fnmr"]["value"] for r in at["rates"].values()) - min(
        r["fnmr"]["value"] for r in at["rates"].values()
    )


def test_group_errors_reports_a_threshold_unfair_to_one_group():
    x, labels = crowd(identities=60, pictures=4, dim=24)
    rng = np.random.default_rng(5)
    worse = labels % 2 == 1
    x = x + 0.25 * worse[:, None] * rng.normal(size=x.shape)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = score_all_pairs(x, labels, 10**6).scores
    threshold = float(np.quantile(scores.genuine, 0.2))
    groups = Groups(["good", "poor"], worse.astype(int))
    found = group_errors(scores, groups, {"far=1e-2": threshold}, 200, seed=0)
    at = found["at"]["far=1e-2"]
    assert at["rates"]["poor"]["fnmr"]["value"] > at["rates"]["good"]["fnmr"]["value"]
    spread = at["spread"]["fnmr"]
    assert (spread["highest"], spread["lowest"]) == ("poor", "good")
    assert spread["ci95"][0] > 0
    assert found["groups"]["poor"] == {"identities": 30, "genuine": 30 * 6, "impostors": 30 * 29 // 2 * 16}
    assert at["threshold"] == threshold


def test_group_errors_gives_no_rate_to_a_group_without_pairs_of_a_kind():
    labels = np.array([0, 0, 1, 1, 2, 2])
    pairs = np.array([[0, 1], [2, 3], [0, 2]])
    similarity = np.array([0.9, 0.3, 0.8])
    scores = scores_of_pairs(similarity, np.array([True, True, False]), *pairs.T, labels)
    found = group_errors(scores, Groups(["a", "b"], np.array([0, 0, 1, 1, -1, -1])), {"far=1": 0.5}, 0, 0)
    rates = found["at"]["far=1"]["rates"]
    assert rates["a"]["fnmr"] == {"value": 0.0, "ci95": None}
    assert rates["b"]["fnmr"] == {"value": 1.0, "ci95": None}
    assert rates["a"]["fmr"] == {"value": None, "ci95": None}  # the one impostor pair is across groups
    assert found["at"]["far=1"]["spread"]["fmr"] is None
    assert found["at"]["far=1"]["spread"]["fnmr"]["value"] == 1.0


def test_read_groups_prefers_picture_names_to_identity_names(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("\ufeffname,Group\np0,young\np1,old\n\np1/1,young\np0/1.jpg,old\nnobody,old\n", encoding="utf-8")
    found = read_groups(path, People([2, 2, 1]))
    assert found.names == ["old", "young"]
    assert found.of_picture.tolist() == [1, 0, 0, 1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no entries"),
        ("name,group\n", "has no entries"),
        ("p0,a,b\n", "line 1: expected 'name,group'"),
        ("p0,a\np1,\n", "line 2: expected 'name,group'"),
        ("p0,a\np0,b\n", "line 2: 'p0' is in group 'a'"),
        ("q0,a\nq1,b\n", "none of its 2 names is an identity or a picture of the set"),
        ("p0,a\np1,a\n", "into 1 groups"),
        ("\n".join(f"p{k},{k}" for k in range(101)), "into 101 groups"),
    ],
)
def test_read_groups_refuses_invalid_lists(tmp_path, text, message):
    path = tmp_path / "groups.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_groups(path, People([2] * 120))


def test_read_groups_refuses_unreadable_files(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_groups(tmp_path / "nowhere.csv", People([2, 2]))
    (tmp_path / "latin.csv").write_bytes("Jos\xe9,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="not utf-8 text"):
        read_groups(tmp_path / "latin.csv", People([2, 2]))
