"""What the page shows, as markup: photographs with their faces, a verdict, names. What is not ours is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vplface.deploy.decision import VERDICT, Threshold, accepted, answer, way_to_a_threshold
from vplface.deploy.enrolment import Enrolment
from vplface.deploy.faces import FoundFace, Photograph, place
from vplface.deploy.gallery import Match
from vplface.errors import import_extra
from vplface.report.markup import Markup, join, tag

cv2 = import_extra("cv2", "train")

_LONGEST_SIDE = 900
_TONE = {True: "yes", False: "no", None: "open"}


@dataclass(frozen=True, eq=False)
class Shown:
    """A photograph as the page holds it: small, and with its faces.

    Attributes:
        name: of the file.
        source: a data URI of the picture.
        width: of the whole picture, in pixels; boxes are in these.
        height: likewise.
        faces: the largest first.
    """

    name: str
    source: str
    width: int
    height: int
    faces: Sequence[FoundFace]

    @classmethod
    def of(cls, photograph: Photograph) -> Shown:
        """What is kept of a photograph."""
        height, width = photograph.picture.shape[:2]
        return cls(photograph.path.name, _source(photograph.picture), width, height, photograph.faces)


def side(shown: Shown, taken: int) -> Markup:
    """One of two pictures, with the face that is compared, and what the model sees of it."""
    face = shown.faces[taken - 1]
    name = tag("b", shown.name)
    if face.box is None:
        return join(_photograph(shown, []), tag("p", name, tag("br"), "an aligned face, taken as it is", class_="fine"))
    several = len(shown.faces) > 1
    marks = [
        ("taken" if each is face else "open", str(number) if several else "")
        for number, each in enumerate(shown.faces, 1)
    ]
    told = tag("p", name, tag("br"), f"face {taken} of {len(shown.faces)}, {place(face.box)}")
    return join(_photograph(shown, marks), tag("div", _crop(face, "what the model sees"), told, class_="seen"))


def verdict(similarity: float, threshold: Threshold | None, model: Path) -> Markup:
    """How similar two faces are, and what that makes of them."""
    same = accepted(similarity, threshold)
    scale = tag(
        "div",
        tag("i", class_="at", style=f"left:{_along(similarity)}"),
        None
        if threshold is None
        else tag("i", tag("span", "threshold"), class_="from", style=f"left:{_along(threshold.value)}"),
        class_="scale",
        role="img",
        aria_label=f"similarity {similarity:.4f} on a scale from 0 to 1",
    )
    words = way_to_a_threshold(model) if threshold is None else str(threshold)
    return tag(
        "section",
        tag(
            "div",
            tag("span", f"{similarity:.4f}".replace("-", "−"), class_="number"),
            tag("span", VERDICT[same], class_="word"),
            class_="line",
        ),
        scale,
        tag("p", words),
        class_=f"verdict {_TONE[same]}",
        id="verdict",
    )


def found(
    shown: Shown, faces: Sequence[Sequence[Match]], threshold: Threshold | None, pictures: int, model: Path
) -> Markup:
    """A photograph with names, and the nearest people of each of its faces."""
    answers = [answer(matches, threshold) for matches in faces]
    marks = [
        (_TONE[known], name if known is not None else f"{name} {matches[0].similarity:.2f}")
        for matches, (name, known) in zip(faces, answers, strict=True)
    ]
    rows = [
        tag(
            "li",
            _crop(face, f"face {number}"),
            tag(
                "div",
                tag("b", VERDICT[None] if known is None else name, class_=_TONE[known]),
                tag("p", _nearest(matches, known)),
            ),
        )
        for number, (face, matches, (name, known)) in enumerate(zip(shown.faces, faces, answers, strict=True), 1)
    ]
    words = [way_to_a_threshold(model)] if threshold is None else [str(threshold), threshold.among(pictures)]
    return join(
        _photograph(shown, marks),
        tag("ul", rows, class_="found", id="found"),
        [tag("p", each, class_="fine") for each in words if each],
    )


def pending(pictures: Mapping[Path, Shown | str]) -> Markup:
    """Pictures that wait to be enrolled: the face that will be taken, or why there is none."""
    rows = [
        tag(
            "li",
            tag("div", "no face", class_="absent") if isinstance(shown, str) else _crop(shown.faces[0], path.name),
            tag("div", tag("b", path.name), tag("p", _told(path, shown))),
            class_="bad" if isinstance(shown, str) else None,
        )
        for path, shown in pictures.items()
    ]
    if not rows:
        return empty("Several pictures, as different as those that will be looked for, do better than one.")
    return tag("ul", rows, class_="found", id="pending")


def enrolled(name: str, done: Enrolment) -> Markup:
    """What became of pictures."""
    added = sum(done.added.values())
    lines: list[str] = [f"{_count(added, 'picture')} of {name} enrolled"] if added else []
    lines += [f"{_count(done.there, 'picture')} enrolled before"] if done.there else []
    lines += [f"{passed.path.name}: passed over, {passed.reason}" for passed in done.passed_over]
    lines += [f"{each.path.name}: shows {len(each.boxes)} faces, the largest was taken" for each in done.several]
    return note(*lines, tone="yes" if added else "no")


def removed(name: str, pictures: int) -> Markup:
    """What became of a person."""
    told = f"{name} is removed, with all that the gallery held of {_count(pictures, 'picture')}"
    return note(told, "Backups and copies of the folder are yours to delete.", tone="yes")


def people(enrolled_people: Mapping[str, int]) -> Markup:
    """Who is enrolled."""
    if not enrolled_people:
        return tag("p", "Nobody yet.", class_="empty", id="people")
    rows = [
        tag("li", tag("span", name), tag("span", _count(count, "picture"), class_="fine"))
        for name, count in enrolled_people.items()
    ]
    return tag("ul", rows, class_="people", id="people")


def note(*lines: str, tone: str = "open") -> Markup:
    """Something said, a paragraph a line."""
    return tag("div", [tag("p", line) for line in lines], class_=f"note {tone}", role="status")


def empty(words: str) -> Markup:
    """What stands where a result will be."""
    return tag("p", words, class_="empty")


def _photograph(shown: Shown, marks: Sequence[tuple[str, str]]) -> Markup:
    """A picture, with a frame and a word for each face; aligned faces are the whole of it, and have none."""
    drawn: list[Markup] = []
    for face, (tone, text) in zip(shown.faces, marks, strict=False):
        if face.box is not None:
            x, y, width, height = face.box
            left, top = 100 * x / shown.width, 100 * y / shown.height
            size = f"width:{100 * width / shown.width:.2f}%;height:{100 * height / shown.height:.2f}%"
            drawn.append(tag("span", class_=f"box {tone}", style=f"left:{left:.2f}%;top:{top:.2f}%;{size}"))
            if text:
                style = f"left:{max(left, 0):.2f}%;top:{max(top, 0):.2f}%;max-width:{100 - max(left, 0):.2f}%"
                drawn.append(tag("b", text, class_=f"word {tone}", style=style))
    picture = tag("img", src=shown.source, alt=shown.name)
    return tag("div", tag("div", picture, drawn, class_="stage"), class_="photograph")


def _crop(face: FoundFace, what: str) -> Markup:
    return tag("img", src=_source(face.picture), alt=what, class_="crop")


def _source(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A JPEG, shrunk if need be, as a data URI: the page asks for no picture by an address."""
    height, width = picture.shape[:2]
    ratio = _LONGEST_SIDE / max(height, width)
    if ratio < 1:
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _along(similarity: float) -> str:
    return f"{100 * min(1.0, max(0.0, similarity)):.1f}%"


def _nearest(matches: Sequence[Match], known: bool | None) -> str:
    told = [f"{match.name} {match.similarity:.4f}" for match in matches]
    if not known:
        return f"nearest: {', '.join(told)}"
    return f"similarity {matches[0].similarity:.4f}" + (f"; then {', '.join(told[1:])}" if told[1:] else "")


def _told(path: Path, shown: Shown | str) -> str:
    if isinstance(shown, str):
        return shown.removeprefix(f"{path}: ")
    count = len(shown.faces)
    return "" if count == 1 else f"shows {count} faces; the largest will be taken"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
