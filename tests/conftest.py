"""Settings that hold for every test, and the faces that several share."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for programs that tests start side by side

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings

from helpers import shapes

shapes.install()

import vplface  # noqa: E402, F401 - switches telemetry off before test modules import other libraries
from helpers.processes import Processes  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests in several processes as slow: starting the processes takes seconds."""
    for item in items:
        if "processes" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of twelve people with four pictures each: a colour a person, and noise."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for person in range(12):
        (root / f"p{person}").mkdir()
        colour = rng.integers(0, 255, 3)
        for picture in range(4):
            pixels = np.clip(colour + rng.normal(0, 40, (112, 112, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / f"p{person}" / f"{picture}.png"), pixels)
    return root


@pytest.fixture(scope="session")
def processes():
    """Four processes that share classes."""
    pool = Processes(4)
    yield pool
    pool.close()
