"""Where autocast ends: the last layers of a backbone run in the precision of their parameters.

bfloat16 has three significant digits; a logit is 64 times a cosine, so an embedding rounded to them is a noisy one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast on ``device`` (the meta device has none to begin with)."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
