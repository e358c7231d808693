"""IJB-B and IJB-C: templates, each a person's set of media, compared one to one and one to many.

Pooling. With x_f the embedding of face f, m(f) its medium and s_f its weight, a template is

    t = Σ_media mean_{f: m(f) = medium} s_f·x_f,      then t / ‖t‖

so that a video counts as much as a still, however many frames of it there are. Three flags decide what is summed:

| flag | 1 | 0 |
|---|---|---|
| N | x_f keeps its norm | x_f is brought to unit norm first |
| D | s_f is the detector's score | s_f is 1 |
| F | x_f is f(x) + f(mirrored x) | x_f is f(x) |

The same model differs by half a percent between them: figures of different flags must not be compared.

One to one: TAR at FAR on the set's pairs of templates. One to many: every probe in each of two galleries. A probe
has a mate in one of them and none in the other, and all figures are means of the two.

Intervals: people are drawn with replacement. One to one, a pair of templates of a and b weighs c_a·c_b and one of a
alone c_a, and people are those whom the genuine pairs connect. One to many, a probe weighs its subject's count and the
galleries stay.
"""

from __future__ import annotations

from vplface.evaluation.templates.one_to_many import FPIRS, RANKS, evaluate_one_to_many
from vplface.evaluation.templates.one_to_one import FARS, cosines_of_pairs, evaluate_template_pairs
from vplface.evaluation.templates.pooling import Flags, Templates, pool

__all__ = [
    "FARS",
    "FPIRS",
    "RANKS",
    "Flags",
    "Templates",
    "cosines_of_pairs",
    "evaluate_one_to_many",
    "evaluate_template_pairs",
    "pool",
]
