"""Steps that several processes take wrongly; in a file of their own, for the processes import it."""

import os
import signal

from vplface.bench import train
from vplface.bench.head_arms import sharded


def without_update(setting, group, slices):
    step = sharded(setting, group, slices)
    if group is None:
        return step
    loss = step()
    return lambda: loss


def without_averaging(setting, group, slices):
    train.DistributedDataParallel = lambda network, process_group: network
    return train.training(setting, group, slices)


def killed(setting, group, slices):
    if group is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return sharded(setting, group, slices)
