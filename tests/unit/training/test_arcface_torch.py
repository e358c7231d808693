import re
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vplface.config import Duration, build_config
from vplface.errors import ConfigError
from vplface.margins import ArcFace, CombinedMargin, CosFace
from vplface.training.arcface_torch import FILL_IN, translate

TODAY = """\
from easydict import EasyDict as edict

config = edict()
config.margin_list = (1.0, 0.5, 0.0)
config.network = "r50"
config.resume = False
config.output = None
config.embedding_size = 256
config.sample_rate = 0.3
config.interclass_filtering_threshold = 0.4
config.fp16 = True
config.momentum = 0.8
config.weight_decay = 1e-4
config.batch_size = 64
config.lr = 0.05 * 4
config.verbose = 500
config.dali = False
config.rec = "/faces/small"
config.num_classes = 1000
config.num_image = 30000
config.num_epoch = 20
config.warmup_epoch = config.num_epoch // 10
config.val_targets = ["lfw", "cfp_fp"]
"""
OLDER = """\
from easydict import EasyDict as edict
config = edict()
config.loss = 'cosface'
config.network = 'r18'
config.batch_size = 64
config.lr = 0.1
config.rec = "/faces/small"
config.num_epoch = 25
config.warmup_epoch = -1
config.decay_epoch = [11, 17, 22]
config.dataset = "webface"
config.vpl = {'start_iters': 800, 'allowed_delta': 20, 'lambda': 0.2, 'mode': 0, 'momentum': True, 'shape': 3}
def lr_step_func(epoch):
    return 0.1
config.lr_func = lr_step_func
"""


@pytest.fixture
def made(tmp_path):
    def translate_source(source, gpus=1, name="small_r50.py"):
        (tmp_path / name).write_text(source, encoding="utf-8")
        return translate(tmp_path / name, gpus)

    return translate_source


def config_of(translation):
    recipe = yaml.safe_load(translation.to_yaml())
    assert recipe == translation.recipe
    return build_config(recipe, "test")


def keys(remarks):
    return {remark.key for remark in remarks}


def without(source, key):
    return "".join(line for line in source.splitlines(keepends=True) if f"config.{key} " not in line)


def test_every_key_of_a_configuration_of_today(made):
    translation = made(TODAY, gpus=8)
    config = config_of(translation)
    assert config.name == "small_r50"
    assert str(config.data.train[0].path) == "/faces/small"
    assert (config.backbone.name, config.backbone.embedding_dim) == ("iresnet50", 256)
    assert config.margin == ArcFace(64.0, 0.5, "detached")
    assert config.variational is None
    assert config.sample_rate == 0.3
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (0.2, 0.8, 1e-4)
    assert config.optimizer.clip == 5
    assert (config.schedule.name, config.schedule.power) == ("polynomial", 2)
    assert (config.schedule.length, config.schedule.warmup) == (Duration(20, "epochs"), Duration(2, "epochs"))
    assert config.batch_size == 512
    assert config.precision == "bfloat16"
    assert [(one.name, str(one.path)) for one in config.evaluation.sets] == [
        ("lfw", "/faces/small/lfw.bin"),
        ("cfp_fp", "/faces/small/cfp_fp.bin"),
    ]
    assert config.evaluation.every == Duration(500)
    assert translation.to_fill_in == translation.unknown == []
    expected = {"resume", "interclass_filtering_threshold", "dali", "num_classes", "num_image"}
    assert keys(translation.no_counterpart) == expected
    said = " ".join(translation.differences)
    for word in ("batch_size", "detached", "weight_decay", "clip", "sample_rate", "float16", "momentum", "val_targets"):
        assert word in said
    lines = translation.to_yaml().splitlines()
    assert "  lr: 0.2  # config.lr, small_r50.py:15" in lines
    assert "batch_size: 512  # config.batch_size, small_r50.py:14 × 8 GPUs" in lines
    assert "  name: sgd  # config.optimizer of the published base.py" in lines
    assert all("#" in line or line.endswith(":") or line.startswith("    - ") for line in lines)


