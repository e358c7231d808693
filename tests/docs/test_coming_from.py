"""docs/coming-from.md: the recipe that it shows has the values of the arcface_torch configuration beside it."""

from __future__ import annotations

import math
import re

import yaml

from helpers.paths import ROOT
from vplface.config import Config, Duration, build_config
from vplface.margins import ArcFace

PAGE = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
THEIRS, _ = PAGE.split("\n## pytorch-metric-learning\n")


def test_coming_from_recipe_has_the_values_of_the_arcface_torch_configuration() -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", THEIRS, flags=re.MULTILINE | re.DOTALL)
    theirs = dict(re.findall(r"^config\.(\w+) = (.+)$", text, flags=re.MULTILINE))
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", THEIRS, flags=re.MULTILINE | re.DOTALL)
    config = build_config(yaml.safe_load(shown), "small_r50.yaml")
    assert config.margin == ArcFace(64, 0.5, margin_gradient="detached")
    assert config.backbone.name == "iresnet50"
    assert config.backbone.embedding_dim == int(theirs["embedding_size"])
    assert config.batch_size == 8 * int(theirs["batch_size"])
    assert math.isclose(config.optimizer.lr, float(theirs["lr"]))
    assert config.schedule.length == Duration(int(theirs["num_epoch"]), "epochs")
    assert config.schedule.warmup == Duration(int(theirs["warmup_epoch"]), "epochs")


def test_coming_from_table_of_keys_names_only_keys_of_Config() -> None:
    table = THEIRS[THEIRS.index("### Keys") : THEIRS.index("### Commands")]
    cells = re.findall(r"^\| .+? \| (.+?) \|", table, flags=re.MULTILINE)[1:]
    keys = [key for cell in cells for key in re.findall(r"`([a-z_.]+)`", cell)]
    assert len(keys) > 20
    assert [key for key in keys if key.split(".")[0] not in Config.model_fields] == []
