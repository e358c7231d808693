"""Which margins, terms and options are refused together, by what each of them declares."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vplface import EPL, UNPG, XBM, AdaFace, ArcFace, BroadFace, PrototypeHead, SphereFace2, Variational
from vplface.terms.fit import bind_without_storage, require_fit
from vplface.terms.term import BoundTerm, Past


class _Rehearsal(BoundTerm):
    def past(self, batch):
        return Past(batch.features.detach(), batch.labels)


@dataclass(frozen=True)
class Rehearsal:
    """A term of a user's own that classifies past samples."""

    def bind(self, classes: int, dim: int) -> BoundTerm:
        return _Rehearsal()


@pytest.mark.parametrize(
    ("margin", "terms", "options", "message"),
    [
        (SphereFace2(), [], {"sample_rate": 0.5}, "SphereFace2 weights .* sample_rate"),
        (SphereFace2(), [], {"filter_bound": 0.1}, "filter_bound .* SphereFace2"),
        (SphereFace2(), [UNPG()], {}, "UNPG adds negatives .* SphereFace2"),
        (AdaFace(), [BroadFace()], {}, "BroadFace classifies past samples, whose norm and difficulty AdaFace"),
        (AdaFace(), [Rehearsal()], {}, "Rehearsal classifies past samples, whose norm and difficulty AdaFace"),
        (ArcFace(), [Rehearsal()], {"variational": True}, "Rehearsal classifies past samples, which variational"),
        (ArcFace(), [EPL()], {"subcenters": 2}, "EPL asks for the prototype"),
        (ArcFace(), [BroadFace()], {"subcenters": 3}, "BroadFace asks for .* 3 sub-centres"),
    ],
)
def test_require_fit_refuses_combinations_that_do_not_fit(margin, terms, options, message):
    bound = bind_without_storage(terms)
    assert all(tensor.is_meta for term in bound.values() for tensor in term.buffers())
    with pytest.raises(ValueError, match=message):
        require_fit(margin, bound, **options)


def test_require_fit_accepts_combinations_that_fit():
    bound = bind_without_storage([XBM(), UNPG(), EPL()])
    require_fit(AdaFace(), bound, sample_rate=0.5, variational=True)
    require_fit(ArcFace(), bind_without_storage([BroadFace(), Rehearsal()]), filter_bound=0.1)
    require_fit(SphereFace2(), bind_without_storage([XBM()]), subcenters=2)


def test_PrototypeHead_checks_the_needs_of_user_defined_terms():
    with pytest.raises(ValueError, match="Rehearsal"):
        PrototypeHead(3, 2, terms=[Rehearsal()], variational=Variational())
    head = PrototypeHead(3, 2, terms=[Rehearsal()])
    loss = head(torch.eye(2), torch.tensor([0, 2]))
    loss.backward()
    assert head.step_count == 1
