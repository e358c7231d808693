"""Error rates by group against counting pairs, and refused lists of groups."""

from __future__ import annotations

import unicodedata

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


def test_group_errors_counts_false_matches_across_each_two_groups():
    x, labels = crowd(identities=12, pictures=3)
    of_picture = (labels % 3) - (labels == 11)  # the last person is in group 1
    scores = score_all_pairs(x, labels, 10**6).scores
    found = group_errors(scores, Groups(["a", "b", "c"], of_picture), {"x": 0.6}, 25, seed=3)["at"]["x"]["across"]
    assert [entry["groups"] for entry in found] == [["a", "b"], ["a", "c"], ["b", "c"]]
    for entry, (g, h) in zip(found, [(0, 1), (0, 2), (1, 2)], strict=True):
        cosine = np.float32(x[of_picture == g]) @ np.float32(x[of_picture == h]).T
        assert entry["impostors"] == cosine.size
        assert entry["fmr"]["value"] == pytest.approx((cosine >= 0.6).mean())
        low, high = entry["fmr"]["ci95"]
        assert low <= entry["fmr"]["value"] <= high


def rates_of(groups, rejected):
    """Groups of three people each, with two pictures and as many rejected genuine pairs as are given."""
    of_person = np.repeat(np.arange(len(groups)), 3)
    similarity = np.concatenate([np.arange(3) >= count for count in rejected]).astype(float)
    pairs = np.arange(2 * len(of_person)).reshape(-1, 2)
    labels = np.repeat(np.arange(len(of_person)), 2)
    same = np.append(np.ones(len(pairs), bool), False)
    left, right = np.append(pairs[:, 0], 0), np.append(pairs[:, 1], 2)
    scores = scores_of_pairs(np.append(similarity, 0.0), same, left, right, labels)
    return scores, Groups(list(groups), np.repeat(of_person, 2))


def test_group_errors_summarises_groups_by_ratios():
    found = group_errors(*rates_of("abc", [1, 2, 3]), {"x": 0.5}, 300, 0)["at"]["x"]["ratios"]
    assert found["fnmr"]["max_over_min"]["value"] == pytest.approx(3)
    # The geometric mean of 1/3, 2/3 and 1 is (2/9)^(1/3).
    assert found["fnmr"]["max_over_geometric_mean"]["value"] == pytest.approx((9 / 2) ** (1 / 3))
    assert found["fnmr"]["max_over_min"]["highest"] == "c"
    assert found["fnmr"]["max_over_min"]["ci95"] is None  # many draws have no error in group a
    assert found["fmr"] is None


def test_group_errors_gives_no_ratio_to_a_group_without_errors():
    found = group_errors(*rates_of("ab", [0, 2]), {"x": 0.5}, 50, 0)["at"]["x"]["ratios"]["fnmr"]
    for ratio in found.values():
        assert ratio["value"] is None
        assert ratio["reason"] == "no errors in group a"


def test_group_errors_ratio_has_the_quantiles_of_the_ratio_of_the_draws():
    x, labels = crowd(identities=24, pictures=4)
    groups = Groups(["a", "b"], labels % 2)
    at = group_errors(score_all_pairs(x, labels, 10**6).scores, groups, {"x": 0.75}, 40, seed=3)["at"]["x"]
    replicates = []
    for number in range(40):
        drawn = np.bincount(np.random.default_rng((3, number)).integers(24, size=24), minlength=24)
        replicates.append([counted(x, labels, labels % 2 == g, 0.75, drawn)[0] for g in range(2)])
    rates = np.array(replicates)
    names = ["a", "b"]
    high, low = (names.index(at["ratios"]["fnmr"]["max_over_min"][key]) for key in ("highest", "lowest"))
    expected = np.quantile(rates[:, high] / rates[:, low], [0.025, 0.975])
    assert at["ratios"]["fnmr"]["max_over_min"]["ci95"] == pytest.approx(expected.tolist())
    middle = np.quantile(rates[:, high] / np.sqrt(rates.prod(axis=1)), [0.025, 0.975])
    assert at["ratios"]["fnmr"]["max_over_geometric_mean"]["ci95"] == pytest.approx(middle.tolist())


def test_group_errors_counts_two_people_on_each_independent_impostor_pair():
    x, labels = crowd(identities=20, pictures=2)
    groups = Groups(["a", "b"], (labels >= 12).astype(int))
    at = group_errors(score_all_pairs(x, labels, 10**6).scores, groups, {"x": 1.5}, 20, 0)["at"]["x"]
    assert at["rates"]["a"]["fmr"]["ci95"] == [0, pytest.approx(1 - 0.025 ** (1 / 6))]
    assert at["rates"]["b"]["fmr"]["ci95"] == [0, pytest.approx(1 - 0.025 ** (1 / 4))]
    assert at["across"][0]["fmr"]["ci95"] == [0, pytest.approx(1 - 0.025 ** (1 / 8))]


