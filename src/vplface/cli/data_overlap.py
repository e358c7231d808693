"""``vplface data overlap``: people of a training set who are probably in a test set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vplface import bounds
from vplface.cli.options import AS_JSON, DEVICE, SPLIT
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.sheet import PICTURES, require_picture_name, row, write_sheet
from vplface.console import print_json, say
from vplface.errors import UsageError
from vplface.printable import printable_name

if TYPE_CHECKING:
    from vplface.data.pictures import Picture, PictureSet
    from vplface.evaluation.overlap import Overlap

_LINES = 20
_ROWS = 60


def overlap(
    train: Annotated[Path, typer.Argument(help="The training pictures, TRAIN/IDENTITY/PICTURE.", show_default=False)],
    against: Annotated[Path, typer.Option(help="The test pictures, a folder of the same layout.", show_default=False)],
    model: Annotated[
        Path,
        typer.Option(
            help="The model that compares the faces: an .onnx file or a run's folder. It should be a good one, and "
            "not one trained on these training pictures.",
            show_default=False,
        ),
    ],
    split: SPLIT = None,
    people: Annotated[
        Path | None,
        typer.Option(help="A list of the people in the test folder that the test uses, such as peopleDevTest.txt."),
    ] = None,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Flag identities at or above this cosine similarity. Without it, the threshold is set from the test "
            "set, at --rate.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            help="Share of the training identities that may be flagged wrongly, because strangers look alike."
        ),
    ] = 0.01,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the flagged identities here, one per line, for 'exclude' of a recipe.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Draw the matches into this .png or .jpg: training pictures on the left, test pictures on the right."
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Write all matches as a self-contained .html page of picture pairs, the most doubtful first.",
            show_default=False,
        ),
    ] = None,
    device: DEVICE = "cpu",
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Processes that read pictures; 0: only this one.")
    ] = 0,
    as_json: AS_JSON = False,
) -> None:
    """Find people of the test set in a training set, under any name: results on them are optimistically biased.

    All pictures are embedded, mirrored ones added, and every training identity is compared with every test identity by
    the cosine of their mean embeddings. The threshold is where only a share --rate of the test people would be flagged
    against other test people. So about that share of the training identities is flagged wrongly: look at the page, and
    note the pairs near the threshold. Identities with the same name are flagged too, unless the name is a number.
    Excluding a few identities wrongly costs nothing; training on people of the test set does.

    Example:  vplface data overlap celeba --against lfw --model judge.onnx --out exclude.txt --page matches.html
    """
    if not 0 < rate < 1:
        raise UsageError(f"--rate {rate}: must lie between 0 and 1")
    if threshold is not None and not -1 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold}: a cosine similarity lies between -1 and 1")
    require_picture_name(sheet)
    if page is not None and page.suffix != ".html":
        raise UsageError(f"--page {page}: the name must end in .html")
    preprocessing = preprocessing_of(color, mean, std)

    from vplface.data.formats import open_pictures  # torch and opencv take seconds to import
    from vplface.data.people import read_people
    from vplface.data.selection import narrow
    from vplface.embedder import Embedder
    from vplface.evaluation.overlap import find_overlap, write_exclude_list
    from vplface.evaluation.provenance import hashes

    test_set = narrow(open_pictures(against), None if people is None else read_people(people), where=against)
    train_set = open_pictures(train, split)
    embedder = Embedder.load(model, device, preprocessing)
    result = find_overlap(train_set, test_set, embedder, threshold=threshold, false_flag_rate=rate, workers=workers)
    if out is not None:
        write_exclude_list(out, result.flagged)
    if sheet is not None:
        _write_sheet(sheet, result, train_set, test_set)
    if page is not None:
        from vplface.report.overlap_page import write_overlap

        write_overlap(page, result, train_set, test_set, f"{train.name} against {against.name}")
    written = [path for path in (out, sheet, page) if path is not None]

    if as_json:
        report = {
            "schema": 1,
            "model": str(model),
            "train": str(train),
            "against": str(against),
            "people": None if people is None else str(people),
            "protocol": {
                "similarity": "cosine of identity means",
                "flip": "sum",
                "threshold": "given" if threshold is not None else f"false flag rate {rate:g} on the test set",
                "preprocessing": embedder.card.preprocessing.to_dict(),
            },
            **result.to_dict(),
            "files": {**embedder.files, **hashes(written)},
        }
        print_json(report)
        return
    _print_matches(result)
    for path in written:
        say(f"wrote {path}")


def _print_matches(result: Overlap) -> None:
    for match in result.matches[:_LINES]:
        names = [printable_name(name) for name in (match.train, match.test, match.train_picture, match.test_picture)]
        say(
            f"{match.similarity:.3f}  {names[0]} is probably {names[1]}  "
            f"({names[2]}, {names[3]}: {match.picture_similarity:.3f})"
        )
    if len(result.matches) > _LINES:
        say(f"... and {len(result.matches) - _LINES} more pairs")
    by_name = result.by_name_alone
    for match in by_name[:_LINES]:
        say(f"{match.similarity:.3f}  {printable_name(match.train)} has the same name as {printable_name(match.test)}")
    if len(by_name) > _LINES:
        say(f"... and {len(by_name) - _LINES} more names")
    below = "" if result.nearest_below is None else f"; the next below it is {result.nearest_below:.3f}"
    say(
        f"{len(result.flagged)} of {result.train_identities} training identities flagged against "
        f"{result.test_identities} people of the test set, at similarity {result.threshold:.3f}{below}"
        + (f"; {len({match.train for match in by_name})} of them by their names alone" if by_name else "")
    )
    say(f"about {result.expected_false_flags:.1f} would be flagged by chance, because strangers look alike")


def _write_sheet(path: Path, result: Overlap, train: PictureSet, test: PictureSet) -> None:
    """The most similar pictures of each match first, then others of the two identities."""
    import numpy as np

    shown = result.matches
    if len(shown) > _ROWS:  # spread evenly over the list, because the doubtful ones are at its end
        shown = [shown[position] for position in np.linspace(0, len(shown) - 1, _ROWS).round().astype(int)]
    rows = []
    for match in shown:
        caption = f"{match.similarity:.3f}  {match.train} | {match.test}  ({match.picture_similarity:.3f})"
        rows.append(row(caption, _some(train, match.train_index), _some(test, match.test_index)))
    note = f"{len(shown)} of {len(result.matches)} matches; training left, test right; threshold {result.threshold:.3f}"
    write_sheet(path, note, rows)


def _some(pictures: PictureSet, index: int) -> list[Picture]:
    import numpy as np

    others = np.flatnonzero(pictures.labels == pictures.labels[index])
    return [pictures.picture(shown) for shown in (index, *others[others != index][: PICTURES - 1].tolist())]
