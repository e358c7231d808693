from pathlib import Path

import pytest

from vplface.config import build_config, overlay, read_config, shipped_recipes
from vplface.errors import ConfigError, UsageError

MINIMAL = {"name": "x", "data": {"train": "faces"}}


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_shipped_recipes_are_valid_and_survive_a_round_trip(recipe, tmp_path):
    config = read_config(recipe)
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
    with pytest.raises(ConfigError, match="known: folder, lfw"):
        read_config(tmp_path / "xyz.yaml")
