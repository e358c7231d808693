"""Memory, traffic, checkpoints and operations of training on many GPUs: arithmetic, without data and without a GPU."""

from vplface.footprint.count import footprint
from vplface.footprint.forecast import Forecast, forecast, lifetimes
from vplface.footprint.network_size import InferenceSize, NetworkSize, inference_of, network_of
from vplface.footprint.operations import operation_counter
from vplface.footprint.parts import Footprint
from vplface.footprint.run_size import RunSize

__all__ = [
    "Footprint",
    "Forecast",
    "InferenceSize",
    "NetworkSize",
    "RunSize",
    "footprint",
    "forecast",
    "inference_of",
    "lifetimes",
    "network_of",
    "operation_counter",
]
