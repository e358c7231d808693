"""Other memories than the last feature of a class, a file each."""

from vplface.prototypes.memories.borrowed import BorrowedSpread
from vplface.prototypes.memories.gaussian import Gaussian
from vplface.prototypes.memories.running_mean import RunningMean
from vplface.prototypes.memories.several import SeveralFeatures
from vplface.prototypes.memories.shuffled import ShuffledMemory
from vplface.prototypes.memories.von_mises_fisher import VonMisesFisher

__all__ = ["BorrowedSpread", "Gaussian", "RunningMean", "SeveralFeatures", "ShuffledMemory", "VonMisesFisher"]