def test_every_key_of_an_older_configuration_with_vpl(made):
    translation = made(OLDER, gpus=4)
    config = config_of(translation)
    assert config.margin == CosFace(64.0, 0.4)
    assert config.optimizer.lr == pytest.approx(0.1 / 512 * 256)
    assert config.schedule.name == "step"
    assert config.schedule.milestones == [Duration(epoch, "epochs") for epoch in (11, 17, 22)]
    assert config.schedule.warmup == Duration(0, "epochs")
    assert config.backbone.options == {"dropout": 0.4}
    assert config.variational.lam == 0.2
    assert (config.variational.delta_t, config.variational.start) == (Duration(20), Duration(800))
    assert config.variational.momentum == 0.999
    assert keys(translation.unknown) == {"vpl['shape']", "not followed"}
    assert keys(translation.no_counterpart) == {"lr_func"}
    assert translation.to_fill_in == []


def test_a_rate_that_is_a_function_is_left_to_fill_in(made):
    translation = made(without(OLDER, "decay_epoch"))
    assert [(said.key, said.where) for said in translation.to_fill_in] == [("schedule", "small_r50.py:14")]
    assert "name" not in translation.recipe["schedule"]
    assert config_of(translation).optimizer.lr == pytest.approx(0.1 / 512 * 64)


@pytest.mark.parametrize(
    ("margins", "margin", "said"),
    [
        ("(1.0, 0.5, 0.0)", ArcFace(64.0, 0.5, "detached"), "detached"),
        ("[1, 0, 0.4]", CosFace(64.0, 0.4), ""),
        ("(1.0, 0.3, 0.2)", CombinedMargin(64.0, 1.0, 0.3, 0.2), "cosface with margin 0.2 alone"),
        ("(1.35, 0.0, 0.0)", CombinedMargin(64.0, 1.35, 0.0, 0.0), "these numbers are refused"),
    ],
)
def test_margins(made, margins, margin, said):
    translation = made(TODAY.replace("(1.0, 0.5, 0.0)", margins))
    assert config_of(translation).margin == margin
    assert any(said in difference for difference in translation.differences if "margin" in difference or not said)


@pytest.mark.parametrize(
    ("network", "name", "known"),
    [
        ("r18", "iresnet18", True),
        ("r34", "iresnet34", True),
        ("r100", "iresnet100", True),
        ("r200", "iresnet200", True),
        ("mbf", "mbf", True),
        ("vit_b_dp005_mask_005", "vit_b_dp005_mask_005", True),
        ("vit_h", "vit_h", False),
        ("r2060", "r2060", False),
    ],
)
def test_networks(made, network, name, known):
    translation = made(TODAY.replace("r50", network))
    assert config_of(translation).backbone.name == name
    assert ("backbone.name" in keys(translation.to_fill_in)) is not known


def test_a_mode_that_injects_nothing_is_no_vpl(made):
    translation = made(OLDER.replace("'mode': 0", "'mode': -1"))
    assert config_of(translation).variational is None
    assert "vpl" in keys(translation.no_counterpart)


def test_parts_of_a_step_are_steps_there(made):
    config = config_of(made(TODAY + "config.gradient_acc = 4\nconfig.frequent = 10\n", gpus=2))
    assert (config.batch_size, config.accumulate) == (64 * 2 * 4, 4)
    assert (config.evaluation.every, config.log_every) == (Duration(125), Duration(2))


@pytest.mark.parametrize(
    ("output", "folder", "name"),
    [("'work/ms1mv3 r50'", "work", "ms1mv3-r50"), ("'ms1mv3'", "runs", "ms1mv3"), ("'/a/.b'", "/a", "b")],
)
def test_the_output_is_folder_and_name(made, output, folder, name):
    config = config_of(made(TODAY.replace("config.output = None", f"config.output = {output}")))
    assert (str(config.output), config.name) == (folder, name)


