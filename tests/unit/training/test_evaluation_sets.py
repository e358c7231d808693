"""The people whom a fold tests: each once, and never by a model that was trained on them."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vplface.config import build_config
from vplface.errors import ConfigError
from vplface.training import evaluation_sets, sources
from vplface.training.evaluation_sets import people_of_fold, pictures_of_fold
from vplface.training.run_state import build_run
from vplface.training.sources import open_source
from vplface.training.validation import Validation, validation_of


class Named:
    """Two pictures of each of some people."""

    left_out = ""

    def __init__(self, names):
        self.identities = list(names)
        self.labels = np.repeat(np.arange(len(self.identities)), 2)

    def __len__(self):
        return len(self.labels)


def of(fold, train=("all",), sets=("all",), **evaluation):
    sets = [{"name": path, "path": path} if isinstance(path, str) else path for path in sets]
    raw = {"name": "x", "data": {"train": list(train)}, "fold": fold, "evaluation": {"sets": sets, **evaluation}}
    return build_config({**raw, "backbone": {"name": "tiny", "options": {"width": 8}}}, "test")


@pytest.fixture
def opened(monkeypatch):
    """{path: pictures}, opened in the place of files."""
    known = {}
    for module in (evaluation_sets, sources):
        monkeypatch.setattr(module, "open_pictures", lambda path, split: known[str(path)])
        monkeypatch.setattr(module, "warn_if_unaligned", lambda *stored: None)
    return known


def names_by(random, count):
    """Names that differ in more than their Unicode composition."""
    names = {"".join(random.choices("aBc_-.01éüñж漢", k=random.randint(1, 8))) for _ in range(count)}
    return sorted({unicodedata.normalize("NFC", name) for name in names})


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(st.integers(40, 80), st.integers(2, 4), st.integers(0, 9), st.randoms(use_true_random=True))
def test_folds_test_everybody_once_and_never_train_on_whom_they_test(opened, tmp_path, people, count, seed, random):
    names = names_by(random, people)
    shared, excluded = set(random.sample(names, 25)), set(random.sample(names, 8))
    opened["all"] = Named(names)
    opened["some"] = Named(unicodedata.normalize("NFD", name) for name in shared)
    (tmp_path / "chosen on.txt").write_text("\n".join(excluded), encoding="utf-8")
    tested = {"all": Counter(), "some": Counter()}
    for number in range(1, count + 1):
        fold = {"count": count, "number": number, "seed": seed, "exclude": str(tmp_path / "chosen on.txt")}
        config = of(fold, ("all", "some"), ("all", "some"))
        try:
            in_fold = {name: set(pictures.identities) for name, pictures in pictures_of_fold(config).items()}
        except ConfigError:
            reject()  # fewer than two people
        for name, counter in tested.items():
            counter.update(in_fold[name])
        everybody_tested = {unicodedata.normalize("NFC", name) for people in in_fold.values() for name in people}
        for source in config.data.train:
            trained = set(open_source(source, people_of_fold(config)).identities)
            untested = {
                name
                for name in opened[str(source.path)].identities
                if unicodedata.normalize("NFC", name) not in everybody_tested
            }
            assert trained == untested
    for name, counter in tested.items():
        assert dict(counter) == {
            person: 1 for person in opened[name].identities if unicodedata.normalize("NFC", person) not in excluded
        }


def test_fold_depends_neither_on_order_nor_on_who_else_there_is(opened):
    names = [f"person {k}" for k in range(60)]
    config = of({"count": 3, "number": 2})
    opened["all"] = Named(names)
    before = people_of_fold(config)
    opened["all"] = Named([*names[::-1], *(f"new {k}" for k in range(30))])
    assert people_of_fold(config) & set(names) == before


def test_fold_trains_on_people_whom_no_set_tests(opened):
    """Those of other sources, and those outside the people and the half of a set."""
    opened["all"], opened["more"] = Named([f"p{k}" for k in range(40)]), Named([f"q{k}" for k in range(40)])
    config = of({"count": 2, "number": 1}, ("all", "more"), [{"name": "half", "path": "all", "half": "first"}])
    tested = people_of_fold(config)
    assert 2 <= len(tested) <= 20
    assert len(open_source(config.data.train[1], tested).identities) == 40
    assert len(open_source(config.data.train[0], tested).identities) == 40 - len(tested)


def test_fold_exclude_of_a_half_leaves_out_the_people_of_that_half_of_a_set(opened, tmp_path):
    names = [f"p{k}" for k in range(40)]
    opened["all"] = Named(names)
    (tmp_path / "list.txt").write_text("\n".join(names[:31]), encoding="utf-8")
    chosen_on = {"people": str(tmp_path / "list.txt"), "half": "first"}
    first_half = {
        name
        for number in (1, 2)
        for name in people_of_fold(of({"count": 2, "number": number}, sets=[{"name": "a", "path": "all", **chosen_on}]))
    }
    assert len(first_half) == 16
    tested = {
        name for number in (1, 2) for name in people_of_fold(of({"count": 2, "number": number, "exclude": chosen_on}))
    }
    assert tested == set(names) - first_half
    second = {"name": "a", "path": "all", **chosen_on, "half": "second"}
    of_second = {
        name
        for number in (1, 2)
        for name in people_of_fold(of({"count": 2, "number": number, "exclude": chosen_on}, sets=[second]))
    }
    assert of_second == set(names[:31]) - first_half


def test_Validation_of_a_fold_compares_its_people_alone(faces):
    whole = {}
    for number in (1, 2):
        entry = {"name": "all", "path": str(faces)}
        poor = {**entry, "name": "poor", "degrade": "blur"}
        config = of({"count": 2, "number": number}, (str(faces),), (entry, poor))
        tasks = validation_of(config).tasks
        task = tasks["all"]
        assert np.array_equal(task.used, tasks["poor"].used)
        assert task.pairs is None
        whole[number] = {task.pictures.identities[label] for label in task.pictures.labels[task.used]}
        assert whole[number] == people_of_fold(config)
        run = build_run(config)
        assert set(run.pictures.identities).isdisjoint(whole[number])
        assert run.head.weight.shape[0] == len(run.pictures.identities)
    assert whole[1] | whole[2] == set(Validation(config.evaluation, None).tasks["all"].pictures.identities)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ({"count": 30, "number": 7}, "evaluation set 'all': fold 7 of 30 has 0 of its 8 people; .* Lower the count"),
        ({"count": 2, "number": 1, "exclude": "nobody.txt"}, r"fold.exclude.0: nobody in nobody.txt .* called 'p0'"),
    ],
)
def test_people_of_fold_names_the_fault(opened, tmp_path, monkeypatch, fold, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nobody.txt").write_text("nobody\n", encoding="utf-8")
    opened["all"] = Named([f"p{k}" for k in range(8)])
    with pytest.raises(ConfigError, match=message):
        people_of_fold(of(fold))


SETS = [{"name": "a", "path": "b"}]
WITH_GUARD = {"sets": SETS, "untouched": True, "every": 1, "guard": {"path": "b", "pairs": "c"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": {"count": 5, "number": 6}}, r"number must be in 1\.\.5, the count of folds, got 6"),
        ({"fold": {"count": 5}}, "fold.number"),
        ({"fold": {"count": 1, "number": 1}}, "fold.count"),
        ({"evaluation": {}}, "give evaluation.sets"),
        ({"evaluation": {"sets": [{"name": "a", "path": "b", "balanced_pairs": 20}]}}, "the list of pairs of 'a'"),
        ({"evaluation": WITH_GUARD}, "the list of pairs of 'guard'"),
        ({"data": {"train": "b", "holdout": 0.1}}, "leave out data.holdout"),
        ({"evaluation": {"sets": SETS, "every": 1, "patience": 2}}, "evaluation.patience would end training by"),
    ],
)
def test_Config_names_the_fault_of_a_fold(changes, message):
    raw = {
        "name": "x",
        "data": {"train": "b"},
        "fold": {"count": 5, "number": 1},
        "evaluation": {"sets": SETS},
    }
    with pytest.raises(ConfigError, match=message):
        build_config(raw | changes, "test")
