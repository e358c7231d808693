"""Verification in one call: on a list of pairs or on all pairs, by a model or by existing embeddings."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from jaxtyping import Float

from vplface.data.pairs import Pairs
from vplface.data.pictures import PictureSet
from vplface.embedder import Embedder, Flip
from vplface.evaluation.options import EvalKeywords, EvalOptions
from vplface.evaluation.result import Evaluation
from vplface.evaluation.task import VerificationTask


def evaluate_pairs(
    embedder: Embedder,
    pictures: PictureSet,
    pairs: Pairs,
    *,
    name: str = "pairs",
    threshold_pairs: Pairs | None = None,
    flip: Flip = "sum",
    workers: int = 0,
    **options: Unpack[EvalKeywords],
) -> Evaluation:
    """Verification on a list of pairs; only the pictures that the pairs name are embedded.

    The accuracy is called ``"accuracy"`` only where the threshold was chosen on other pairs: on ``threshold_pairs``
    if they are given (LFW View 1), or else on the other folds of the list. A list in one fold without
    ``threshold_pairs`` gives ``"accuracy@best_threshold"``, which is biased upwards.

    Args:
        embedder: the model.
        pictures: where the pairs' pictures are.
        pairs: the list.
        name: of the evaluation.
        threshold_pairs: pairs, of other people, to choose the threshold on.
        flip: whether the embedding of the mirrored picture is added.
        workers: processes that decode pictures.
        options: the other fields of :class:`vplface.evaluation.EvalOptions`, as keywords.

    Raises:
        DataError: pictures that are missing or cannot be read, embeddings that are zero or not finite, pairs all of
            one kind, or folds that cannot be averaged (:func:`vplface.evaluation.protocols.check_folds`).
    """
    task = VerificationTask(name, pictures, pairs, threshold_pairs)
    return task.evaluate(task.embed(embedder, flip, workers), EvalOptions(flip=flip, **options))


def evaluate_pairs_embedded(
    embeddings: Float[np.ndarray, "n dim"],
    pictures: PictureSet,
    pairs: Pairs,
    *,
    name: str = "pairs",
    threshold_pairs: Pairs | None = None,
    flip: Flip | None,
    **options: Unpack[EvalKeywords],
) -> Evaluation:
    """:func:`evaluate_pairs` on embeddings of the whole set.

    Rows of pictures that no pair names may hold anything; ``flip`` says how the embeddings were made, None that this
    is not known.
    """
    task = VerificationTask(name, pictures, pairs, threshold_pairs)
    return task.evaluate(embeddings, EvalOptions(flip=flip, **options))


def evaluate_all_pairs(
    embedder: Embedder,
    pictures: PictureSet,
    *,
    name: str = "all pairs",
    flip: Flip = "sum",
    workers: int = 0,
    **options: Unpack[EvalKeywords],
) -> Evaluation:
    """Every picture of a set against every other: TAR at low FAR, where a list of pairs has too few impostors.

    ``"rank-1"`` is the share of pictures whose nearest other picture shows the same person, among those whose person
    has another; a tie of the two kinds counts as wrong. Its replicates resample the people searched for, not
    those among whom they are searched for.

    Args:
        embedder: the model.
        pictures: the people.
        name: of the evaluation.
        flip: whether the embedding of the mirrored picture is added.
        workers: processes that decode pictures.
        options: the other fields of :class:`vplface.evaluation.EvalOptions`, as keywords.

    Raises:
        DataError: pictures that cannot be read, embeddings that are zero or not finite, or no pairs of one kind.
    """
    task = VerificationTask(name, pictures)
    return task.evaluate(task.embed(embedder, flip, workers), EvalOptions(flip=flip, **options))


def evaluate_all_pairs_embedded(
    embeddings: Float[np.ndarray, "n dim"],
    pictures: PictureSet,
    *,
    name: str = "all pairs",
    flip: Flip | None,
    **options: Unpack[EvalKeywords],
) -> Evaluation:
    """:func:`evaluate_all_pairs` on embeddings of the whole set; ``flip`` says how they were made, None: not known."""
    return VerificationTask(name, pictures).evaluate(embeddings, EvalOptions(flip=flip, **options))
