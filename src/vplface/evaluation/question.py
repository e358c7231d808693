"""What is asked of models: some pairs of pictures, or all pairs of a set; opened once, put to one model after another.

A question is put to embeddings. Those of a model are made for it, with only the pictures that it asks about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64

from vplface.data.formats import open_pictures
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import Pairs, resolve
from vplface.data.people import read_people
from vplface.data.pictures import PictureSet
from vplface.data.selection import narrow
from vplface.embedder import Embedder, Flip
from vplface.errors import UsageError
from vplface.evaluation.groups import Groups
from vplface.evaluation.protocols import evaluate_all_pairs_embedded, evaluate_pairs_embedded
from vplface.evaluation.result import Evaluation
from vplface.evaluation.tar_at_far import FarRule
from vplface.evaluation.verification import Protocol


@dataclass(frozen=True)
class Question:
    """A list of pairs of some pictures, or all their pairs.

    Attributes:
        name: of the evaluation.
        pictures: the set.
        pairs: the list; None for all pairs.
        threshold_pairs: pairs to choose the threshold on; None for none.
    """

    name: str
    pictures: PictureSet
    pairs: Pairs | None = None
    threshold_pairs: Pairs | None = None

    @property
    def used(self) -> Int64[np.ndarray, " m"]:
        """The pictures that are asked about."""
        lists = [part for part in (self.pairs, self.threshold_pairs) if part is not None]
        if not lists:
            return np.arange(len(self.pictures))
        return np.unique(np.concatenate([index for part in lists for index in resolve(part, self.pictures)]))

    def embed(self, embedder: Embedder, flip: Flip, workers: int = 0) -> Float32[np.ndarray, "n dim"]:
        """A model's embeddings of the pictures that are asked about; rows of others are NaN."""
        used = self.used
        embeddings = np.full((len(self.pictures), embedder.dim), np.nan, np.float32)
        embeddings[used] = embedder.embed_set(
            self.pictures, used, flip=flip, workers=workers, description=f"embedding for {self.name}"
        )
        return embeddings

    def put(
        self,
        embeddings: Float[np.ndarray, "n dim"],
        *,
        flip: Flip | None,
        fars: Sequence[float],
        fmrs: Sequence[float],
        protocol: Protocol,
        far_rule: FarRule,
        bootstrap: int,
        groups: Groups | None,
    ) -> Evaluation:
        """Ask it; see :func:`vplface.evaluation.evaluate_pairs_embedded`."""
        if self.pairs is None:
            return evaluate_all_pairs_embedded(
                embeddings,
                self.pictures,
                name=self.name,
                flip=flip,
                fars=fars,
                fmrs=fmrs,
                far_rule=far_rule,
                bootstrap=bootstrap,
                groups=groups,
            )
        return evaluate_pairs_embedded(
            embeddings,
            self.pictures,
            self.pairs,
            name=self.name,
            threshold_pairs=self.threshold_pairs,
            flip=flip,
            fars=fars,
            fmrs=fmrs,
            protocol=protocol,
            far_rule=far_rule,
            bootstrap=bootstrap,
            groups=groups,
        )


def open_question(
    data: Path, pairs: Path | None = None, threshold_pairs: Path | None = None, people: Path | None = None
) -> Question:
    """The question that files pose.

    Args:
        data: the pictures, in any form that :func:`vplface.data.formats.open_pictures` takes. A verification set
            (``.bin``) brings its pairs along, which are asked where neither ``pairs`` nor ``people`` is given.
        pairs: a list of pairs.
        threshold_pairs: pairs to choose the threshold on.
        people: a list of people, all of whose pictures are compared.

    Raises:
        UsageError: neither pairs nor people, or both, or threshold pairs for all pairs of people.
        DataError: a file at fault.
    """
    if people is not None and (pairs is not None or threshold_pairs is not None):
        raise UsageError("people are compared by all their pairs: give no pairs and no threshold pairs with them")
    pictures: PictureSet = open_pictures(data)
    if people is not None:
        return Question(f"{people.stem}, all pairs", narrow(pictures, read_people(people), where=data))
    asked = getattr(pictures, "pairs", None) if pairs is None else read_pairs(pairs)
    if not isinstance(asked, Pairs):
        raise UsageError(
            f"give either --pairs (a list of pairs) or --people (a list of people, all their pairs); {data} brings no "
            "pairs along"
        )
    name = data.stem if pairs is None else pairs.stem
    return Question(name, pictures, asked, None if threshold_pairs is None else read_pairs(threshold_pairs))
