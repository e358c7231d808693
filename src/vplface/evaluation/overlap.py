"""Training identities that are probably people of the test set, which makes its figures meaningless.

Sets name people differently, so faces are compared by a model: embed all pictures, let the similarity of two identities
be the cosine of their mean embeddings, and flag a training identity whose similarity to a test identity reaches a
threshold. The threshold comes from the test set itself, whose identities are different people: it is so high that few
of them would be flagged against the others, and the same rate, times the number of training identities, is the expected
number of false flags. Identities of one name are flagged regardless of their faces: some may be namesakes, but omitting
a few more people costs little.

Why means: their cosine hardly depends on the number of pictures, so a threshold measured on a test set with one or two
pictures for each person holds for a training set with twenty; the highest cosine of any two pictures grows with their
number. At a threshold meant to flag 5 % of strangers against the 1,711 people of LFW's development test set, means flag
5 % of 430 people of its development training set and 2 % of 253 people of CelebA, the highest cosine 9 % and 19 %. At
1 %, both find 98 to 99 % of those 430 people by a single picture put into the test set (means 425 of them, the highest
cosine 423). Means are also a hundred times cheaper, and a stray picture of another person moves them little.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from vplface.data.pictures import PictureSet
from vplface.embedder import Embedder
from vplface.errors import DataError
from vplface.evaluation.verification import between
from vplface.files import PRIVATE, replacing

FALSE_FLAG_RATE = 0.01
"""Share of training identities that may be flagged wrongly; losing so few costs little."""

_BLOCK_ELEMENTS = 1 << 22
"""The number of cosines that are held at once."""


@dataclass(frozen=True)
class Match:
    """A training identity and a test identity that are probably one person.

    Attributes:
        train: name of the training identity.
        test: name of the test identity.
        similarity: cosine of their mean embeddings.
        train_picture: the training picture of the most similar pair of pictures.
        test_picture: the test picture of that pair.
        picture_similarity: cosine of that pair.
        train_index: position of ``train_picture`` in its set.
        test_index: position of ``test_picture`` in its set.
    """

    train: str
    test: str
    similarity: float
    train_picture: str
    test_picture: str
    picture_similarity: float
    train_index: int
    test_index: int


@dataclass(frozen=True)
class Overlap:
    """The result of an audit.

    Attributes:
        matches: pairs of identities at or above the threshold, the most similar first.
        same_names: pairs of identities of one name (:func:`spelling`), the least similar, which are doubtful, first.
        threshold: cosine similarity.
        nearest_below: the highest similarity that is not flagged; None if all are. A wide gap above it is a good sign.
        false_flag_rate: estimated probability that a training identity that is not in the test set is flagged.
        train_identities: number of training identities.
        test_identities: number of test identities.
    """

    matches: list[Match]
    same_names: list[Match]
    threshold: float
    nearest_below: float | None
    false_flag_rate: float
    train_identities: int
    test_identities: int

    @property
    def flagged(self) -> list[str]:
        """The training identities to leave out, each once, the most similar first, those flagged only by name last."""
        return list(dict.fromkeys(match.train for match in (*self.matches, *reversed(self.same_names))))

    @property
    def by_name_alone(self) -> list[Match]:
        """The entries of ``same_names`` whose training identity is in no match."""
        by_face = {match.train for match in self.matches}
        return [match for match in self.same_names if match.train not in by_face]

    @property
    def expected_false_flags(self) -> float:
        """Number of training identities that would be flagged by their faces if there were no overlap."""
        return self.false_flag_rate * self.train_identities

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON-ready values."""
        return {
            "threshold": self.threshold,
            "nearest_below": self.nearest_below,
            "false_flag_rate": self.false_flag_rate,
            "expected_false_flags": self.expected_false_flags,
            "train_identities": self.train_identities,
            "test_identities": self.test_identities,
            "flagged": self.flagged,
            "matches": [asdict(match) for match in self.matches],
            "same_names": [asdict(match) for match in self.same_names],
        }


