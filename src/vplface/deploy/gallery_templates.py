"""Templates of the people of a gallery, and the weights of their pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vplface.deploy.gallery import Gallery
from vplface.errors import DataError
from vplface.evaluation.identification import TemplateKind, person_templates


def templates_of(gallery: Gallery, kind: TemplateKind) -> Float32[np.ndarray, "people dim"]:
    """The mean or weighted template of each person, in the order of ``gallery.names``.

    Raises:
        DataError: the embeddings of a person's pictures cancel each other out.
    """
    weights = picture_weights(gallery) if kind == "weighted" else None
    try:
        return person_templates(gallery.embeddings, gallery.person, weights)
    except DataError as error:
        raise DataError(f"{gallery.where}: {error}; people are counted from 0 in the order of --list") from error


def picture_weights(gallery: Gallery) -> Float64[np.ndarray, " n"]:
    """The weight of each picture in a weighted template.

    It is the picture's quality, if that is known and not negative for all pictures of the person and positive for one.
    Otherwise it is the norm of the embedding, if that is known for all of them, otherwise 1. Weights of one person
    count by their ratios alone, so that people may have weights of different kinds.
    """
    quality, norm = (each.astype(np.float64) for each in (gallery.records.quality, gallery.records.norm))
    people = len(gallery.names)

    def of_all(good: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " people"]:
        every: Bool[np.ndarray, " people"] = np.bincount(gallery.person[~good], minlength=people) == 0
        return every

    has_quality = of_all(np.isfinite(quality) & (quality >= 0))
    has_quality &= np.bincount(gallery.person[np.nan_to_num(quality) > 0], minlength=people) > 0
    has_norm = of_all(np.isfinite(norm) & (norm > 0))
    weights: Float64[np.ndarray, " n"] = np.where(
        has_quality[gallery.person], quality, np.where(has_norm[gallery.person], norm, 1.0)
    )
    return weights
