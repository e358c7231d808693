"""The backbone as the steps of a run call it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from vplface.training.distributed import DistributedContext
from vplface.training.run_state import RunState


def wrapped_network(run: RunState, context: DistributedContext) -> Any:
    """The backbone of a run, compiled and distributed as the run asks."""
    network: Any = torch.compile(run.backbone) if run.config.compile else run.backbone
    if context.group is None:
        return network
    if not any(parameter.requires_grad for parameter in run.backbone.parameters()):
        return network  # DistributedDataParallel refuses a network without gradients
    context.barrier()  # the first process has opened the run's outputs meanwhile; DDP waits only for a limited time
    # Batch statistics are those of rank 0, of the first slice of every batch.
    devices = [run.device] if run.device.type == "cuda" else None
    # Looking for unused parameters keeps DDP from regrouping its buckets after the first step, with which sums over
    # three or more ranks would round differently in a resumed run. On GPUs sums are not exact in any case.
    exact = run.device.type == "cpu"
    return DistributedDataParallel(
        network, device_ids=devices, process_group=context.group, find_unused_parameters=exact
    )
