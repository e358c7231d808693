"""Guard for work that is to go on without the host: run on the meta device, where there is nothing to read."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class HostTraffic:
    """Copies between host and device; reads of a value, and indices for which the host waits, raise.

    Attributes:
        to_device: shapes of the tensors that were copied to the device.
        to_host: shapes of the tensors that were copied into memory of the host that there was before. No value arrives.
    """

    def __init__(self):
        self.to_device = []
        self.to_host = []


@contextmanager
def host_traffic():
    """Watch the work on the meta device inside the block."""
    traffic = HostTraffic()
    with _Made(traffic), _Dispatched(traffic):
        yield traffic


class _Made(TorchFunctionMode):
    """Tensors made of numbers of the host, which dispatch does not see."""

    def __init__(self, traffic):
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in ("__getitem__", "__setitem__") and args[0].device == DEVICE:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in parts):
                raise AssertionError("a list as an index is copied to the device")
        result = function(*args, **kwargs)
        if name in ("tensor", "as_tensor", "new_tensor") and result.device == DEVICE:
            self.traffic.to_device.append(tuple(result.shape))
        return result


class _Dispatched(TorchDispatchMode):
    """Copies, reads and indices. On the meta device reads raise by themselves."""

    def __init__(self, traffic):
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in INDEXED and args[0].device == DEVICE:
            for index in args[1]:
                if index is not None and (index.dtype == torch.bool or index.device != DEVICE):
                    raise AssertionError(f"{function} with a mask, or with an index in host memory")
        if function == torch.ops.aten._to_copy.default:
            source, to = args[0], torch.device(kwargs.get("device") or args[0].device)
            if source.device == DEVICE and to != DEVICE:
                raise AssertionError("a copy to host memory that the host waits for")
            if source.device != DEVICE and to == DEVICE:
                self.traffic.to_device.append(tuple(source.shape))
        if function == torch.ops.aten.copy_.default and args[0].device != args[1].device:
            (self.traffic.to_device if args[0].device == DEVICE else self.traffic.to_host).append(tuple(args[1].shape))
            return args[0]
        return function(*args, **kwargs)
