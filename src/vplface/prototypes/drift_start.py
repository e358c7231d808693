"""The rule that begins injection once feature drift has settled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DriftStartRule:
    """Injection begins when drift has settled: d(Δt) ≤ ``drift``·S in several measurements in a row.

    d(lag) = E‖f_t(I) − f_{t−lag}(I)‖² is the drift of the feature of a picture I over ``lag`` steps, and
    S = E‖f_t(I) − f_t(I')‖² the squared distance between two pictures I, I' of one class. Features have unit length.

    A remembered feature stands in for a sample of its class. If it drifts independently of the picture, its expected
    squared distance to the next sample is S + d in place of S. Drift is therefore measured relative to S. A small d
    alone does not suffice: early in training a network gives all pictures similar features, which move little, and yet
    a memory of them is of no use. At the default, d = S/4, features have moved by half the distance between two
    pictures (both as root mean squares).

    Attributes:
        drift: bound on d(Δt)/S; while Δt is not known, on d/S over one interval between measurements.
        measurements: number of measurements in a row in which it has to hold.
        by: fraction of the run after which injection begins in any case, with a warning that drift has not settled.

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
