"""HTML fragments of the page: photographs with marked faces, verdicts, lists of people. All input is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vplface.deploy.decision import VERDICT, Threshold, decide, name_and_decision, threshold_advice
from vplface.deploy.enrolment import Enrolment
from vplface.deploy.evidence import evidence_of
from vplface.deploy.faces import FoundFace, Photograph, describe_box
from vplface.deploy.gallery import Match
from vplface.errors import import_extra
from vplface.report.markup import Markup, join, tag

cv2 = import_extra("cv2", "train")

_MAX_SIDE = 900
_PRIOR = 0.5
"""Probability of one person before two pictures are seen."""

_CSS_TONE = {True: "yes", False: "no", None: "open"}


@dataclass(frozen=True, eq=False)
class PhotographView:
    """Photograph as the page shows it, scaled down, with its faces.

    Attributes:
        name: file name.
        source: data URI of the scaled picture.
        width: width of the original in pixels, the unit of the boxes.
        height: height of the original in pixels.
        faces: faces, the largest first.
    """

    name: str
    source: str
    width: int
    height: int
    faces: Sequence[FoundFace]

    @classmethod
    def of(cls, photograph: Photograph) -> PhotographView:
        """View of a photograph, without its full-size pixels."""
        height, width = photograph.picture.shape[:2]
        return cls(photograph.path.name, _data_uri(photograph.picture), width, height, photograph.faces)


def compared_photograph(view: PhotographView, number: int) -> Markup:
    """One of two pictures, with the compared face and its aligned crop."""
    face = view.faces[number - 1]
    name = tag("b", view.name)
    if face.box is None:
        return join(_photograph(view, []), tag("p", name, tag("br"), "an aligned face, taken as it is", class_="fine"))
    several = len(view.faces) > 1
    marks = [
        ("taken" if item is face else "open", str(number) if several else "")
        for number, item in enumerate(view.faces, 1)
    ]
    caption = tag("p", name, tag("br"), f"face {number} of {len(view.faces)}, {describe_box(face.box)}")
    return join(_photograph(view, marks), tag("div", _crop(face, "what the model sees"), caption, class_="seen"))


def verdict(similarity: float, threshold: Threshold | None, model: Path) -> Markup:
    """Similarity of two faces, and the decision."""
    same = decide(similarity, threshold)
    evidence = evidence_of(similarity, threshold, _PRIOR)
    scale = tag(
        "div",
        tag("i", class_="at", style=f"left:{_scale_position(similarity)}"),
        None
        if threshold is None
        else tag("i", tag("span", "threshold"), class_="from", style=f"left:{_scale_position(threshold.value)}"),
        class_="scale",
        role="img",
        aria_label=f"similarity {similarity:.4f} on a scale from 0 to 1",
    )
    words = threshold_advice(model) if threshold is None else str(threshold)
    return tag(
        "section",
        tag(
            "div",
            tag("span", f"{similarity:.4f}".replace("-", "−"), class_="number"),
            tag("span", VERDICT[same], class_="word"),
            class_="line",
        ),
        scale,
        None if evidence is None else tag("p", str(evidence)),
        tag("p", words),
        class_=f"verdict {_CSS_TONE[same]}",
        id="verdict",
    )


def search_result(
    view: PhotographView, faces: Sequence[Sequence[Match]], threshold: Threshold | None, pictures: int, model: Path
) -> Markup:
    """Photograph with names, and the nearest people for each face."""
    answers = [name_and_decision(matches, threshold) for matches in faces]
    marks = [
        (_CSS_TONE[known], name if known is not None else f"{name} {matches[0].similarity:.2f}")
        for matches, (name, known) in zip(faces, answers, strict=True)
    ]
    rows = [
        tag(
            "li",
            _crop(face, f"face {number}"),
            tag(
                "div",
                tag("b", VERDICT[None] if known is None else name, class_=_CSS_TONE[known]),
                tag("p", _nearest(matches, known)),
            ),
        )
        for number, (face, matches, (name, known)) in enumerate(zip(view.faces, faces, answers, strict=True), 1)
    ]
    words = [threshold_advice(model)] if threshold is None else [str(threshold), threshold.false_match_note(pictures)]
    return join(
        _photograph(view, marks),
        tag("ul", rows, class_="found", id="found"),
        [tag("p", item, class_="fine") for item in words if item],
    )


def pending(pictures: Mapping[Path, PhotographView | str]) -> Markup:
    """Pictures to be enrolled: the face that will be used, or the reason why there is none."""
    rows = [
        tag(
            "li",
            tag("div", "no face", class_="absent") if isinstance(view, str) else _crop(view.faces[0], path.name),
            tag("div", tag("b", path.name), tag("p", _pending_note(path, view))),
            class_="bad" if isinstance(view, str) else None,
        )
        for path, view in pictures.items()
    ]
    if not rows:
        return empty("Several pictures, as varied as those to be searched for, work better than one.")
    return tag("ul", rows, class_="found", id="pending")


def enrolled(name: str, done: Enrolment) -> Markup:
    """Result of an enrolment."""
    added = sum(done.added.values())
    lines: list[str] = [f"{_count(added, 'picture')} of {name} enrolled"] if added else []
    lines += [f"{_count(done.already_enrolled, 'picture')} enrolled before"] if done.already_enrolled else []
    lines += [f"{passed.path.name}: skipped, {passed.reason}" for passed in done.skipped]
    lines += [f"{item.path.name}: shows {len(item.boxes)} faces; the largest was used" for item in done.several]
    return note(*lines, tone="yes" if added else "no")


def removed(name: str, pictures: int) -> Markup:
    """Confirmation that a person was removed."""
    caption = f"{name} is removed, with all that the gallery held of {_count(pictures, 'picture')}"
    return note(caption, "Backups and copies of the folder are yours to delete.", tone="yes")


def people(enrolled_people: Mapping[str, int]) -> Markup:
    """List of the enrolled people."""
    if not enrolled_people:
        return tag("p", "Nobody yet.", class_="empty", id="people")
    rows = [
        tag("li", tag("span", name), tag("span", _count(count, "picture"), class_="fine"))
        for name, count in enrolled_people.items()
    ]
    return tag("ul", rows, class_="people", id="people")


def note(*lines: str, tone: str = "open") -> Markup:
    """Message with one paragraph per line."""
    return tag("div", [tag("p", line) for line in lines], class_=f"note {tone}", role="status")


def empty(words: str) -> Markup:
    """Placeholder shown until there is a result."""
    return tag("p", words, class_="empty")


def _photograph(view: PhotographView, marks: Sequence[tuple[str, str]]) -> Markup:
    """Picture with a box and a label for each face; an aligned face has no box."""
    drawn: list[Markup] = []
    for face, (tone, text) in zip(view.faces, marks, strict=False):
        if face.box is not None:
            x, y, width, height = face.box
            left, top = 100 * x / view.width, 100 * y / view.height
            size = f"width:{100 * width / view.width:.2f}%;height:{100 * height / view.height:.2f}%"
            drawn.append(tag("span", class_=f"box {tone}", style=f"left:{left:.2f}%;top:{top:.2f}%;{size}"))
            if text:
                style = f"left:{max(left, 0):.2f}%;top:{max(top, 0):.2f}%;max-width:{100 - max(left, 0):.2f}%"
                drawn.append(tag("b", text, class_=f"word {tone}", style=style))
    picture = tag("img", src=view.source, alt=view.name)
    return tag("div", tag("div", picture, drawn, class_="stage"), class_="photograph")


def _crop(face: FoundFace, what: str) -> Markup:
    return tag("img", src=_data_uri(face.picture), alt=what, class_="crop")


def _data_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """Data URI of a picture as JPEG, scaled down if needed. The page loads no picture from a URL."""
    height, width = picture.shape[:2]
    ratio = _MAX_SIDE / max(height, width)
    if ratio < 1:
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _scale_position(similarity: float) -> str:
    return f"{100 * min(1.0, max(0.0, similarity)):.1f}%"


def _nearest(matches: Sequence[Match], known: bool | None) -> str:
    described = [f"{match.name} {match.similarity:.4f}" for match in matches]
    if not known:
        return f"nearest: {', '.join(described)}"
    return f"similarity {matches[0].similarity:.4f}" + (f"; then {', '.join(described[1:])}" if described[1:] else "")


def _pending_note(path: Path, view: PhotographView | str) -> str:
    if isinstance(view, str):
        return view.removeprefix(f"{path}: ")
    count = len(view.faces)
    return "" if count == 1 else f"shows {count} faces; the largest will be used"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
