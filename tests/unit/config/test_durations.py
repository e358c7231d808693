from vplface.config import Duration, build_config

MINIMAL = {"name": "x", "data": {"train": "faces"}}


def test_Duration_in_steps_and_as_written_in_a_recipe():
    assert Duration(1.5, "epochs").steps(10) == 15
    assert Duration(7).steps(10) == 7
    config = build_config({**MINIMAL, "schedule": {"length": 300, "warmup": "2 epochs"}}, "x")
    assert config.schedule.length == Duration(300)
    assert config.schedule.warmup == Duration(2, "epochs")
