"""Memory, traffic and checkpoints of training on many GPUs: arithmetic, without data and without a GPU."""

from vplface.footprint.count import footprint
from vplface.footprint.forecast import Forecast, forecast, lifetimes
from vplface.footprint.network_size import NetworkSize, network_of
from vplface.footprint.parts import Footprint
from vplface.footprint.run_size import RunSize

__all__ = ["Footprint", "Forecast", "NetworkSize", "RunSize", "footprint", "forecast", "lifetimes", "network_of"]
