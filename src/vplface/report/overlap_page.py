"""A page of picture pairs: people of a training set who are probably in a test set, for visual inspection."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vplface.data.pictures import PictureSet, UnreadablePictureError
from vplface.evaluation.overlap import Match, Overlap
from vplface.report.document import document, limits, write_page
from vplface.report.faces import image
from vplface.report.markup import Child, Markup, join, tag

PAGE_BYTES = 8_000_000
"""Maximum bytes of the pictures on a page; beyond it, only names and similarities are shown."""


def write_overlap(path: str | Path, found: Overlap, train: PictureSet, test: PictureSet, title: str) -> None:
    """Write one self-contained page with a card for each match: its most similar pictures, training left, test right.

    Args:
        path: the HTML file; written atomically.
        found: the matches.
        train: the training set that was searched.
        test: the test set it was compared with.
        title: the headline.
    """
    named = {(match.train, match.test) for match in found.same_names}
    below = "" if found.nearest_below is None else f" The next pair below it has {found.nearest_below:.3f}."
    cards = _Cards(train, test, named, PAGE_BYTES)
    body = tag(
        "main",
        tag("p", "vplface · the same people in two sets", class_="eyebrow"),
        tag("h1", title),
        tag(
            "p",
            f"{len(found.flagged)} of {found.train_identities:,} training identities are probably among the "
            f"{found.test_identities:,} people of the test set.",
            class_="verdict",
        ),
        tag(
            "p",
            f"Flagged from a similarity of {found.threshold:.3f} on.{below} About {found.expected_false_flags:.1f} "
            "would be flagged only because strangers look alike: check the least similar pairs.",
            class_="caution",
        ),
        cards.section(
            "By their faces",
            "The most similar pair of pictures, training left, test right, the most doubtful first. The large number "
            "is the cosine of the two identities' mean embeddings.",
            reversed(found.matches),
            len(found.matches),
        ),
        cards.section(
            "By name alone",
            "Identities of the same name whose faces are less similar than the threshold: namesakes or wrong pictures.",
            found.by_name_alone,
            len(found.by_name_alone),
        ),
        limits(),
    )
    write_page(Path(path), document(title, body, script=""))


class _Cards:
    def __init__(self, train: PictureSet, test: PictureSet, named: set[tuple[str, str]], bytes_left: int) -> None:
        self._train, self._test, self._named, self._bytes_left = train, test, named, bytes_left

    def section(self, heading: str, words: str, matches: Iterable[Match], count: int) -> Markup | None:
        if not count:
            return None
        return join(
            tag("h2", f"{heading} ({count:,})"),
            tag("p", words, class_="note"),
            tag("div", [self._card(match) for match in matches], class_="faces"),
        )

    def _card(self, match: Match) -> Markup:
        shown: list[Markup] = []
        if self._bytes_left > 0:
            for pictures, index in ((self._train, match.train_index), (self._test, match.test_index)):
                try:
                    shown.append(image(pictures.picture(index), pictures.name(index)))
                except UnreadablePictureError:
                    shown.append(image(None, pictures.name(index)))
            self._bytes_left -= sum(map(len, shown))
        words: list[Child] = [
            tag("b", f"{match.similarity:.3f}".replace("-", "−")),
            f" · these two pictures {match.picture_similarity:.3f}",
            " · same name" if (match.train, match.test) in self._named else None,
            tag("br"),
            f"{match.train} | {match.test}",
            tag("br"),
            match.train_picture,
            tag("br"),
            match.test_picture,
        ]
        return tag("figure", tag("div", shown, class_="two") if shown else None, tag("figcaption", words))
