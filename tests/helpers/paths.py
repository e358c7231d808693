"""Where the files of the project are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
"""Real faces and other inputs that are not part of the project; absent on most machines."""