def test_group_errors_does_not_depend_on_the_order_of_groups():
    x, labels = crowd(identities=15, pictures=3)
    scores, part = score_all_pairs(x, labels, 10**6).scores, labels % 3
    first = group_errors(scores, Groups(["a", "b", "c"], part), {"x": 0.6}, 25, 0)["at"]["x"]
    second = group_errors(scores, Groups(["c", "b", "a"], 2 - part), {"x": 0.6}, 25, 0)["at"]["x"]
    assert first["rates"] == second["rates"]
    assert {frozenset(each["groups"]): each["fmr"] for each in first["across"]} == {
        frozenset(each["groups"]): each["fmr"] for each in second["across"]
    }
    assert first["ratios"]["fnmr"]["max_over_min"] == second["ratios"]["fnmr"]["max_over_min"]


def two_groups(rng, people, fnmr, fmr):
    """Two groups of people who differ in how often their three genuine pairs are rejected; pairs match by group."""
    group = np.repeat([0, 1], people)
    each = np.arange(2 * people)
    own = np.asarray(fnmr)[group]
    rejected = rng.random((2 * people, 3)) < rng.beta(3 * own, 3 * (1 - own))[:, None]
    left, right = np.triu_indices(2 * people, 1)
    matches = rng.random(len(left)) < np.asarray(fmr)[group[left], group[right]]
    same = np.repeat([True, False], [rejected.size, len(left)])
    similarity = np.concatenate([~rejected.ravel(), matches]).astype(float)
    genuine = 4 * each[:, None] + [1, 2, 3]
    left, right = np.append(np.repeat(4 * each, 3), 4 * left), np.append(genuine.ravel(), 4 * right)
    scores = scores_of_pairs(similarity, same, left, right, np.repeat(each, 4))
    return scores, Groups(["a", "b"], np.repeat(group, 4))


def test_group_errors_intervals_cover_the_truth_as_often_as_they_say():
    trials, fnmr, fmr = 80, [0.1, 0.3], np.array([[0.04, 0.01], [0.01, 0.02]])
    covered = np.zeros(6)
    for trial in range(trials):
        known = two_groups(np.random.default_rng((3, trial)), 60, fnmr, fmr)
        at = group_errors(*known, {"x": 0.5}, 150, trial)["at"]["x"]
        ratios = at["ratios"]["fnmr"]
        truths = [
            (at["rates"]["a"]["fnmr"], 0.1),
            (at["rates"]["b"]["fnmr"], 0.3),
            (at["rates"]["a"]["fmr"], 0.04),
            (at["across"][0]["fmr"], 0.01),
            (ratios["max_over_min"], 0.3 / 0.1),
            (ratios["max_over_geometric_mean"], 0.3 / np.sqrt(0.3 * 0.1)),
        ]
        covered += [low <= truth <= high for figure, truth in truths for low, high in [figure["ci95"]]]
    assert (covered / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)).all(), covered / trials


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


def test_read_groups_divides_ages_into_groups(tmp_path):
    path = tmp_path / "ages.csv"
    path.write_text("name,age\np0/0,9\np0/1.jpg,16.5\np1,40\n")
    found = read_groups(path, People([2, 2, 1]))
    assert found.names == ["age 0–12", "age 13–17", "age 35–49"]
    assert found.of_picture.tolist() == [0, 1, 2, 2, -1]
    assert found.age.tolist()[:4] == [9, 16.5, 40, 40]
    assert np.isnan(found.age[4])
    some = found.at(np.array([1, 3]))
    assert (some.of_picture.tolist(), some.age.tolist()) == ([1, 2], [16.5, 40])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\np0,old\n", "line 2: an age is a number of years from 0 to 130, got 'old'"),
        ("name,age\np0,nan\n", "line 2: an age is"),
        ("name,age\np0,131\n", "line 2: an age is"),
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


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("by", ["identity", "picture", "stem"])
def test_read_groups_matches_accents_in_either_form(form, by, tmp_path):
    people = People([1, 1])
    people.identities = [unicodedata.normalize("NFC" if form == "NFD" else "NFD", name) for name in ("Zoë", "Åsa")]
    people._names = [f"{name}/1.jpg" for name in people.identities]
    said = {"identity": "{}", "picture": "{}/1.jpg", "stem": "{}/1"}[by]
    lines = [f"{said.format(name)},{group}" for name, group in (("Zoë", "a"), ("Åsa", "b"))]
    (tmp_path / "groups.csv").write_text(unicodedata.normalize(form, "\n".join(lines)), encoding="utf-8")
    assert read_groups(tmp_path / "groups.csv", people).of_picture.tolist() == [0, 1]
