"""Feature drift: how far the embedding of the same pictures moves while training goes on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize


class FeatureDrift:
    """Mean ‖f_t(I) − f_{t−P}(I)‖² over a fixed set of pictures, f of unit length, P the steps between two measurements.

    Variational prototypes rest on it: a remembered feature stands for what the network would say now only while this is
    small. It lies in [0, 4]; 2 is what two unrelated embeddings give.

    Args:
        inputs: the fixed pictures, as the backbone takes them.

    Attributes:
        last: their features at the last measurement.
    """

    def __init__(self, inputs: Float[Tensor, "probe 3 height width"]) -> None:
        self.inputs = inputs
        self.last: Float[Tensor, "probe dim"] | None = None

    def measure(self, backbone: nn.Module) -> float | None:
        """The drift since the last measurement; None at the first one. The backbone's mode is left as it was."""
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            features = normalize(backbone(self.inputs).float(), dim=1)
        backbone.train(training)
        last, self.last = self.last, features
        return None if last is None else float((features - last).square().sum(dim=1).mean())
