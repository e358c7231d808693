"""Terms that alternatives to variational prototypes add to the loss, one file each."""

from vplface.terms.broadface import BroadFace
from vplface.terms.epl import EPL
from vplface.terms.term import Batch, BoundTerm, Past, Term
from vplface.terms.unitsface import UniTSFace
from vplface.terms.unpg import UNPG
from vplface.terms.xbm import XBM

__all__ = ["EPL", "TERMS", "UNPG", "XBM", "Batch", "BoundTerm", "BroadFace", "Past", "Term", "UniTSFace"]

TERMS: dict[str, type[Term]] = {"broadface": BroadFace, "epl": EPL, "unitsface": UniTSFace, "unpg": UNPG, "xbm": XBM}
"""The terms by their names in recipes."""
