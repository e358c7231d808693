"""Characters drawn in many fonts: sets of very many classes with few pictures each, for studies/characters.yaml.

Run: python studies/characters.py data/characters

A class is a character, a picture its drawing in a font of this machine. OUT/train and OUT/test are RecordIO sets of
different characters, and OUT/characters.json counts classes and pictures and names the fonts, with their versions and
hashes. The same fonts give the same pictures.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from jaxtyping import UInt8

from vplface.cli.options import AS_JSON
from vplface.console import print_json, say
from vplface.data.formats.recordio import RecordIOWriter
from vplface.data.pictures import MIN_SIDE
from vplface.errors import DataError, UsageError, VplfaceError, import_extra
from vplface.files import claimed, write_json
from vplface.progress import progress

cv2 = import_extra("cv2", "train")
ttlib = import_extra("fontTools.ttLib", "fonts")
image_font = import_extra("PIL.ImageFont", "fonts")
image = import_extra("PIL.Image", "fonts")
image_draw = import_extra("PIL.ImageDraw", "fonts")

CHARACTERS = "3400-4DBF,4E00-9FFF,AC00-D7A3,20000-2EBE0,30000-323AF"
"""Unified ideographs and Hangul syllables; compatibility forms repeat others."""

PACKAGES = (
    "fonts-arphic-ukai fonts-arphic-uming fonts-babelstone-han fonts-cns11643-kai fonts-cns11643-sung fonts-cwtex-fs "
    "fonts-cwtex-kai fonts-hanazono fonts-ipamj-mincho fonts-lxgw-wenkai fonts-noto-cjk fonts-nanum "
    "fonts-unfonts-extra fonts-vlgothic fonts-wqy-zenhei"
)
"""Packages of Debian whose fonts have many characters."""

_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_FILLED = 0.86
"""The em as a share of the side of a picture."""

_MISSING = "\uffff"
"""No character: a font draws its sign for a missing one."""

_RECORD = "characters.json"

Drawing = UInt8[np.ndarray, "side side"]


@dataclass(frozen=True)
class Face:
    """A font of a file, and the characters that it draws in their own way.

    Attributes:
        path: the file.
        number: of the font in a collection.
        name: family, style and version, which no other face has.
        characters: code points whose glyph is of no other wanted character.
    """

    path: Path
    number: int
    name: str
    characters: frozenset[int]

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def at(self, side: int) -> Any:
        """The font, in a size that fits a picture."""
        basic = image_font.Layout.BASIC
        return image_font.truetype(str(self.path), round(_FILLED * side), self.number, layout_engine=basic)


def font_files(given: Sequence[Path]) -> list[Path]:
    """Font files at the given paths, to any depth; without paths those that fontconfig knows.

    Raises:
        DataError: a path does not exist, or there is no fontconfig.
    """
    files: set[Path] = set()
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: does not exist; give font files, or folders of them")
        files |= {path} if path.is_file() else {each for each in path.rglob("*") if each.is_file()}
    if not given:
        if shutil.which("fc-list") is None:
            raise DataError("fc-list was not found: install fontconfig, or give --fonts")
        listed = subprocess.run(["fc-list", "--format", "%{file}\n"], capture_output=True, text=True, check=True)
        files = {Path(line) for line in listed.stdout.splitlines()}
    return sorted(path for path in files if path.suffix.lower() in _SUFFIXES)


def read_faces(files: Sequence[Path], wanted: Collection[int]) -> list[Face]:
    """The faces of some files that draw any of the wanted characters, by name; of one name, the first."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns about tables that are not used here
    faces: dict[str, Face] = {}
    with progress("reading fonts", len(files)) as advance:
        for path in files:
            for face in _faces_of(path, wanted):
                faces.setdefault(face.name, face)
            advance(1)
    return [faces[name] for name in sorted(faces)]


