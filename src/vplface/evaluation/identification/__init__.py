"""Identification: rank-k, open set and TAR at FAR of probes against a gallery of known people and distractors.

Closed set, rank k: the share of mates that fewer than k rivals come before. A **mate** of a probe is a gallery picture
of the same person, a **rival** anything else that it is compared with. Two ways of counting:

- ``"best"``: a probe counts once, by its most similar mate, against all other people of the gallery and the distractors
  (TinyFace, IJB, people's own lists);
- ``"each"``: every pair of a probe and a mate counts, against the distractors alone, as though that mate were the
  only other picture in the gallery (MegaFace).

Open set, TPIR at FPIR: the threshold is such that at most that share of the probes without a mate have any similarity
at or above it. The rate is the share of the probes with a mate whose mate comes first and reaches the threshold. It is
the DIR at FAR of Phillips, Grother and Micheals (Handbook of Face Recognition, 2011, chapter 21).

A rival as similar as the mate, or less similar by rounding alone, comes before it: a model that maps all faces to one
point identifies nobody.

Intervals: the people on the probes are drawn with replacement, and the gallery stays the same. With c_a the number of
times that person a was drawn, every probe of a weighs c_a.
"""

from __future__ import annotations

from vplface.evaluation.identification.closed_set import GalleryMiss, closed_set, gallery_misses
from vplface.evaluation.identification.comparison import DEPTH, Comparison, Mates, Ranking
from vplface.evaluation.identification.evaluate import LabelledEmbeddings, evaluate_identification
from vplface.evaluation.identification.open_set import OpenSet, open_set
from vplface.evaluation.identification.options import IdentificationOptions
from vplface.evaluation.identification.templates import (
    TemplateKind,
    evaluate_templates,
    person_templates,
    split_people,
)

__all__ = [
    "DEPTH",
    "Comparison",
    "GalleryMiss",
    "IdentificationOptions",
    "LabelledEmbeddings",
    "Mates",
    "OpenSet",
    "Ranking",
    "TemplateKind",
    "closed_set",
    "evaluate_identification",
    "evaluate_templates",
    "gallery_misses",
    "open_set",
    "person_templates",
    "split_people",
]
