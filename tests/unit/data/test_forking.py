from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from vplface.data.forking import configure_worker, worker_processes


def blur(seed: int) -> bytes:
    """Enough work for OpenCV to share it between threads."""
    picture = np.random.default_rng(seed).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    return bytes(cv2.GaussianBlur(picture, (31, 31), 5).data)


def test_worker_processes_run_opencv_although_the_parent_has_opencv_threads() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        for _ in range(5):
            here = [blur(seed) for seed in range(4)]
            with worker_processes() as context, ProcessPoolExecutor(2, context, initializer=configure_worker) as pool:
                assert list(pool.map(blur, range(4), timeout=60)) == here
            assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)
