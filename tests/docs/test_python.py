"""Every Python block of the documentation runs, a page from top to bottom in one namespace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.pages import PAGES, blocks
from helpers.painted import landmarks, photograph

NOT_RUN = {
    ("coming-from.md", 0): "a configuration of arcface_torch, which needs easydict",
    ("deploy.md", 1): "needs insightface; tests/integration/peers loads what is exported in an environment of its own",
    ("deploy.md", 2): "needs the network; tests/integration/test_hub.py serves a repository",
    ("galleries.md", 1): "needs lancedb, which is large",
}
"""Blocks that are compiled and no more, and why."""


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 3, 4, 4), torch.arange(8)


def loop() -> dict[str, Any]:
    """What a training loop has before the head comes into it."""
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 512))
    pictures, labels = batch()
    return {"num_classes": 10, "backbone": backbone, "pictures": pictures, "labels": labels}


def own_loop() -> dict[str, Any]:
    probe_pictures, probe_labels = batch()
    names = {"batches": [batch(), batch()], "parts": [batch(), batch()], "steps": 2}
    return loop() | names | {"probe_pictures": probe_pictures, "probe_labels": probe_labels // 2}


def somebody_elses_loss() -> dict[str, Any]:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="needs vplface[metric-learning]")
    return loop() | {"loss_func": losses.ArcFaceLoss(10, 512)}


def somebody_elses_loop() -> dict[str, Any]:
    pytest.importorskip("pytorch_metric_learning", reason="needs vplface[metric-learning]")
    return loop() | {"embeddings": torch.randn(8, 512, requires_grad=True)}


def no_names() -> dict[str, Any]:
    pytest.importorskip("pytorch_metric_learning", reason="needs vplface[metric-learning]")
    return {}


NAMES: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": somebody_elses_loss,
    "api.md": own_loop,
    "coming-from.md": no_names,
    "data.md": lambda: {"picture": photograph(landmarks())},
    "deploy.md": lambda: {"rgb": torch.randint(256, (2, 112, 112, 3), dtype=torch.uint8).numpy()},
    "losses.md": loop,
    "plug.md": somebody_elses_loop,
}
"""Names that a page takes for granted, and what stands for them here."""

FILES: dict[str, list[list[str]]] = {
    "demo.md": [["enroll", "people", "photos", "--model", "runs/mine/best"]],
    "galleries.md": [["enroll", "people", "photos", "--model", "runs/mine/best"]],
}
"""Commands that make files which the blocks of a page read; others are on the desk."""


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_pages_python_blocks_run_in_order(page: Path, desk: Path) -> None:
    from typer.testing import CliRunner

    from vplface.cli.app import app

    torch.manual_seed(0)
    names = NAMES.get(page.name, dict)()
    for words in FILES.get(page.name, []):
        assert CliRunner().invoke(app, words).exit_code == 0
    for number, block in enumerate(blocks(page, "python")):
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        if (page.name, number) not in NOT_RUN:
            exec(code, names)


def test_NOT_RUN_NAMES_and_FILES_refer_to_blocks_on_the_pages() -> None:
    written = {page.name: blocks(page, "python") for page in PAGES}
    assert all(number < len(written[name]) for name, number in NOT_RUN)
    assert {name for name, found in written.items() if found} >= NAMES.keys() | FILES.keys()
