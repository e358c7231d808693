"""Pictures of faces on a page, as long as the page stays small."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vplface.errors import import_extra
from vplface.evaluation.figure import finite
from vplface.report.markup import Child, Markup, tag

PictureOf = Callable[[str, str], UInt8[np.ndarray, "112 112 3"] | None]
"""(set name, picture name) → the picture in RGB, or None if it is not available."""

PICTURE_BYTES = 1_500_000
"""Maximum bytes of the pictures on one page; beyond it, only names and similarities are shown."""


@dataclass
class Faces:
    """The pictures of the most wrong pairs, as long as the page stays small."""

    picture_of: PictureOf | None
    bytes_left: int = field(default_factory=lambda: PICTURE_BYTES)

    def card(self, set_name: str, case: Mapping[str, Any], sides: Sequence[str] = ("left", "right")) -> Markup:
        """The pictures of a case side by side, their similarity and their names."""
        names = [str(case[side]) for side in sides]
        show = self.picture_of is not None and self.bytes_left > 0
        row = "two" if len(names) == 2 else "three"
        shown = tag("div", [self._picture(set_name, name) for name in names], class_=row) if show else None
        similarity, rank = finite(case.get("similarity")), finite(case.get("mate_rank"))
        words: list[Child] = []
        if similarity is not None:
            words.append(tag("b", f"{similarity:.3f}".replace("-", "−")))
            words.append(f" · its mate at rank {rank:.0f}" if rank is not None else None)
            if (quality := _quality(case)) is not None:
                words.append(f" · {quality}")
            words.append(tag("br"))
        lines = [[name, tag("br")] for name in names[:-1]]
        return tag("figure", shown, tag("figcaption", words, lines, names[-1]))

    def _picture(self, set_name: str, name: str) -> Markup:
        shown = image(None if self.picture_of is None else self.picture_of(set_name, name), name)
        self.bytes_left -= len(shown)
        return shown


def _quality(case: Mapping[str, Any]) -> str | None:
    """The quality of the two pictures of a pair, as text; None where it is not known."""
    poor, scores = case.get("poor"), case.get("recognisability")
    if not isinstance(poor, list) or not isinstance(scores, list) or not len(poor) == len(scores) == 2:
        return None
    words = [f"{'poor' if bad else 'good'} {finite(score) or 0.0:.2f}" for bad, score in zip(poor, scores, strict=True)]
    return " / ".join(words)


def image(picture: UInt8[np.ndarray, "112 112 3"] | None, name: str) -> Markup:
    """An RGB picture inside the page, as a JPEG; a placeholder if there is none."""
    if picture is None:
        return tag("div", "no picture", class_="absent")
    cv2 = import_extra("cv2", "train")
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    source = "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
    return tag("img", src=source, alt=name, width=112, height=112, loading="lazy")