def find_overlap(
    train: PictureSet,
    test: PictureSet,
    embedder: Embedder,
    *,
    threshold: float | None = None,
    false_flag_rate: float = FALSE_FLAG_RATE,
    batch_size: int = 128,
    workers: int = 0,
) -> Overlap:
    """Compare every training identity with every test identity.

    Args:
        train: the training set.
        test: the test set; its identities are taken to be different people.
        embedder: a model that was neither trained nor tested on these sets; a better model finds more. A model
            trained on ``train`` separates its identities from everything it has seen and finds few.
        threshold: the lowest similarity that is flagged; None for the one of :func:`choose_threshold`.
        false_flag_rate: for :func:`choose_threshold`.
        batch_size: pictures per forward pass.
        workers: processes that decode pictures; 0 for this one.

    Raises:
        DataError: fewer than two test identities, or a picture that cannot be read or embedded; it is named.
        ValueError: a false flag rate that is not between 0 and 1.
    """
    if len(test.identities) < 2:
        raise DataError(
            f"the test set has {len(test.identities)} identity; at least two are needed, because the threshold comes "
            "from the similarity of different people of the test set"
        )
    tested = _Identities(test, embedder.embed_set(test, None, "sum", batch_size, workers, "embedding the test set"))
    trained = _Identities(
        train, embedder.embed_set(train, None, "sum", batch_size, workers, "embedding the training set")
    )
    among_test = _nearest_other(tested.means)
    if threshold is None:
        threshold = choose_threshold(among_test, false_flag_rate)
    matches: list[Match] = []
    below = -math.inf
    for first, block in _cosines(trained.means, tested.means):
        flagged = block >= threshold
        below = max(below, float(block[~flagged].max(initial=-math.inf)))
        matches += [_match(trained, tested, first + i, j, float(block[i, j])) for i, j in np.argwhere(flagged).tolist()]
    matches.sort(key=lambda match: -match.similarity)
    named = [
        _match(trained, tested, i, j, float(trained.means[i] @ tested.means[j])) for i, j in same_names(train, test)
    ]
    named.sort(key=lambda match: match.similarity)
    return Overlap(
        matches,
        named,
        threshold,
        below if math.isfinite(below) else None,
        estimated_rate(among_test, threshold),
        len(train.identities),
        len(test.identities),
    )


def same_names(train: PictureSet, test: PictureSet) -> list[tuple[int, int]]:
    """Pairs of a training and a test label whose identities have one name, of identities with pictures."""
    test_labels: dict[str, list[int]] = {}
    for label in np.unique(test.labels).tolist():
        test_labels.setdefault(spelling(test.identities[label]), []).append(label)
    return [
        (label, other)
        for label in np.unique(train.labels).tolist()
        if (name := spelling(train.identities[label]))
        for other in test_labels.get(name, ())
    ]


