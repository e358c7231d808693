from vplface.config import Duration, build_config

MINIMAL = {"name": "x", "data": {"train": "faces"}}


def test_Duration_converts_to_steps_and_is_read_from_a_recipe():
    assert Duration(1.5, "epochs").steps(10) == 15
    assert Duration(7).steps(10) == 7
    config = build_config({**MINIMAL, "schedule": {"length": 300, "warmup": "2 epochs"}}, "x")
    assert config.schedule.length == Duration(300)
    assert config.schedule.warmup == Duration(2, "epochs")
