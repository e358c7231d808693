import pytest
import yaml

from vplface.config import Duration, FinetuneConfig, build_config
from vplface.errors import ConfigError


def config(**finetune):
    return build_config({"name": "a", "data": {"train": "x"}, "finetune": finetune}, "test")


@pytest.mark.parametrize(
    ("freeze", "blocks", "names"),
    [
        (None, None, []),
        ("backbone", 0, []),
        ("all but the last block", 1, []),
        ("all but the last 3 blocks", 3, []),
        ("stem", None, ["stem"]),
        (["stem", "*.bias"], None, ["stem", "*.bias"]),
    ],
)
def test_FinetuneConfig_reads_freeze(freeze, blocks, names):
    found = FinetuneConfig(freeze=freeze)
    assert found.moving_blocks == blocks
    assert found.names == names


def test_FinetuneConfig_survives_the_file_of_a_run():
    chosen = config(freeze=["stem"], until="2 epochs", batchnorm="reestimate", layer_decay=0.7)
    assert chosen.finetune.until == Duration(2, "epochs")
    assert build_config(chosen.model_dump(mode="json"), "again") == chosen
    assert build_config(yaml.safe_load(chosen.to_yaml()), "again") == chosen
    assert "variational: null" in config().to_yaml()
    assert "finetune" not in config().to_yaml()


def test_Config_takes_null_for_no_finetune_and_no_ramps():
    raw = {"name": "a", "data": {"train": "x"}}
    assert build_config({**raw, "finetune": None, "ramps": None}, "test") == build_config(raw, "test")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freze": "stem"}, "unknown key 'finetune.freze'; did you mean 'freeze'"),
        ({"freeze": "all but last block"}, "finetune.freeze: must be 'backbone', 'all but the last block'"),
        ({"freeze": []}, "finetune.freeze: must hold the names"),
        ({"until": "2 epochs"}, "finetune: until says when frozen parameters begin to move; it needs freeze"),
        ({"batchnorm": "frozen"}, "finetune.batchnorm: .*did you mean 'freeze'"),
        ({"layer_decay": 0}, "finetune.layer_decay: .*greater than 0"),
        ({"layer_decay": 1.5}, "finetune.layer_decay: .*less than or equal to 1"),
    ],
)
def test_FinetuneConfig_names_the_key_at_fault(given, message):
    with pytest.raises(ConfigError, match=message):
        config(**given)
