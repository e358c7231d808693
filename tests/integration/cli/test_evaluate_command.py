"""``vplface evaluate`` on a small folder of made-up faces and a small untrained network."""

from __future__ import annotations

import hashlib
import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

from vplface.backbones import build
from vplface.cli.evaluate import evaluate
from vplface.cli.evaluation_output import store
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.pair_lists import read_pairs
from vplface.embedder import Embedder
from vplface.errors import DataError, UsageError
from vplface.evaluation import Evaluation, task
from vplface.evaluation.metrics import ROC_METRICS
from vplface.evaluation.operating_point import OperatingPoint
from vplface.evaluation.task import VerificationTask
from vplface.stored_model import ModelCard, save_model

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder, a folder of 6 people with 3 pictures each, lists of pairs and of people."""
    root = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    save_model(root / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    rng = np.random.default_rng(0)
    for person in range(6):
        face = rng.integers(0, 256, (7, 7, 3))
        (root / f"faces/p{person}").mkdir(parents=True)
        for number in range(3):
            noisy = np.clip(face + rng.normal(0, 40, face.shape), 0, 255).astype(np.uint8)
            large = cv2.resize(noisy, (112, 112), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / f"faces/p{person}/p{person}_{number + 1:04d}.png"), large)
    lines = []
    for fold in range(2):
        people = range(3 * fold, 3 * fold + 3)
        lines += [f"p{p}/p{p}_0001 p{p}/p{p}_000{n} 1 {fold}" for p in people for n in (2, 3)]
        lines += [f"p{p}/p{p}_0001 p{q}/p{q}_0002 0 {fold}" for p in people for q in people if p != q]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    (root / "one.txt").write_text("\n".join(line.rsplit(" ", 1)[0] for line in lines) + "\n")
    (root / "people.txt").write_text("\n".join(f"p{p}" for p in range(5)) + "\n")
    return root


def run(place, *arguments, model="model"):
    return CliRunner().invoke(app, [str(place / model), "--data", str(place / "faces"), *map(str, arguments)])


def as_json(result):
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout)


def test_vplface_evaluate_json_has_the_documented_keys(place):
    said = as_json(run(place, "--pairs", place / "pairs.txt", "--far", "0.25", "--bootstrap", 20, "--json"))
    assert list(said) == ["schema", "model", "data", "protocol", "metrics", "files", "versions", "date", "alignment"]
    assert said["schema"] == 1
    assert said["model"] == str(place / "model")
    assert said["data"] == str(place / "faces")
    assert said["protocol"]["flip"] == "sum"
    assert said["protocol"]["pairs"] == 24
    assert said["protocol"]["preprocessing"]["color"] == "rgb"
    accuracy = said["metrics"]["accuracy"]
    assert 0.5 <= accuracy["value"] <= 1.0  # a fraction
    assert len(accuracy["ci95"]) == 2
    assert set(said["metrics"]) == {"accuracy", "tar@far=2.5e-1", *(kind.name for kind in ROC_METRICS)}
    assert {"value", "ci95", "threshold", "actual_far"} <= set(said["metrics"]["tar@far=2.5e-1"])
    files = [place / "model/model.safetensors", place / "model/model.json", place / "pairs.txt"]
    assert said["files"] == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_vplface_evaluate_people_scores_all_pairs(place):
    said = as_json(
        run(place, "--people", place / "people.txt", "--far", 0.1, "--far", 1e-3, "--bootstrap", 0, "--json")
    )
    assert said["protocol"]["kind"] == "all pairs"
    assert (said["protocol"]["pictures"], said["protocol"]["genuine"], said["protocol"]["impostors"]) == (15, 15, 90)
    assert said["metrics"]["tar@far=1e-1"]["value"] is not None
    assert said["metrics"]["tar@far=1e-3"]["value"] is None
    assert "1,000" in said["metrics"]["tar@far=1e-3"]["reason"]
    assert str(place / "people.txt") in said["files"]


def test_vplface_evaluate_names_accuracy_by_the_source_of_its_threshold(place):
    alone = as_json(run(place, "--pairs", place / "one.txt", "--bootstrap", 0, "--json"))
    assert "accuracy@best_threshold" in alone["metrics"]
    assert "accuracy" not in alone["metrics"]
    given = as_json(
        run(
            place,
            "--pairs",
            place / "one.txt",
            "--threshold-pairs",
            place / "pairs.txt",
            "--bootstrap",
            0,
            "--json",
        )
    )
    assert "accuracy" in given["metrics"]
    assert str(place / "pairs.txt") in given["files"]


def test_vplface_evaluate_options_change_protocol_and_threshold(place):
    base = ("--pairs", place / "pairs.txt", "--bootstrap", 0, "--far", 0.3, "--json")
    plain = as_json(run(place, *base))
    other = as_json(run(place, *base, "--flip", "none", "--protocol", "insightface", "--far-rule", "nearest"))
    told = other["protocol"]
    assert (told["flip"], told["accuracy_rule"], told["far_rule"]) == ("none", "insightface", "nearest")
    swapped = run(place, *base, "--color", "bgr", "--mean", "0.4,0.4,0.4", "--std", ".3,.3,.3")
    assert "BGR, mean 0.4,0.4,0.4, std 0.3,0.3,0.3" in swapped.stderr
    prepared = as_json(swapped)["protocol"]["preprocessing"]
    assert prepared == {"size": 112, "color": "bgr", "mean": [0.4] * 3, "std": [0.3] * 3}
    thresholds = [said["metrics"]["accuracy"]["threshold"] for said in (plain, other, as_json(swapped))]
    assert len(set(thresholds)) == 3


def test_vplface_evaluate_prints_figures_and_protocol(place):
    result = run(place, "--pairs", place / "pairs.txt", "--far", 0.25, "--far", 0.001, "--bootstrap", 20)
    assert result.exit_code == 0, result.exception
    for part in (
        "accuracy",
        "95 % interval",
        "FAR 0.001 needs at least 1,000 impostor pairs, there are 12",
        "24 pairs (12 genuine, 12 impostor) of 6 people",
        "threshold chosen on the other folds by the rule exact",
        "20 resamples of the people, seed 0",
        "RGB, mean 0.5,0.5,0.5, std 0.5,0.5,0.5",
        hashlib.sha256((place / "pairs.txt").read_bytes()).hexdigest(),
    ):
        assert part in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --pairs"),
        (["--pairs", "pairs.txt", "--people", "people.txt"], "omit --pairs and"),
        (["--people", "people.txt", "--threshold-pairs", "pairs.txt"], "and --threshold-pairs"),
        (["--pairs", "pairs.txt", "--far", "0"], "--far 0"),
        (["--pairs", "pairs.txt", "--far", "2"], "--far 2"),
        (["--pairs", "pairs.txt", "--mean", "0.5,0.5"], "--mean '0.5,0.5': expected three numbers"),
        (["--pairs", "pairs.txt", "--mean", "127.5,127.5,127.5"], "divide"),
        (["--pairs", "pairs.txt", "--std", "0,1,1"], "std must be three finite positive"),
    ],
)
def test_vplface_evaluate_refuses_invalid_options(place, arguments, message):
    arguments = [place / word if word.endswith(".txt") else word for word in arguments]
    with pytest.raises(UsageError, match=message):
        raise run(place, *arguments).exception


@pytest.mark.parametrize(
    ("arguments", "model", "message"),
    [
        (["--pairs", "nowhere.txt"], "model", "nowhere.txt"),
        (["--pairs", "pairs.txt"], "no_model", "no_model"),
    ],
)
def test_vplface_evaluate_names_a_missing_file(place, arguments, model, message):
    arguments = [place / word if word.endswith(".txt") else word for word in arguments]
    with pytest.raises(DataError, match=message):
        raise run(place, *arguments, model=model).exception


def test_vplface_evaluate_requires_the_preprocessing_of_a_foreign_onnx_file(place):
    nodes = [
        onnx.helper.make_node("AveragePool", ["data"], ["means"], kernel_shape=[28, 28], strides=[28, 28]),
        onnx.helper.make_node("Flatten", ["means"], ["embedding"]),
    ]
    takes = onnx.helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, ["n", 3, 112, 112])
    gives = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["n", 48])
    graph = onnx.helper.make_graph(nodes, "block means", [takes], [gives])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, place / "other.onnx")
    with pytest.raises(DataError, match=r"no model card.*insightface.*--color rgb --mean"):
        raise run(place, "--pairs", place / "pairs.txt", model="other.onnx").exception
    result = run(
        place, "--pairs", place / "pairs.txt", "--color", "rgb", "--bootstrap", 0, "--json", model="other.onnx"
    )
    said = as_json(result)
    assert "RGB, mean 0.5,0.5,0.5, std 0.5,0.5,0.5" in result.stderr
    assert said["metrics"]["accuracy"]["value"] > 0.8  # block means of these faces differ between people
    assert str(place / "other.onnx") in said["files"]


def evaluate_many(place, models, *arguments):
    command = [*(str(place / model) for model in models), "--data", str(place / "faces"), *map(str, arguments)]
    return CliRunner().invoke(app, command)


def test_vplface_evaluate_keeps_undecodable_names_and_refuses_an_unwritable_report(place, tmp_path):
    """The names have é in Latin-1, as in old zip files."""
    shutil.copytree(place / "faces", tmp_path / "faces")
    for picture in list((tmp_path / "faces").rglob("*_0002.png")):
        picture.rename(picture.with_name(f"caf\udce9_{picture.name}"))
    options = ("--data", tmp_path / "faces", "--people", place / "people.txt", "--far", "0.25", "--bootstrap", 0)
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    done = run(place, *options, "--out", out, "--report", page)
    assert done.exit_code == 0, done.output
    store(out, {"name": "caf\udce9, café"})
    assert json.loads(out.read_text(encoding="utf-8")) == {"name": "caf\udce9, café"}
    assert "caf\\udce9_" in page.read_text(encoding="utf-8")
    (tmp_path / "afile").touch()
    with pytest.raises(DataError, match=r"cannot write .*afile/r\.html"):
        raise run(place, *options, "--report", tmp_path / "afile/r.html").exception


@pytest.fixture(scope="module")
def embedded(place):
    """Embeddings of the model as files: as vplface embed names them, in another order; and noisy ones, by order."""
    pictures = ImageFolder(place / "faces")
    x = Embedder.load(place / "model").embed_set(pictures, flip="sum")
    order = np.random.default_rng(0).permutation(len(pictures))
    np.savez(
        place / "named.npz", names=np.array([f"some/faces/{pictures.name(i)}" for i in order]), embeddings=x[order]
    )
    noise = np.random.default_rng(1).normal(size=x.shape)
    np.save(place / "noisy.npy", (x + 0.2 * noise).astype(np.float32))
    return place


def test_vplface_evaluate_of_stored_embeddings_equals_that_of_the_model(embedded):
    base = ("--pairs", embedded / "pairs.txt", "--far", 0.25, "--bootstrap", 20, "--json")
    said = as_json(run(embedded, *base, model="named.npz"))
    of_model = as_json(run(embedded, *base))
    assert said["metrics"] == of_model["metrics"]
    assert said["protocol"]["flip"] == "not known"
    assert said["protocol"]["preprocessing"] is None
    assert str(embedded / "named.npz") in said["files"]
    with pytest.raises(UsageError, match="holds embeddings"):
        raise run(embedded, *base, "--color", "rgb", model="named.npz").exception
    np.save(embedded / "short.npy", np.ones((3, 4), np.float32))
    with pytest.raises(DataError, match="3 embeddings, the set 18 pictures"):
        raise run(embedded, *base, model="short.npy").exception


def test_vplface_evaluate_refuses_an_embedding_that_is_not_finite(embedded):
    x = np.load(embedded / "noisy.npy")
    x[4] = np.nan
    np.save(embedded / "broken.npy", x)
    with pytest.raises(DataError, match="zero or not finite"):
        raise run(embedded, "--pairs", embedded / "pairs.txt", model="broken.npy").exception


def test_vplface_evaluate_compare_tests_models_on_the_same_pairs(embedded):
    base = ("--pairs", embedded / "pairs.txt", "--far", 0.25, "--bootstrap", 50)
    said = as_json(evaluate_many(embedded, ["model", "noisy.npy", "named.npz"], *base, "--compare", "--json"))
    assert list(said) == ["schema", "models", "differences_to", "differences", "alignment"]
    first, second, third = said["models"]
    assert said["differences_to"] == first["model"]
    assert list(said["differences"]) == [second["model"], third["model"]]
    itself = said["differences"][third["model"]]["accuracy"]
    assert (itself["difference"], itself["distinguishable"]) == (0.0, False)
    assert itself["mcnemar"] == {"only_first": 0, "only_second": 0, "p": 1.0}
    noisy = said["differences"][second["model"]]
    expected = second["metrics"]["accuracy"]["value"] - first["metrics"]["accuracy"]["value"]
    assert noisy["accuracy"]["difference"] == pytest.approx(expected)
    test = noisy["accuracy"]["mcnemar"]
    assert (test["only_second"] - test["only_first"]) / 24 == pytest.approx(expected)
    words = evaluate_many(embedded, ["model", "named.npz"], *base, "--compare").stdout
    assert "not significant" in words
    assert "McNemar" in words
    side_by_side = as_json(evaluate_many(embedded, ["model", "named.npz"], *base, "--json"))
    assert list(side_by_side) == ["schema", "models", "alignment"]


def test_vplface_evaluate_out_stores_the_evaluation_and_report_writes_a_page(embedded):
    out, page = embedded / "result.json", embedded / "page.html"
    options = ("--pairs", embedded / "pairs.txt", "--far", 0.25, "--fmr", 0.25, "--bootstrap", 20)
    result = run(embedded, *options, "--out", out, "--report", page)
    assert result.exit_code == 0, result.exception
    assert f"wrote {out}" in result.stdout
    stored = json.loads(out.read_text())
    evaluation = Evaluation.from_dict(stored["evaluation"])
    assert evaluation.metrics == stored["metrics"]
    assert stored["metrics"]["fnmr@fmr=2.5e-1"]["value"] == 1 - stored["metrics"]["tar@far=2.5e-1"]["value"]
    assert len(evaluation.correct) == 24
    right = [evaluation.correct[fold * 12 : fold * 12 + 12].mean() for fold in range(2)]
    assert right == evaluation.metrics["accuracy"]["per_fold"]
    assert stored["versions"]["numpy"] == np.__version__
    assert set(stored["files"]) >= {str(embedded / "pairs.txt"), str(embedded / "model/model.safetensors")}
    text = page.read_text(encoding="utf-8")
    for part in ("<h4>ROC</h4>", "Errors per fold", "p0/p0_0001.png", "data:image/jpeg;base64,"):
        assert part in text


def test_vplface_evaluate_groups_reports_and_plots_rates_per_group(embedded):
    (embedded / "groups.csv").write_text("".join(f"p{p},{'young' if p % 2 else 'old'}\n" for p in range(6)))
    base = ("--people", embedded / "people.txt", "--far", 0.25, "--bootstrap", 20, "--groups", embedded / "groups.csv")
    said = as_json(run(embedded, *base, "--json"))
    assert said["groups"]["groups"]["old"] == {"identities": 3, "genuine": 9, "impostors": 27}
    assert set(said["groups"]["at"]["far=2.5e-1"]["rates"]) == {"old", "young"}
    assert str(embedded / "groups.csv") in said["files"]
    shown = run(embedded, *base, "--report", embedded / "groups.html")
    assert "groups at the threshold of FAR 0.25" in shown.stdout
    assert "FNMR spread" in shown.stdout
    assert "False match rate at the threshold of FAR 0.25" in (embedded / "groups.html").read_text(encoding="utf-8")


def test_vplface_evaluate_save_operating_point_stores_it_with_the_model(embedded):
    base = ("--pairs", embedded / "pairs.txt", "--bootstrap", 0)
    result = run(embedded, *base, "--far", 0.5, "--save-operating-point", 0.25, "--json")
    said = as_json(result)
    point = OperatingPoint.load(embedded / "model")
    figure = said["metrics"]["tar@far=2.5e-1"]
    assert (point.threshold, point.actual_far, point.tar) == (
        figure["threshold"],
        figure["actual_far"],
        figure["value"],
    )
    assert (point.far, point.protocol["flip"], point.data) == (0.25, "sum", str(embedded / "faces"))
    assert point.protocol["preprocessing"] == said["protocol"]["preprocessing"]
    assert point.files["pairs.txt"] == said["files"][str(embedded / "pairs.txt")]
    with pytest.raises(DataError, match=r"no operating point: FAR 0\.001 needs"):
        raise run(embedded, *base, "--save-operating-point", 1e-3).exception
    assert OperatingPoint.load(embedded / "model").far == 0.25  # the earlier one is kept
    with pytest.raises(DataError, match="belongs to a model"):
        raise run(embedded, *base, "--save-operating-point", 0.25, model="named.npz").exception


@pytest.mark.parametrize("kind", ["model", "named.npz"])
def test_vplface_evaluate_hashes_the_files_that_it_loaded(embedded, kind, tmp_path, monkeypatch):
    for name in ("model", "named.npz", "faces", "pairs.txt"):
        (shutil.copytree if (embedded / name).is_dir() else shutil.copy)(embedded / name, tmp_path / name)
    loaded = tmp_path / ("model/model.safetensors" if kind == "model" else kind)
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (loaded, tmp_path / "pairs.txt")}
    evaluate = VerificationTask.evaluate

    def replaced_meanwhile(self, *arguments, **options):
        save_model(tmp_path / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
        np.savez(tmp_path / "named.npz", embeddings=np.ones((1, 1), np.float32))
        (tmp_path / "pairs.txt").write_text("")
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(VerificationTask, "evaluate", replaced_meanwhile)
    keep = ("--save-operating-point", 0.25) if kind == "model" else ()
    result = run(tmp_path, "--pairs", tmp_path / "pairs.txt", "--bootstrap", 0, "--json", *keep, model=kind)
    assert {path: as_json(result)["files"][str(path)] for path in before} == before
    if kind == "model":
        with pytest.raises(DataError, match=r"another model\.safetensors than is there now"):
            OperatingPoint.load(tmp_path / "model")
        assert OperatingPoint.load(tmp_path / "model", before[loaded]).far == 0.25


@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        (["model"], ["--compare"], "--compare needs two models"),
        (["model", "named.npz"], ["--compare", "--bootstrap", "0"], "--compare needs resamples"),
        (["model", "model"], [], "named twice"),
        (["model", "named.npz"], ["--save-operating-point", "0.1"], "one model at a time"),
        (["model"], ["--save-operating-point", "0"], "--save-operating-point 0:"),
        (["model"], ["--fmr", "7"], "--fmr 7:"),
        (["model"], ["--out", "result.txt"], r"must end in \.json"),
        (["model"], ["--report", "page.pdf"], r"must end in \.html"),
    ],
)
def test_vplface_evaluate_refuses_invalid_options_of_several_models_and_outputs(embedded, models, arguments, message):
    with pytest.raises(UsageError, match=message):
        raise evaluate_many(embedded, models, "--pairs", embedded / "pairs.txt", *arguments).exception


def test_vplface_evaluate_uses_the_pairs_of_a_set_without_a_list(embedded, monkeypatch):
    class Verification(ImageFolder):
        pairs = read_pairs(embedded / "pairs.txt")

    monkeypatch.setattr(task, "open_pictures", Verification)
    said = as_json(run(embedded, "--bootstrap", 0, "--json"))
    assert said["protocol"]["name"] == "faces"
    assert said["protocol"]["pairs"] == 24


def test_vplface_evaluate_operating_point_measures_a_stored_threshold_on_other_people(embedded, tmp_path):
    for name in ("model", "faces", "people.txt"):
        (shutil.copytree if (embedded / name).is_dir() else shutil.copy)(embedded / name, tmp_path / name)
    (tmp_path / "others.txt").write_text("p2\np3\np4\np5\n")
    base = ("--people", tmp_path / "people.txt", "--far", 0.25, "--bootstrap", 20)
    as_json(run(tmp_path, *base, "--save-operating-point", 0.25, "--json"))
    stored = OperatingPoint.load(tmp_path / "model")
    point = tmp_path / "elsewhere.json"
    shutil.move(tmp_path / "model/operating_point.json", point)
    other = ("--people", tmp_path / "others.txt", "--far", 0.25, "--bootstrap", 20, "--operating-point", point)
    result = run(tmp_path, *other, "--json", "--out", tmp_path / "out.json")
    said = as_json(result)
    promise = said["promise"]
    assert (promise["threshold"], promise["far"], promise["people"]) == (stored.threshold, 0.25, 4)
    assert promise["fmr"]["pairs"] == 4 * 3 // 2 * 9
    assert promise["verdict"] in ("undecided", "violated")  # 4 people cannot show that 0.25 holds
    assert said["protocol"]["claims"]["independent_comparisons"] == 2
    assert "chosen on the same people" not in result.stderr
    read = Evaluation.from_dict(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["evaluation"])
    assert read.promise == promise
    shown = run(tmp_path, *other, "--report", tmp_path / "page.html")
    assert promise["sentence"] in shown.stdout
    assert "Claims: 4 people (2 independent comparisons) support a FAR of 0.78 and above" in shown.stdout
    assert promise["sentence"] in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "chosen on the same people" in run(tmp_path, *base, "--operating-point", point).stderr


def test_vplface_evaluate_operating_point_refuses_what_does_not_belong_to_it(embedded, tmp_path):
    for name in ("model", "faces", "people.txt", "named.npz"):
        (shutil.copytree if (embedded / name).is_dir() else shutil.copy)(embedded / name, tmp_path / name)
    base = ("--people", tmp_path / "people.txt", "--far", 0.25, "--bootstrap", 20)
    as_json(run(tmp_path, *base, "--save-operating-point", 0.25, "--json"))
    shutil.move(tmp_path / "model/operating_point.json", tmp_path / "point.json")
    stored = (*base, "--operating-point", tmp_path / "point.json")
    for wrong, error, message in (
        (("--flip", "none"), UsageError, "was chosen with --flip sum"),
        (("--color", "bgr"), UsageError, "--color, --mean and --std: the threshold in"),
        (("--bootstrap", 1), UsageError, "--bootstrap must be at least 2"),
    ):
        with pytest.raises(error, match=message):
            raise run(tmp_path, *stored, *wrong).exception
    both = [str(tmp_path / name) for name in ("model", "named.npz")]
    two = CliRunner().invoke(app, [*both, "--data", str(tmp_path / "faces"), *map(str, stored)])
    assert "belongs to one model" in str(two.exception)
    with pytest.raises(DataError, match=r"nowhere\.json"):
        raise run(tmp_path, *base, "--operating-point", tmp_path / "nowhere.json").exception
    of_file = run(tmp_path, *stored, "--json", model="named.npz")
    assert "nothing says that" in of_file.stderr
    assert as_json(of_file)["promise"]["fmr"] == as_json(run(tmp_path, *stored, "--json"))["promise"]["fmr"]
    save_model(tmp_path / "model", build("tiny", 16, width=8), ModelCard("tiny", 16, {"width": 8}))
    with pytest.raises(DataError, match="chosen for other weights than those of"):
        raise run(tmp_path, *stored).exception


def test_vplface_evaluate_hard_shows_how_thresholds_move(embedded):
    base = ("--people", embedded / "people.txt", "--far", 0.25, "--bootstrap", 20, "--hard", 2)
    said = as_json(run(embedded, *base, "--json"))
    assert said["hard"]["k"] == 2
    at = said["hard"]["at"]["far=2.5e-1"]
    assert at["threshold"] == said["metrics"]["tar@far=2.5e-1"]["threshold"]
    assert at["fmr"]["value"] >= said["metrics"]["tar@far=2.5e-1"]["actual_far"]
    assert at["moved"]["threshold"] >= at["threshold"]
    shown = run(embedded, *base, "--report", embedded / "hard.html")
    assert "each person and the 2 nearest strangers" in shown.stdout
    assert "Hard impostors" in (embedded / "hard.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match=r"--hard looks for .* give --people"):
        raise run(embedded, "--pairs", embedded / "pairs.txt", "--hard", 2).exception
    with pytest.raises(DataError, match="--hard 5: each of 5 people has 4 strangers"):
        raise run(embedded, *base, "--hard", 5).exception


def test_vplface_evaluate_groups_of_ages_show_rates_across_groups_and_by_years(embedded):
    ages = [f"p{p}/p{p}_{number + 1:04d},{20 + 9 * number}" for p in range(6) for number in range(3)]
    (embedded / "ages.csv").write_text("\n".join(["name,age", *ages]) + "\n")
    base = ("--people", embedded / "people.txt", "--far", 0.25, "--bootstrap", 20, "--groups", embedded / "ages.csv")
    at = as_json(run(embedded, *base, "--json"))["groups"]["at"]["far=2.5e-1"]
    assert list(at["rates"]) == ["age 18–34", "age 35–49"]
    assert [entry["impostors"] for entry in at["across"]] == [5 * 4 * 2]
    assert {years: of["genuine"] for years, of in at["age_gap"].items()} == {"5–9 years": 10, "10–19 years": 5}
    shown = run(embedded, *base, "--report", embedded / "ages.html").stdout
    for part in ("FMR within and across groups", "FNMR by years between the two pictures", "FMR max/geometric mean"):
        assert part in shown
    page = (embedded / "ages.html").read_text(encoding="utf-8")
    assert "FMR at the threshold of FAR 0.25" in page
    assert "by years between the two pictures" in page
