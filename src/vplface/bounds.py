"""The largest counts that a recipe or an option may name: more would end the process, or never end."""

THREADS = 1024
PROCESSES = 1024
"""Processes that work side by side: loaders, workers, runs of a study."""
BATCH = 2**20
DIM = 2**16
"""Size of an embedding."""
SIZE = 2**24
"""Samples that a memory or a term keeps."""
EACH = 1024
"""Parts of one class or one batch: subcentres, features that are remembered, parts of a batch."""
REPEATS = 100_000
"""Resamples of a bootstrap, rounds of a measurement."""
PAIRS = 10**7
PEOPLE = 10**7
"""Generated people."""
PICTURES = 10**5
"""Generated pictures of a person."""
SEED = 2**62
LARGEST = 10**9
"""Any other number of a recipe, in magnitude."""


def require_whole(**values: object) -> None:
    """Refuse values that are not whole numbers, and booleans: truncating one would silently change a count.

    Args:
        values: by the name that the message gives them.

    Raises:
        ValueError: naming the first value that is not whole.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
