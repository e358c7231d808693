import cv2
import numpy as np
import pytest

from vplface.backbones import build
from vplface.config import EvaluationConfig
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.verification_bin import write_verification_bin
from vplface.data.pair_lists import read_pairs
from vplface.data.selection import narrow
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError
from vplface.evaluation import evaluate_all_pairs, evaluate_pairs
from vplface.stored_model import ModelCard
from vplface.training.validation import Validation


@pytest.fixture(scope="module")
def embedder():
    return Embedder.from_backbone(build("tiny", 8, width=8), ModelCard("tiny", 8, {"width": 8}))


def settings(faces, *sets, **rest):
    made = [{"path": str(faces), **entry} for entry in sets]
    return EvaluationConfig.model_validate({"sets": made, "fars": [0.1], "flip": "sum", **rest})


def test_Validation_run_of_sets_that_share_pictures_matches_each_set_alone(faces, embedder, tmp_path):
    people = tmp_path / "people.txt"
    people.write_text("".join(f"p{k}\n" for k in range(6)), encoding="utf-8")
    pairs = tmp_path / "pairs.txt"
    rows = [f"p{a}/0 p{b}/1 {int(a == b)}" for a in range(8) for b in (a, (a + 1) % 8)]
    pairs.write_text("\n".join(rows), encoding="utf-8")
    asked = settings(
        faces, {"name": "some", "people": str(people)}, {"name": "list", "pairs": str(pairs)}, {"name": "all"}
    )
    together = Validation(asked, None).run(embedder, bootstrap=20)
    alone = {
        "some": evaluate_all_pairs(
            embedder, narrow(ImageFolder(faces), [f"p{k}" for k in range(6)]), fars=[0.1], bootstrap=20
        ),
        "list": evaluate_pairs(embedder, ImageFolder(faces), read_pairs(pairs), fars=[0.1], bootstrap=20),
        "all": evaluate_all_pairs(embedder, ImageFolder(faces), fars=[0.1], bootstrap=20),
    }
    for name, evaluation in alone.items():
        for metric, figure in evaluation.metrics.items():
            assert together[name].metrics[metric]["value"] == pytest.approx(figure["value"]), (name, metric)


def test_Validation_run_keeps_clean_and_degraded_copies_of_a_set_apart(faces, embedder):
    sets = [
        {"name": "clean"},
        {"name": "half", "degrade": {"kind": "noise", "share": 0.5}},
        {"name": "all", "degrade": "low_resolution"},
        {"name": "probes", "degrade": {"kind": "noise", "probes": True}},
    ]
    together = Validation(settings(faces, *sets), None).run(embedder, bootstrap=10)
    for entry in sets:
        (alone,) = Validation(settings(faces, entry), None).run(embedder, bootstrap=10).values()
        found = together[entry["name"]]
        assert found.protocol == alone.protocol
        assert found.fingerprint == alone.fingerprint
        for metric, figure in alone.metrics.items():
            assert found.metrics[metric]["value"] == pytest.approx(figure["value"], abs=1e-6), (entry, metric)
    assert "degrade" not in together["clean"].protocol
    assert len({evaluation.fingerprint for evaluation in together.values()}) == 4
    assert len({evaluation.metrics["auc"]["value"] for evaluation in together.values()}) == 4
    count = together["clean"].protocol["pictures"]
    assert together["all"].protocol["degrade"]["pictures"] == count
    assert 0 < together["half"].protocol["degrade"]["pictures"] < count
    assert together["probes"].protocol["degrade"]["pictures"] == count - together["probes"].protocol["identities"]


