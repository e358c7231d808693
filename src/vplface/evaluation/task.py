"""A verification task: pairs of pictures of a set, opened once and given to one model after another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64

from vplface.data.degrade import Degradation, DegradedPictures
from vplface.data.formats import open_pictures
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import Pairs
from vplface.data.people import read_people
from vplface.data.pictures import PictureSet, StoredPictures
from vplface.data.selection import Subset, narrow
from vplface.embedder import Embedder, Flip
from vplface.errors import UsageError
from vplface.evaluation.options import EvalOptions
from vplface.evaluation.protocols import ResolvedPairs, evaluate_every_pair, evaluate_pair_list
from vplface.evaluation.result import Evaluation


@dataclass(frozen=True, eq=False)
class VerificationTask:
    """A list of pairs of some pictures, or all their pairs.

    Attributes:
        name: of the evaluation.
        pictures: the set.
        pairs: the list; None for all pairs.
        threshold_pairs: pairs to choose the threshold on; None for none.
        chosen: where all pairs are compared, the positions of the pictures that are, rising; None for all pictures.
        stored: the set on disk that the pictures are of, if any.
    """

    name: str
    pictures: PictureSet
    pairs: Pairs | None = None
    threshold_pairs: Pairs | None = None
    chosen: Int64[np.ndarray, " m"] | None = None
    stored: StoredPictures | None = None

    @cached_property
    def used(self) -> Int64[np.ndarray, " m"]:
        """The positions of the pictures that are compared; raises DataError for pairs of pictures not in the set."""
        if self.pairs is None:
            return np.arange(len(self.pictures)) if self.chosen is None else self.chosen
        lists = [part for part in self._resolved if part is not None]
        return np.unique(np.concatenate([index for part in lists for index in (part.left, part.right)]))

    def with_degraded(self, degradation: Degradation) -> VerificationTask:
        """The task on degraded pictures.

        With ``probes`` the second picture of each pair of a list is its probe; where all pairs are compared, all
        pictures of a person but one are.
        """
        if self.pairs is None:
            degraded = DegradedPictures.of_all_pairs(self.pictures, degradation, self.chosen)
        else:
            degraded = DegradedPictures.of_pairs(self.pictures, degradation)
        return replace(self, pictures=degraded)

    def embed(
        self,
        embedder: Embedder,
        flip: Flip,
        workers: int = 0,
        clean: Float32[np.ndarray, "m dim"] | None = None,
        unit: bool = True,
    ) -> Float32[np.ndarray, "n dim"]:
        """A model's embeddings of the pictures that are compared; rows of others are NaN.

        Args:
            embedder: the model.
            flip: whether the embedding of the mirrored picture is added.
            workers: processes that decode pictures.
            clean: embeddings of the clean set of degraded pictures, which are then not computed again.
            unit: whether to scale them to unit norm.
        """
        known = None
        used = self.used
        if clean is not None and isinstance(self.pictures, DegradedPictures):
            known = clean[self.pictures.places]
            used = used[self.pictures.degraded[used]]
        some = embedder.embed_set(
            self.pictures, used, flip=flip, workers=workers, description=f"embedding for {self.name}", unit=unit
        )
        embeddings = np.full((len(self.pictures), some.shape[1]), np.nan, np.float32) if known is None else known
        embeddings[used] = some
        return embeddings

    def evaluate(self, embeddings: Float[np.ndarray, "n dim"], options: EvalOptions) -> Evaluation:
        """Measure a model by its embeddings of the whole set; rows of pictures not compared may hold anything.

        The groups of the options are those of the clean set, where pictures are degraded.

        Raises:
            DataError: see :func:`vplface.evaluation.evaluate_pairs`.
        """
        if not isinstance(self.pictures, DegradedPictures):
            return self._evaluate(embeddings, options)
        if (groups := options.groups) is not None:
            options = replace(options, groups=groups.at(self.pictures.places))
        evaluation = self._evaluate(embeddings, options)
        degradation = self.pictures.degradation.to_dict()
        degraded = degradation | {"pictures": int(self.pictures.degraded[self.used].sum())}
        question = f"{evaluation.fingerprint}\n{json.dumps(degradation)}"
        return replace(
            evaluation,
            protocol={**evaluation.protocol, "degrade": degraded},
            fingerprint=hashlib.sha256(question.encode()).hexdigest()[:32],
        )

    def _evaluate(self, embeddings: Float[np.ndarray, "n dim"], options: EvalOptions) -> Evaluation:
        listed, threshold_pairs = self._resolved
        if listed is not None:
            return evaluate_pair_list(embeddings, listed, threshold_pairs, self.name, options)
        if self.chosen is None:
            return evaluate_every_pair(embeddings, self.pictures, self.name, options)
        chosen: PictureSet
        if isinstance(self.pictures, DegradedPictures):
            chosen = self.pictures.only(self.chosen)
        else:
            chosen = Subset(self.pictures, self.chosen)
        if options.quality is not None:
            options = replace(options, quality=options.quality.at(self.chosen))
        return evaluate_every_pair(embeddings[self.chosen], chosen, self.name, options)

    @cached_property
    def _resolved(self) -> tuple[ResolvedPairs | None, ResolvedPairs | None]:
        """The pairs and the threshold pairs."""
        first, second = (
            None if pairs is None else ResolvedPairs.of(pairs, self.pictures)
            for pairs in (self.pairs, self.threshold_pairs)
        )
        return first, second


def own_pairs(pictures: PictureSet) -> Pairs | None:
    """The pairs that a verification set (``.bin``) contains; None for other sets."""
    pairs = getattr(pictures, "pairs", None)
    return pairs if isinstance(pairs, Pairs) else None


def open_task(
    data: Path, pairs: Path | None = None, threshold_pairs: Path | None = None, people: Path | None = None
) -> VerificationTask:
    """The task that files describe.

    Args:
        data: the pictures, in any form that :func:`vplface.data.formats.open_pictures` takes. A verification set
            (``.bin``) contains its pairs, which are used if neither ``pairs`` nor ``people`` is given.
        pairs: a list of pairs.
        threshold_pairs: pairs to choose the threshold on.
        people: a list of people, all of whose pictures are compared.

    Raises:
        UsageError: neither pairs nor people, or both, or threshold pairs for all pairs of people.
        DataError: a file is missing or damaged.
    """
    if people is not None and (pairs is not None or threshold_pairs is not None):
        raise UsageError("people are compared by all their pairs: give no pairs and no threshold pairs with them")
    stored = open_pictures(data)
    if people is not None:
        chosen = narrow(stored, read_people(people), where=data)
        return VerificationTask(f"{people.stem}, all pairs", chosen, stored=stored)
    listed = own_pairs(stored) if pairs is None else read_pairs(pairs)
    if listed is None:
        raise UsageError(
            f"give either --pairs (a list of pairs) or --people (a list of people, all their pairs); {data} contains "
            "no pairs"
        )
    name = data.stem if pairs is None else pairs.stem
    thresholds = None if threshold_pairs is None else read_pairs(threshold_pairs)
    return VerificationTask(name, stored, listed, thresholds, stored=stored)