def _faces_of(path: Path, wanted: Collection[int]) -> Iterator[Face]:
    try:
        with path.open("rb") as file:
            count = len(ttlib.TTCollection(file, lazy=True)) if file.read(4) == b"ttcf" else 1
        for number in range(count):
            with ttlib.TTFont(path, fontNumber=number, lazy=True) as font:
                glyph_of = {code: glyph for code, glyph in (font.getBestCmap() or {}).items() if code in wanted}
                used = Counter(glyph_of.values())
                own = frozenset(code for code, glyph in glyph_of.items() if used[glyph] == 1)
                table = font["name"]
                parts = (table.getBestFamilyName(), table.getBestSubFamilyName(), table.getDebugName(5))
            if own:
                yield Face(path, number, " ".join(" ".join(filter(None, parts)).split()).replace("/", "-"), own)
    except ttlib.TTLibError as error:
        raise DataError(f"{path}: not a font that can be read ({error}); leave it out, with --fonts") from error


@dataclass(frozen=True)
class Drawn:
    """A character that was drawn in several fonts.

    Attributes:
        code: its code point.
        pictures: PNG files by the names of the faces, in a random order that depends on the names alone.
    """

    code: int
    pictures: dict[str, bytes]

    @property
    def name(self) -> str:
        """The name of the class, such as U+4E00."""
        return f"U+{self.code:04X}"


