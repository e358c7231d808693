from pathlib import Path

import pytest

from vplface.backbones import build
from vplface.config import build_config, overlay, read_config, shipped_recipes
from vplface.data.pictures import Preprocessing
from vplface.errors import ConfigError, UsageError
from vplface.stored_model import ModelCard, save_model

MINIMAL = {"name": "x", "data": {"train": "faces"}}


def saved_model(folder, **card):
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, build("tiny", 8, width=8), ModelCard("tiny", 8, {"width": 8}, **card))
    return folder


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_shipped_recipes_are_valid_and_survive_a_round_trip(recipe, tmp_path):
    model = saved_model(tmp_path / "model")
    config = read_config(recipe, [f"backbone.weights={model}"] if recipe.startswith("finetune") else [])
    stored = tmp_path / "config.yaml"
    stored.write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(stored) == config
    for arm in config.arms.values():
        build_config(overlay(config.model_dump(mode="json"), arm), recipe)


def test_read_config_finds_shipped_recipes_by_name_and_by_path():
    assert read_config("quickstart") == read_config("configs/quickstart.yaml") == read_config("quickstart.yaml")


def test_read_config_of_a_run_folder_takes_name_and_output_from_its_path(tmp_path, monkeypatch):
    config = build_config(MINIMAL, "x")
    for name in ("first", "deep/copied"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert read_config(tmp_path / name).run_folder == tmp_path / name
    monkeypatch.chdir(tmp_path / "deep/copied")
    assert read_config(".").run_folder == tmp_path / "deep/copied"
    assert read_config("..//copied/", ["name=other"]).run_folder == Path("../other")
    assert read_config("config.yaml").name == config.name


def test_read_config_blames_an_override_or_the_file(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'lr'"):
        read_config("quickstart", ["optimizer.lrr=1"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\ndata: {trian: f}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken.yaml: unknown key 'data.trian'"):
        read_config(broken, ["seed=1"])


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "mapping"), ("", "mapping")])
def test_read_config_refuses_files_without_a_mapping(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_read_config_names_a_file_that_is_not_text(tmp_path):
    (tmp_path / "c.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"c\.yaml: not utf-8 text: byte 6 is 0xe9"):
        read_config(tmp_path / "c.yaml")


def test_read_config_suggests_a_shipped_recipe():
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        read_config("quikstart")


def test_read_config_suggests_a_recipe_of_the_same_folder(tmp_path):
    (tmp_path / "factors.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"did you mean '.*factors\.yaml'\?$"):
        read_config(tmp_path / "factor.yaml")
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        read_config(tmp_path / "quickstar")
    with pytest.raises(ConfigError, match="known: finetune, finetune-shallow, folder, lfw"):
        read_config(tmp_path / "xyz.yaml")


def test_read_config_takes_the_backbone_of_a_model_folder_from_its_card(tmp_path):
    prepared = Preprocessing(color="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    model = saved_model(tmp_path / "runs" / "other" / "best", preprocessing=prepared)
    for recipe in ("finetune", "finetune-shallow"):
        backbone = read_config(recipe, [f"backbone.weights={model}"]).backbone
        assert (backbone.name, backbone.embedding_dim, backbone.options) == ("tiny", 8, {"width": 8})
        assert backbone.preprocessing == prepared
        assert backbone.weights == model / "model.safetensors"
    added = read_config("finetune", [f"backbone.weights={model}", "backbone.options.dropout=0.3"]).backbone
    assert added.options == {"width": 8, "dropout": 0.3}


def test_read_config_refuses_a_folder_without_the_model_that_the_recipe_names(tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder without model\.json; give a run folder"):
        read_config("finetune", [f"backbone.weights={tmp_path}"])
    model = saved_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"holds a model of backbone tiny, not iresnet50; leave out backbone\.name"):
        read_config("finetune", [f"backbone.weights={model}", "backbone.name=iresnet50"])
    (model / "model.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a model card"):
        read_config("finetune", [f"backbone.weights={model}"])


def test_read_config_says_which_file_a_recipe_of_fine_tuning_lacks():
    with pytest.raises(ConfigError, match=r"model\.onnx: no such file"):
        read_config("finetune")


def test_finetune_shallow_begins_memory_and_class_means_at_once_and_the_head_first(tmp_path):
    config = read_config("finetune-shallow", [f"backbone.weights={saved_model(tmp_path)}"])
    assert config.variational.start_rule(10) == 0
    assert config.prototypes == "means"
    assert config.finetune.moving_blocks == 0
    assert config.finetune.until.steps(10) == 30