def test_a_base_beside_it_is_read_first(made, tmp_path):
    (tmp_path / "base.py").write_text(
        "config = edict()\nconfig.lr = 7\nconfig.seed = 5\nconfig.num_epoch = f()\n", "utf-8"
    )
    translation = made(without(TODAY, "lr"))
    assert config_of(translation).optimizer.lr == 7
    assert config_of(translation).seed == 5
    assert {line.key: line.origin for line in translation.lines}["seed"] == "config.seed, base.py:3"
    assert translation.to_fill_in == []
    (tmp_path / "base.py").write_text("config.lr = = 7\n", "utf-8")
    with pytest.raises(ConfigError, match=r"base\.py, line 1"):
        made(TODAY)


def test_what_is_not_said_is_to_be_filled_in_and_never_trained_by_accident(made):
    translation = made(
        "config.lr = 0.1\nconfig.network = choose()\nconfig.batch_size = 2 * N\nconfig.margin_list = None\n"
    )
    config = config_of(translation)
    assert str(config.data.train[0].path) == FILL_IN
    assert config.backbone.name == FILL_IN
    assert keys(translation.to_fill_in) == {"data.train", "backbone.name", "schedule.length", "batch_size", "margin"}
    assert {said.where for said in translation.to_fill_in if said.key in ("backbone.name", "batch_size", "margin")} == {
        "small_r50.py:2",
        "small_r50.py:3",
        "small_r50.py:4",
    }
    speed = made(TODAY.replace("/faces/small", "synthetic"))
    assert keys(speed.to_fill_in) == {"data.train", "evaluation.sets"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.lr = 'high'", r"small_r50\.py:24: config\.lr must be int or float, got 'high'"),
        ("config.batch_size = True", r":24: config\.batch_size must be int"),
        ("config.batch_size = 0", r":24: config\.batch_size must be at least 1"),
        ("config.verbose = 0", r":24: config\.verbose must be at least 1"),
        ("config.margin_list = (1, 0.5)", r":24: config\.margin_list must be three numbers"),
        ("config.val_targets = ['a', 'a']", r":24: config\.val_targets must be different names"),
        ("config.decay_epoch = ['x']", r":24: config\.decay_epoch must be numbers"),
        ("config.vpl = {'mode': 0, 'lambda': 'x'}", r":24: config\.vpl\['lambda'\] must be a number"),
        ("config.lr = -1", "the recipe from .*optimizer.lr.*greater than 0"),
        ("config.margin_list = (0.5, 0.3, 0)", "m1 must be at least 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(made, line, message):
    with pytest.raises(ConfigError, match=message):
        made(TODAY + line)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 4096),
    st.floats(-1, 2),
    st.sampled_from(["r50", "/x", "a\nb", "# y: z", "f()"]),
)


@given(
    st.dictionaries(
        st.sampled_from(
            [line.split()[0].removeprefix("config.") for line in (TODAY + OLDER).splitlines() if "config." in line]
        )
        | st.sampled_from(["own", "wandb_key", "gradient_acc", "frequent", "num_workers", "seed"]),
        VALUES,
        min_size=1,
    )
)
def test_nothing_is_dropped_in_silence(tmp_path_factory, given_values):
    path = tmp_path_factory.mktemp("any") / "any.py"
    lines = [f"config.{key} = {value if value == 'f()' else repr(value)}" for key, value in given_values.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    with suppress(ConfigError):  # a value that makes no sense is said, by other tests
        translation = translate(path)
        config_of(translation)
        places = set(re.findall(r"any\.py:\d+", translation.to_yaml()))
        for number, key in enumerate(given_values, start=1):
            means_nothing = given_values[key] is None and key in ("output", "vpl")
            assert means_nothing or f"any.py:{number}" in places, key


def test_secrets_and_text_that_would_break_out_of_a_comment_stay_out(made):
    source = (
        TODAY + 'config.wandb_key = "very-secret"\nconfig.network = "x\\n# y\\nseed: 3"\nconfig.own = "also-secret"\n'
    )
    translation = made(source)
    assert all(str(remark).isprintable() for remark in translation.to_fill_in)
    text = translation.to_yaml()
    assert "secret" not in text
    assert yaml.safe_load(text)["backbone"]["name"] == "x\n# y\nseed: 3"
    assert "seed" not in yaml.safe_load(text)
