"""Upper bounds of counts in recipes and options; larger values would exhaust memory or never finish."""

THREADS = 1024
PROCESSES = 1024
"""Number of parallel processes: loaders, workers, runs of a study."""
BATCH = 2**20
DIM = 2**16
"""Dimension of an embedding."""
SIZE = 2**24
"""Number of samples kept by a memory or a term."""
EACH = 1024
"""Number of parts of one class or batch: subcentres, remembered features, micro-batches."""
REPEATS = 100_000
"""Number of bootstrap resamples or rounds of a measurement."""
PAIRS = 10**7
PEOPLE = 10**7
"""Number of generated people."""
PICTURES = 10**5
"""Number of generated pictures per person."""
SEED = 2**62
LARGEST = 10**9
"""Magnitude of any other number in a recipe."""


def require_whole(**values: object) -> None:
    """Reject values that are not integers, and booleans: truncation would silently change a count.

    Args:
        values: values by name.

    Raises:
        ValueError: a value is not an integer; the first is named.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
