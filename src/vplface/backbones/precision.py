"""Full-precision context for the last layers of a backbone under autocast.

bfloat16 has three significant digits, and a logit is 64 times a cosine, so rounding the embedding would add noise.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast on ``device`` within the block; the meta device has no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
