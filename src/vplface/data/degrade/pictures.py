"""A picture set with degraded pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from vplface.data.degrade.degradation import Degradation
from vplface.data.pictures import Picture, PictureSet
from vplface.data.selection import Subset


class DegradedPictures:
    """The pictures of a set, some of them degraded; a :class:`~vplface.data.pictures.PictureSet`.

    ``of_pairs`` makes one for :func:`vplface.evaluation.evaluate_pairs`, ``of_all_pairs`` for
    :func:`vplface.evaluation.evaluate_all_pairs`. They differ in the references that ``probes`` leaves clean.

    Args:
        original: the clean set.
        degradation: what is done to the degraded pictures.
        places: position of each picture in the clean set.
        degraded: whether each picture is degraded.
        second: position here of the picture that a list of pairs means by its second picture, for each picture of the
            clean set.
    """

    def __init__(
        self,
        original: PictureSet,
        degradation: Degradation,
        places: Int64[np.ndarray, " n"],
        degraded: Bool[np.ndarray, " n"],
        second: Int64[np.ndarray, " m"],
    ) -> None:
        self.original, self.degradation = original, degradation
        self.places, self.degraded, self.second = places, degraded, second
        self._labels: Int64[np.ndarray, " n"] = original.labels[places]

    @classmethod
    def of_all_pairs(
        cls, pictures: PictureSet, degradation: Degradation, compared: Int64[np.ndarray, " m"] | None = None
    ) -> DegradedPictures:
        """The set with its pictures in their places, those of the share degraded.

        With ``probes`` one of the compared pictures of each person, drawn by name, is the reference and stays clean.

        Args:
            pictures: the clean set.
            degradation: what is done to the degraded pictures.
            compared: positions of the pictures that are compared; None for all.
        """
        degraded = _chosen(pictures, degradation)
        if degradation.probes:
            among = np.arange(len(pictures)) if compared is None else compared
            degraded[among[_references(Subset(pictures, among), degradation)]] = False
        places = np.arange(len(pictures))
        return cls(pictures, degradation, places, degraded, places)

    @classmethod
    def of_pairs(cls, pictures: PictureSet, degradation: Degradation) -> DegradedPictures:
        """The set for a list of pairs.

        With ``probes`` the second picture of a pair is its probe. A picture may be the first of one pair and the
        second of another, so the clean pictures keep their places and the degraded ones follow as copies.
        """
        if not degradation.probes:
            return cls.of_all_pairs(pictures, degradation)
        chosen, count = _chosen(pictures, degradation), len(pictures)
        copies = np.flatnonzero(chosen)
        second = np.arange(count)
        second[copies] = count + np.arange(len(copies))
        places = np.concatenate([np.arange(count), copies])
        return cls(pictures, degradation, places, np.arange(len(places)) >= count, second)

    @property
    def identities(self) -> Sequence[str]:
        """Name of each identity."""
        return self.original.identities

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Label of each picture."""
        return self._labels

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, index: int) -> Picture:
        """The picture itself, degraded or not; raises UnreadablePictureError with its path and the reason."""
        place = int(self.places[index])
        picture = self.original.picture(place)
        return self.degradation(picture, self.original.name(place)) if self.degraded[index] else picture

    def name(self, index: int) -> str:
        """The picture's name in the clean set; that of a copy ends in " (degraded)"."""
        name = self.original.name(int(self.places[index]))
        return name if index < len(self.original) else f"{name} (degraded)"

    def only(self, indices: Int64[np.ndarray, " m"]) -> DegradedPictures:
        """Some of the pictures of a set without copies."""
        places = np.arange(len(indices))
        return DegradedPictures(
            Subset(self.original, self.places[indices]), self.degradation, places, self.degraded[indices], places
        )


def _chosen(pictures: PictureSet, degradation: Degradation) -> Bool[np.ndarray, " n"]:
    return np.array([degradation.is_chosen(pictures.name(index)) for index in range(len(pictures))], bool)


def _references(pictures: PictureSet, degradation: Degradation) -> Int64[np.ndarray, " people"]:
    """A picture of each person: that of lowest rank."""
    ranks = [degradation.reference_rank(pictures.name(index)) for index in range(len(pictures))]
    order = np.array(sorted(range(len(ranks)), key=ranks.__getitem__), np.int64)
    return order[np.unique(pictures.labels[order], return_index=True)[1]]
