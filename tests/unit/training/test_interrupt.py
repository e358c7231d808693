from types import SimpleNamespace

from vplface.training.distributed import DistributedContext
from vplface.training.interrupt import Interrupt, SharedInterrupt


class Sums:
    """Sums over processes that live in one: each can be asked for when all of them have begun it."""

    def __init__(self, processes):
        self.begun = [[] for _ in range(processes)]
        self.over = False

    def context(self, rank):
        def begin_sum(numbers):
            turn = len(self.begun[rank])
            self.begun[rank].append(numbers)

            def wait():
                assert len(self.begun[rank]) > turn + 1 or self.over, (
                    "nobody waits for a sum in the step that begins it"
                )
                return [sum(column) for column in zip(*(each[turn] for each in self.begun), strict=True)]

            return SimpleNamespace(wait=wait)

        return SimpleNamespace(group=self, begin_sum=begin_sum)


def test_SharedInterrupt_of_one_process_stops_after_the_step_of_the_signal():
    own = Interrupt()
    shared = SharedInterrupt(own, DistributedContext())
    shared.update()
    assert not shared.requested
    own.requested = own.preempted = True
    shared.update()
    assert shared.requested
    assert shared.preempted
    shared.finish()


def test_SharedInterrupt_stops_all_processes_after_the_same_step():
    sums, own = Sums(3), [Interrupt() for _ in range(3)]
    shared = [SharedInterrupt(each, sums.context(rank)) for rank, each in enumerate(own)]
    requested = []
    for step in range(1, 5):
        if step == 2:
            own[1].requested = True
        for each in shared:
            each.update()
        requested.append([each.requested for each in shared])
    assert requested == [[False] * 3, [False] * 3, [True] * 3, [True] * 3]
    assert not any(each.preempted for each in shared)
    sums.over = True
    for each in shared:
        each.finish()