def test_Validation_run_draws_the_same_pairs_every_time(embedder, tmp_path):
    rng = np.random.default_rng(1)
    for person in range(20):
        (tmp_path / f"p{person}").mkdir()
        for picture in range(2):
            pixels = rng.integers(0, 255, (112, 112, 3), np.uint8)
            cv2.imwrite(str(tmp_path / f"p{person}" / f"{picture}.png"), pixels)
    asked = settings(tmp_path, {"name": "drawn", "balanced_pairs": 20})
    first, second = (Validation(asked, None).run(embedder, bootstrap=10)["drawn"] for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.protocol["pairs"] == 20
    assert first.metrics["accuracy"]["value"] == second.metrics["accuracy"]["value"]


def test_Validation_criterion_is_the_requested_metric_or_a_preferred_one(faces):
    values = {"a": {"tar@far=1e-3": None, "accuracy": 0.7}, "b": {"tar@far=1e-3": 0.4}}
    sets = ({"name": "a"}, {"name": "b"})
    assert Validation(settings(faces, *sets), None).criterion(values) == 0.4
    assert Validation(settings(faces, *sets, best="a/accuracy"), None).criterion(values) == 0.7
    with pytest.raises(ConfigError, match="has no metric 'f1'"):
        Validation(settings(faces, *sets, best="a/f1"), None).criterion(values)


def test_Validation_picture_finds_a_picture_by_set_and_name(faces):
    validation = Validation(settings(faces, {"name": "all"}), None)
    assert np.array_equal(validation.picture("all", "p3/2.png"), narrow(ImageFolder(faces), ["p3"]).picture(2))
    assert validation.picture("all", "p3/9.png") is None
    assert validation.picture("other", "p3/2.png") is None


@pytest.mark.parametrize(
    ("sets", "rest", "error", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], {}, ConfigError, "same name"),
        ([{"name": "a"}], {"best": "b/accuracy"}, ConfigError, "SET one of a"),
        ([{"name": "a"}], {"best": "a/eer"}, ConfigError, "an error rate"),
        ([{"name": "a"}], {"best": "a/poor_norm"}, ConfigError, "describes a model and does not judge it"),
        ([{"name": "a"}], {"best": "a/tar@far=1e-3"}, ConfigError, r"not measured, only tar@far=1e-1; add its rate"),
        ([{"name": "a", "people": "nobody.txt"}], {}, ConfigError, "1 of the 1 people"),
        ([{"name": "a", "pairs": "nowhere.txt"}], {}, DataError, "nowhere.txt"),
        ([{"name": "a", "path": "/nowhere"}], {}, DataError, "set 'a': /nowhere"),
        ([{"name": "a", "balanced_pairs": 100_000}], {}, DataError, "too few"),
    ],
)
def test_Validation_refuses_faulty_settings_before_training(faces, tmp_path, monkeypatch, sets, rest, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nobody.txt").write_text("nobody\n", encoding="utf-8")
    with pytest.raises(error, match=message):
        Validation(settings(faces, *sets, **rest), None)


def test_Validation_run_evaluates_a_split_as_a_set(faces, embedder, tmp_path):
    rows = [f"{faces}/p{k}/{n}.png,p{k},{'train' if k < 4 else 'test'}" for k in range(8) for n in range(2)]
    (tmp_path / "faces.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    parts = [{"name": name, "path": str(tmp_path / "faces.csv"), "split": name} for name in ("train", "test")]
    together = Validation(settings(faces, *parts), None).run(embedder, bootstrap=10)
    for name, people in (("train", range(4)), ("test", range(4, 8))):
        chosen = narrow(ImageFolder(faces), [f"p{k}" for k in people], max_pictures=2)
        alone = evaluate_all_pairs(embedder, chosen, fars=[0.1], bootstrap=10)
        assert together[name].metrics["tar@far=1e-1"]["value"] == alone.metrics["tar@far=1e-1"]["value"]
        assert together[name].protocol["identities"] == 4
    with pytest.raises(DataError, match="has no split 'val'"):
        Validation(settings(faces, parts[0] | {"split": "val"}), None)


def test_Validation_halves_of_a_set_divide_its_people(faces, embedder):
    whole = ImageFolder(faces)
    sets = ({"name": "one", "half": "first"}, {"name": "two", "half": "second"}, {"name": "all"})
    validation = Validation(settings(faces, *sets), None)
    people = {
        name: {whole.identities[label] for label in whole.labels[task.used]} for name, task in validation.tasks.items()
    }
    assert people["one"] & people["two"] == set()
    assert people["one"] | people["two"] == people["all"]
    assert len(people["one"]) == len(people["two"]) == 6
    told = validation.run(embedder, bootstrap=10)
    alone = evaluate_all_pairs(embedder, narrow(whole, people["one"]), fars=[0.1], bootstrap=10)
    assert told["one"].metrics["tar@far=1e-1"]["value"] == alone.metrics["tar@far=1e-1"]["value"]
    again = Validation(settings(faces, *sets, seed=5), None)
    assert np.array_equal(again.tasks["one"].used, validation.tasks["one"].used)
    other = Validation(settings(faces, {"name": "one", "half": "first", "half_seed": 1}), None)
    assert not np.array_equal(other.tasks["one"].used, validation.tasks["one"].used)


def test_Validation_compares_the_first_pictures_of_each_person(faces, embedder):
    sets = ({"name": "two", "max_pictures": 2}, {"name": "half", "half": "first", "max_pictures": 3})
    validation = Validation(settings(faces, *sets), None)
    told = validation.run(embedder, bootstrap=10)
    alone = evaluate_all_pairs(embedder, narrow(ImageFolder(faces), max_pictures=2), fars=[0.1], bootstrap=10)
    assert told["two"].metrics["tar@far=1e-1"]["value"] == alone.metrics["tar@far=1e-1"]["value"]
    assert (told["two"].protocol["genuine"], told["half"].protocol["genuine"]) == (12, 6 * 3)


@pytest.mark.parametrize("question", [{"pairs": "list.txt"}, {"balanced_pairs": 20}])
def test_EvaluationConfig_refuses_max_pictures_of_a_list_of_pairs(faces, question):
    with pytest.raises(ValueError, match="max_pictures goes with all pairs"):
        settings(faces, {"name": "a", "max_pictures": 3, **question})


@pytest.mark.parametrize("question", [{"pairs": "list.txt"}, {"balanced_pairs": 20}])
def test_EvaluationConfig_refuses_a_half_of_a_list_of_pairs(faces, question):
    with pytest.raises(ValueError, match="half divides the people"):
        settings(faces, {"name": "a", "half": "first", **question})


def test_Validation_refuses_a_half_of_fewer_than_two_people(faces, tmp_path):
    people = tmp_path / "people.txt"
    people.write_text("p0\np1\np2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'a': cannot take a half of 3 identities"):
        Validation(settings(faces, {"name": "a", "half": "second", "people": str(people)}), None)


def test_Validation_run_uses_the_pairs_of_a_verification_set(faces, embedder, tmp_path):
    listed = [f"p{a}/0.png p{b}/1.png {int(a == b)}" for a in range(10) for b in (a, (a + 1) % 10)]
    (tmp_path / "pairs.txt").write_text("\n".join(listed), encoding="utf-8")
    pairs = read_pairs(tmp_path / "pairs.txt")
    write_verification_bin(tmp_path / "few.bin", ImageFolder(faces), pairs)
    asked = settings(faces, {"name": "few", "path": str(tmp_path / "few.bin")})
    metrics = Validation(asked, None).run(embedder, bootstrap=0)["few"].metrics
    alone = evaluate_pairs(embedder, ImageFolder(faces), pairs, fars=[0.1], bootstrap=0).metrics
    assert metrics["eer"]["value"] == pytest.approx(alone["eer"]["value"])
    assert metrics["accuracy"]["value"] is not None  # and its ten folds


def test_Validation_refuses_a_holdout_without_two_pictures_of_one_person(faces):
    single = narrow(ImageFolder(faces), max_pictures=1)
    with pytest.raises(ConfigError, match=r"'holdout': no two of its 12 pictures show one person.*\(data.holdout=0\)"):
        Validation(settings(faces), single)


def guarded(faces, guard, *sets):
    return Validation(settings(faces, *sets, every=1, untouched=True, guard=guard), None)


def test_Validation_measures_several_guards_and_lets_none_decide(faces):
    other = {"name": "poor", "path": str(faces), "degrade": "low_resolution"}
    validation = guarded(faces, [str(faces), other], {"name": "mine"})
    assert list(validation.tasks) == ["mine", faces.name, "poor"]
    values = {name: {"tar@far=1e-3": 0.5, "accuracy": 0.9} for name in validation.tasks} | {"mine": {"accuracy": 0.8}}
    assert validation.deciding(values) == ("mine", "accuracy")
    assert validation.guarded(values) == [(faces.name, "accuracy"), ("poor", "accuracy")]
    assert guarded(faces, str(faces), {"name": "mine"}).guarded(values | {"guard": {}}) == []


def test_Validation_embedded_counts_shared_pictures_once_and_degraded_ones_apart(faces):
    poor = {"name": "poor", "path": str(faces), "degrade": "low_resolution"}
    probes = {"name": "probes", "path": str(faces), "degrade": {"kind": "noise", "probes": True}}
    assert guarded(faces, [str(faces)], {"name": "mine"}).embedded == 48
    assert guarded(faces, [str(faces), poor], {"name": "mine"}).embedded == 2 * 48
    assert guarded(faces, probes, {"name": "mine"}).embedded == 48 + 36  # all pictures of a person but one


def test_Validation_refuses_guards_of_one_name(faces):
    with pytest.raises(ConfigError, match=rf"evaluation.guard: '{faces.name}' is the name of another set; give it a"):
        guarded(faces, [str(faces), str(faces)], {"name": "mine"})
    with pytest.raises(ConfigError, match=r"must be SET/METRIC, with SET one of mine"):
        Validation(
            settings(faces, {"name": "mine"}, every=1, untouched=True, guard=str(faces), best="guard/accuracy"), None
        )


def test_Validation_of_single_pictures_says_what_to_measure_instead(faces):
    single = narrow(ImageFolder(faces), max_pictures=1)
    with pytest.raises(ConfigError, match=r"or leave it out \(data\.holdout=0\)$"):
        Validation(settings(faces), single)
    with pytest.raises(
        ConfigError, match=r"\(data\.holdout=0\) and name people with more pictures in evaluation\.sets$"
    ):
        Validation(settings(faces, every=1, patience=2), single)
