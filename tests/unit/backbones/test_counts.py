"""benchmarks/backbones.py: its counts against published and hand-computed ones, and against the table in the docs."""

from __future__ import annotations

import json
import re
import sys
from inspect import signature

import backbones as benchmark
import pytest
import torch

from helpers.paths import ROOT
from vplface.backbones import BACKBONES, build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "billions", "within"),
    [  # insightface, recognition/arcface_torch/README.md, in billions with as many digits
        ("iresnet100", 12.1, 0.05),
        ("vit_t", 1.5, 0.05),
        ("vit_s", 5.7, 0.05),
        ("vit_b", 11.4, 0.05),
        ("vit_l_dp005_mask_005", 25.3, 0.05),
    ],
)
def test_count_of_multiply_adds_matches_the_published_numbers(name, billions, within):
    assert benchmark.count(name)[1] / 1e9 == pytest.approx(billions, abs=within)


def test_count_of_mbf_with_simple_operations_matches_the_published_450_million():
    """As ptflops counts for insightface: two operations for each normalised value, one for each value of a PReLU."""
    with torch.device("meta"):
        backbone, numbers = build("mbf"), {torch.nn.BatchNorm2d: 0, torch.nn.PReLU: 0}
        for module in backbone.modules():
            if type(module) in numbers:
                module.register_forward_hook(lambda m, _i, y: numbers.update({type(m): numbers[type(m)] + y.numel()}))
        backbone.eval()(torch.empty(1, 3, 112, 112))
    simple = 2 * numbers[torch.nn.BatchNorm2d] + numbers[torch.nn.PReLU]
    assert (benchmark.count("mbf")[1] + simple) / 1e9 == pytest.approx(0.45, abs=0.005)


@pytest.mark.parametrize(("name", "width", "depth"), [("vit_t", 256, 12), ("vit_b", 512, 24)])
def test_count_of_a_vit_matches_a_count_by_hand(name, width, depth):
    patches = 144 * 3 * 9 * 9 * width
    linear_maps = 144 * (3 + 1 + 4 + 4) * width**2
    attention = 2 * 144**2 * width
    head = 144 * width**2 + width * 512
    assert benchmark.count(name)[1] == patches + depth * (linear_maps + attention) + head


def test_count_of_mobilefacenet_matches_a_count_by_hand():
    def bottleneck(side, into, inner, out, stride=1):
        return side**2 * into * inner + (side // stride) ** 2 * (9 * inner + inner * out)

    expected = 56**2 * (27 * 64 + 9 * 64)
    expected += bottleneck(56, 64, 128, 64, 2) + 4 * bottleneck(28, 64, 128, 64)
    expected += bottleneck(28, 64, 256, 128, 2) + 6 * bottleneck(14, 128, 256, 128)
    expected += bottleneck(14, 128, 512, 128, 2) + 2 * bottleneck(7, 128, 256, 128)
    expected += 7**2 * 128 * 512 + 7**2 * 512 + 512 * 128
    assert benchmark.count("mobilefacenet", 128)[1] == expected


@pytest.mark.slow
def test_count_agrees_with_the_table_of_every_backbone_in_the_docs():
    page = (ROOT / "docs" / "backbones.md").read_text("utf-8").split("## Available backbones")[1].split("## Options")[0]
    said = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+ M \| [\d.]+ G) \|", page, flags=re.MULTILINE))
    assert list(said) == list(BACKBONES)
    for name, counts in said.items():
        parameters, multiply_adds = benchmark.count(name)
        assert counts == f"{parameters / 1e6:.2f} M | {multiply_adds / 1e9:.2f} G", name


def test_BACKBONES_options_are_all_in_the_docs():
    page = (ROOT / "docs" / "backbones.md").read_text("utf-8").split("## Options")[1].split("## timm")[0]
    rows = {cells[1]: cells[2] for cells in (line.split("|") for line in page.splitlines() if line.startswith("| `"))}
    for name, make in BACKBONES.items():
        [options] = [
            said for names, said in rows.items() if any(name.startswith(n.rstrip("…")) for n in named(names, name))
        ]
        assert re.findall(r"`(\w+)` [\dt\[]", options.replace("`batch`", "t")) == [
            option for option in signature(make).parameters if option != "embedding_dim"
        ]


def named(cell, name):
    quoted = re.findall(r"`([^`]+)`", cell)
    return [each for each in quoted if each.endswith("…") or each == name]


def test_main_prints_counts_and_times_as_json_and_as_a_table(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["backbones.py", "tiny", "--rounds", "1", "--batch", "2", "--json"])
    benchmark.main()
    told = json.loads(capsys.readouterr().out)
    [row] = told["backbones"]
    assert (row["name"], row["parameters"]) == ("tiny", benchmark.count("tiny")[0])
    assert 0 < row["both"] < row["forward"] * 2
    monkeypatch.setattr(sys, "argv", ["backbones.py", "mbf", "--rounds", "0"])
    benchmark.main()
    assert capsys.readouterr().out.splitlines()[2] == "| `mbf` | 2.06 M | 0.44 G |"