def spelling(name: str) -> str:
    """A name without the differences of spelling: case, accents, separators of its words, and their order.

    "Núñez, Ana_María" and "ana maria nunez" have one spelling. A name with a digit is a number and identifies nobody:
    its spelling is empty.
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign)).casefold()
    if any(sign.isdigit() for sign in plain):
        return ""
    words = "".join(sign if sign.isalpha() else " " for sign in plain.replace("'", "").replace("’", "")).split()
    return " ".join(sorted(words))


def choose_threshold(nearest: Float[np.ndarray, " n"], false_flag_rate: float) -> float:
    """The lowest threshold at which :func:`estimated_rate` is at most ``false_flag_rate``.

    It lies midway between two neighbouring scores. With fewer than 2/``false_flag_rate`` test identities no threshold
    can be shown to be so strict; it is then just above all of ``nearest``.

    Args:
        nearest: the similarity of each test identity to the most similar other one.
        false_flag_rate: the share of identities outside the test set that may be flagged.

    Raises:
        ValueError: a rate that is not between 0 and 1, or no similarities.
    """
    if not 0.0 < false_flag_rate < 1.0:
        raise ValueError(f"the false flag rate must lie between 0 and 1, got {false_flag_rate}")
    if not len(nearest):
        raise ValueError("there are no similarities to choose a threshold from")
    # The tolerance is for rounding such as 0.07 * 100 = 7.000000000000001.
    allowed = max(0, math.floor(false_flag_rate * (len(nearest) + 1) + 1e-9) - 2)
    scores = np.sort(nearest)[::-1]
    rejected = float(scores[allowed])
    accepted = scores[scores > rejected]
    return between(rejected, float(accepted[-1])) if len(accepted) else math.nextafter(rejected, math.inf)


def estimated_rate(nearest: Float[np.ndarray, " n"], threshold: float) -> float:
    """The probability that somebody outside the test set is flagged: (k + 2)/(n + 1), at most 1.

    k of the n test identities would be flagged against the others. Two more are counted because k = 0 does not prove a
    rate of 0, and the next pair of strangers as similar would flag both of them. The estimate assumes that people
    outside the test set are as similar to it as its own people are to each other. Relatives of theirs are more similar,
    people of other parts of the world may be less; and somebody who is in the test set under two names raises k, and so
    the threshold that is chosen.
    """
    return min(1.0, (int((nearest >= threshold).sum()) + 2) / (len(nearest) + 1))


def write_exclude_list(path: Path, names: list[str]) -> None:
    """Write one name in each line, for :func:`vplface.data.people.read_people`; the file is replaced atomically.

    Raises:
        DataError: the file cannot be written, or a name cannot be written into such a file.
    """
    for name in names:
        if not name or name != name.strip() or re.search(r"[\t\n\r\ud800-\udfff]", name):
            raise DataError(f"{path}: the identity {name!r} cannot be written into a list of people; rename its folder")
    with replacing(path, PRIVATE) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")


class _Identities:
    """The identities of a set: the embeddings of their pictures and the means of these.

    Attributes:
        pictures: the set.
        embeddings: of its pictures.
        groups: the pictures of each identity.
        means: the mean embedding of each identity, of unit norm; zero, so similar to nobody, without pictures.
    """

    def __init__(self, pictures: PictureSet, embeddings: Float[np.ndarray, "pictures dim"]) -> None:
        self.pictures, self.embeddings = pictures, embeddings
        counts = np.bincount(pictures.labels, minlength=len(pictures.identities))
        order = np.argsort(pictures.labels, kind="stable")
        self.groups: list[Int64[np.ndarray, " some"]] = np.split(order, np.cumsum(counts)[:-1])
        self.means: Float64[np.ndarray, "identities dim"] = np.zeros((len(counts), embeddings.shape[1]))
        np.add.at(self.means, pictures.labels, embeddings)
        norms = np.linalg.norm(self.means, axis=1, keepdims=True)
        np.divide(self.means, norms, out=self.means, where=norms > 0)


def _match(train: _Identities, test: _Identities, i: int, j: int, similarity: float) -> Match:
    """The match of training identity i and test identity j, with their two most similar pictures."""
    cosines = train.embeddings[train.groups[i]] @ test.embeddings[test.groups[j]].T
    row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
    left, right = int(train.groups[i][row]), int(test.groups[j][column])
    return Match(
        train.pictures.identities[i],
        test.pictures.identities[j],
        similarity,
        train.pictures.name(left),
        test.pictures.name(right),
        float(cosines[row, column]),
        left,
        right,
    )


def _cosines(
    left: Float64[np.ndarray, "n dim"], right: Float64[np.ndarray, "m dim"]
) -> Iterator[tuple[int, Float64[np.ndarray, "rows m"]]]:
    """Cosines of all of ``left`` with all of ``right`` in blocks of rows, each with the number of its first row."""
    rows = max(1, _BLOCK_ELEMENTS // len(right))
    for first in range(0, len(left), rows):
        yield first, left[first : first + rows] @ right.T


def _nearest_other(means: Float64[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
    """The highest cosine of each row with one of the others."""
    nearest = np.empty(len(means))
    for first, block in _cosines(means, means):
        rows = np.arange(len(block))
        block[rows, first + rows] = -np.inf
        nearest[first : first + len(block)] = block.max(axis=1)
    return nearest
