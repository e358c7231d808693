"""The rule that begins injection once feature drift has settled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DriftStartRule:
    """Injection begins when features hold still: when d(Δt) ≤ ``drift``·S in several measurements in a row.

    d(lag) = E‖f_t(I) − f_{t−lag}(I)‖² is what age does to a memory, S = E‖f_t(I) − f_t(I')‖² the distance of two
    pictures I, I' of one class; all features have unit length. A remembered feature stands in for a draw from its
    class. Where drift knows nothing of the picture, it is off the next one by S + d instead of S. So drift counts in
    parts of S, and not by itself: a network that has not learned yet says nearly the same of everything, moves little,
    and still forgets all. At d = S/4, the default, features have moved by half the distance between two pictures (both
    as root mean squares): a memory is still nearer to what the network says of its own picture now than to what it says
    of any other at that distance.

    Attributes:
        drift: bound on d(Δt)/S; over d of one interval between measurements while Δt is not known.
        measurements: in how many measurements in a row it has to hold.
        by: share of the run after which injection begins in any case, and says that features had not settled.

    Raises:
        ValueError: if a value lies outside its range.
    """

    drift: float = 0.25
    measurements: int = 3
    by: float = 0.5

    def __post_init__(self) -> None:
        if not self.drift > 0.0:
            raise ValueError(f"drift must be positive, got {self.drift}")
        if self.measurements < 1:
            raise ValueError(f"measurements must be at least 1, got {self.measurements}")
        if not 0.0 < self.by <= 1.0:
            raise ValueError(f"by must be a share of the run in (0, 1], got {self.by}")