class Pen:
    """Draws characters in all faces, and no drawing twice."""

    def __init__(self, faces: Sequence[Face], side: int) -> None:
        self._side = side
        self._fonts = [(face, face.at(side)) for face in faces]
        self._missing = {face.name: self._draw(font, _MISSING).tobytes() for face, font in self._fonts}
        self._seen: set[bytes] = set()

    def draw(self, code: int, most: int) -> Drawn:
        """The character in up to ``most`` faces, those that come first by a hash of its code point and their names.

        A picture without ink is left out, and so are a face's sign for missing characters, and a drawing that this or
        another character has already.
        """
        pictures: dict[str, bytes] = {}
        having = [(face, font) for face, font in self._fonts if code in face.characters]
        for face, font in sorted(having, key=lambda each: _rank(f"{code:X} {each[0].name}")):
            drawing = self._draw(font, chr(code))
            digest = hashlib.sha256(drawing.tobytes()).digest()
            if not drawing.any() or drawing.tobytes() == self._missing[face.name] or digest in self._seen:
                continue
            self._seen.add(digest)
            pictures[face.name] = cv2.imencode(".png", drawing)[1].tobytes()
            if len(pictures) == most:
                break
        return Drawn(code, pictures)

    def _draw(self, font: Any, character: str) -> Drawing:
        """White on black, the ink in the middle of the picture; no ink if the font's program for the glyph fails."""
        side = self._side
        wide = image.new("L", (2 * side, 2 * side))
        with suppress(OSError):
            image_draw.Draw(wide).text((side // 2, 3 * side // 2), character, 255, font, anchor="ls")
        left, top, right, bottom = wide.getbbox() or (0, 0, side, side)
        left, top = (left + right - side) // 2, (top + bottom - side) // 2
        picture = wide.crop((left, top, left + side, top + side))
        return np.asarray(picture)


def draw_sets(
    faces: Sequence[Face], side: int, most: int, train: int, test: int, fewest_in_test: int
) -> dict[str, list[Drawn]]:
    """Draw characters, in the order of a hash of their code points, until there are as many classes as asked for.

    The first ``test`` characters with ``fewest_in_test`` pictures or more are those of the test set, the others with
    two or more those of the training set.

    Args:
        faces: to draw in.
        side: of the pictures, in pixels.
        most: pictures of a character, at most.
        train: classes of the training set.
        test: classes of the test set.
        fewest_in_test: pictures of a character in the test set, at least.

    Raises:
        DataError: the faces have too few characters.
    """
    available = Counter(code for face in faces for code in face.characters)
    codes = sorted((code for code, count in available.items() if count > 1), key=lambda code: _rank(f"{code:X}"))
    sets: dict[str, list[Drawn]] = {"train": [], "test": []}
    pen = Pen(faces, side)
    with progress("drawing characters", train + test) as advance:
        for code in codes:
            drawn = pen.draw(code, most)
            if len(sets["test"]) < test and len(drawn.pictures) >= fewest_in_test:
                sets["test"].append(drawn)
                advance(1)
            elif len(sets["train"]) < train and len(drawn.pictures) > 1:
                sets["train"].append(drawn)
                advance(1)
            if (len(sets["train"]), len(sets["test"])) == (train, test):
                return {name: sorted(each, key=lambda drawn: drawn.code) for name, each in sets.items()}
    raise DataError(
        f"{len(faces)} fonts give {len(sets['train']):,} training classes of two pictures or more and "
        f"{len(sets['test']):,} test classes of {fewest_in_test} or more, not {train:,} and {test:,}; ask for fewer "
        f"with --train and --test, or install more fonts, e.g. on Debian: apt-get install {PACKAGES}"
    )


def write_set(folder: Path, classes: Sequence[Drawn]) -> None:
    """Write a RecordIO set, character by character.

    Raises:
        DataError: it cannot be written.
    """
    with RecordIOWriter(folder / f"{folder.name}.rec", [drawn.name for drawn in classes]) as writer:
        for label, drawn in enumerate(classes):
            for name, picture in drawn.pictures.items():
                writer.add(picture, f"{drawn.name}/{name}.png", label)


def _counts(classes: Sequence[Drawn]) -> dict[str, Any]:
    sizes = Counter(len(drawn.pictures) for drawn in classes)
    return {
        "classes": len(classes),
        "pictures": sum(size * count for size, count in sizes.items()),
        "classes_by_pictures": {str(size): sizes[size] for size in sorted(sizes)},
    }


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _parse_ranges(text: str) -> set[int]:
    codes: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            codes.update(range(int(first, 16), int(last or first, 16) + 1))
        except ValueError:
            raise UsageError(f"--characters {text}: {part!r} is not a range of hexadecimal code points") from None
    return codes


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write: OUT/train, OUT/test, OUT/characters.json.")],
    fonts: Annotated[
        list[Path] | None, typer.Option(help="Font file, or folder of them; repeatable. Default: all of fontconfig.")
    ] = None,
    characters: Annotated[str, typer.Option(help="Ranges of hexadecimal code points.")] = CHARACTERS,
    train: Annotated[int, typer.Option(min=1, help="Classes of the training set.")] = 25_000,
    test: Annotated[int, typer.Option(min=1, help="Classes of the test set.")] = 2_000,
    most: Annotated[int, typer.Option(min=2, help="Largest number of pictures of a class.")] = 12,
    fewest_in_test: Annotated[int, typer.Option(min=2, help="Smallest number of pictures of a test class.")] = 4,
    side: Annotated[int, typer.Option(min=MIN_SIDE, max=112, help="Side of a picture, in pixels.")] = 56,
    as_json: AS_JSON = False,
) -> None:
    """Draw characters in the fonts of this machine: a class is a character, a picture its drawing in a font."""
    wanted = _parse_ranges(characters)
    with claimed(out):
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out}: is not empty; choose another folder, or delete it first")
        faces = read_faces(font_files(fonts or []), wanted)
        sets = draw_sets(faces, side, most, train, test, fewest_in_test)
        for name, classes in sets.items():
            write_set(out / name, classes)
        used = Counter(name for classes in sets.values() for drawn in classes for name in drawn.pictures)
        summary = {
            "schema": 1,
            "characters": characters,
            "side": side,
            **{name: _counts(classes) for name, classes in sets.items()},
            "fonts": [
                {"name": face.name, "file": face.path.name, "number": face.number, "sha256": face.sha256,
                 "pictures": used[face.name]}
                for face in faces if used[face.name]
            ],
        }  # fmt: skip
        write_json(out / _RECORD, summary)
    if as_json:
        print_json(summary)
        return
    for name in sets:
        counts = cast("dict[str, Any]", summary[name])
        say(f"{out / name}: {counts['pictures']:,} pictures of {counts['classes']:,} characters")
        say("  pictures: classes  " + ", ".join(f"{k}: {n:,}" for k, n in counts["classes_by_pictures"].items()))
    say(f"{out / _RECORD}: {len(summary['fonts'])} fonts, with versions and hashes")


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    try:
        app()
    except VplfaceError as error:
        sys.exit(f"characters.py: {error}")
