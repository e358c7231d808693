import pytest
import yaml

from vplface.config import build_config
from vplface.errors import ConfigError

MINIMAL = {"name": "x", "data": {"train": "faces"}}


def test_DataConfig_takes_a_path_for_a_source_and_a_source_for_a_list():
    config = build_config(MINIMAL, "x")
    assert str(config.data.train[0].path) == "faces"
    assert (
        build_config({"name": "x", "data": {"train": {"path": "f", "min_pictures": 2}}}, "x").data.train[0].min_pictures
        == 2
    )


def test_BackboneConfig_may_be_a_name():
    assert build_config({**MINIMAL, "backbone": "iresnet18"}, "x").backbone.name == "iresnet18"


def of_guard(guard):
    evaluation = {"every": 1, "untouched": True, "guard": guard}
    return build_config({**MINIMAL, "evaluation": evaluation}, "x")


def test_EvaluationConfig_takes_one_guard_or_several():
    def named(guard):
        return [(entry.name, str(entry.path)) for entry in of_guard(guard).evaluation.guard]

    assert named("faces/a.bin") == [("guard", "faces/a.bin")]
    assert named({"path": "a"}) == [("guard", "a")]
    assert named([{"path": "a"}]) == [("guard", "a")]
    assert named({"name": "old", "path": "a"}) == [("old", "a")]
    assert named(["faces/a.bin", {"path": "b.2"}, {"name": "c", "path": "b.2"}]) == [
        ("a.bin", "faces/a.bin"),
        ("b.2", "b.2"),
        ("c", "b.2"),
    ]
    assert named(None) == named([]) == []


def test_EvaluationConfig_names_the_guard_that_is_faulty():
    with pytest.raises(ConfigError, match=r"evaluation\.guard\.1\.path"):
        of_guard(["a", {"name": "b"}])
    with pytest.raises(ConfigError, match=r"evaluation\.guard\.0"):
        of_guard(["a", ["b"]][1:])


def test_guards_are_read_as_they_were_written():
    for guard in ("a", ["a", {"name": "b", "path": "c", "half": "first"}]):
        config = of_guard(guard)
        assert build_config(yaml.safe_load(config.to_yaml()), "again") == config
    assert "guard" not in of_guard(None).to_yaml()
