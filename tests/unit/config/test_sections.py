from vplface.config import build_config

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
