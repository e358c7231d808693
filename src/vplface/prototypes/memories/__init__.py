"""Kinds of memory, which keep and inject features of each class, one file each."""

from vplface.prototypes.memories.borrowed import BorrowedSpread
from vplface.prototypes.memories.gaussian import Gaussian
from vplface.prototypes.memories.running_mean import RunningMean
from vplface.prototypes.memories.several import SeveralFeatures
from vplface.prototypes.memories.shuffled import ShuffledMemory
from vplface.prototypes.memories.von_mises_fisher import VonMisesFisher
from vplface.prototypes.memory import Memory
from vplface.prototypes.variational import LastFeature

__all__ = [
    "MEMORIES",
    "BorrowedSpread",
    "Gaussian",
    "LastFeature",
    "RunningMean",
    "SeveralFeatures",
    "ShuffledMemory",
    "VonMisesFisher",
]

MEMORIES: dict[str, type[Memory]] = {
    "last": LastFeature,
    "mean": RunningMean,
    "several": SeveralFeatures,
    "gaussian": Gaussian,
    "vmf": VonMisesFisher,
    "borrowed": BorrowedSpread,
    "shuffled": ShuffledMemory,
}
"""The kinds of memory by their names in recipes."""
