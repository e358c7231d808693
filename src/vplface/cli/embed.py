"""``vplface embed``: a file of the embeddings of pictures."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from jaxtyping import Float

from vplface.cli.alignment import LOOK
from vplface.cli.options import AS_JSON, DEVICE
from vplface.cli.picture_files import picture_files
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.console import print_json, say
from vplface.errors import DataError, UsageError
from vplface.reading import is_folder

if TYPE_CHECKING:
    from vplface.data.pictures import UnreadablePictureError
    from vplface.embedder import Embedder, Flip

_FORMATS = (".npz", ".csv", ".npy")
_BATCH_SIZE = 64


def embed(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: a run's folder, RUN/best, or an .onnx file written by vplface export.",
            show_default=False,
        ),
    ],
    pictures: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures of aligned faces, or folders of them, searched to any depth.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write. .npz: arrays 'names' and 'embeddings'. .csv: one line per picture. "
            ".npy: one array with the fields 'name' and 'embedding'.",
            show_default=False,
        ),
    ],
    flip: Annotated[
        Literal["none", "sum"],
        typer.Option(help="sum: add the embedding of the mirrored picture; slower, a little more accurate."),
    ] = "none",
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
    detector_model: LOOK = None,
    as_json: AS_JSON = False,
) -> None:
    """Turn pictures of aligned faces into embeddings: float32, of unit norm, so that a dot product is a cosine.

    Pictures that cannot be read are named, skipped and counted; it is an
    error only if none can be read.

    Example:  vplface embed runs/lfw/best photos/ --out embeddings.npz
    """
    if out.suffix not in _FORMATS:
        raise UsageError(f"--out {out}: the name must end in one of {', '.join(_FORMATS)}")
    from vplface.data.align.advice import warn_if_unaligned_files  # torch and opencv take seconds to import
    from vplface.data.folder_scan import but_note
    from vplface.data.pictures import read_whole
    from vplface.embedder import Embedder

    embedder = Embedder.load(model, device, preprocessing_of(color, mean, std))
    files, left_out = picture_files(pictures)
    if not files:
        raise DataError(f"no pictures in {', '.join(map(str, pictures))}{but_note(left_out)}")
    place = pictures[0] if is_folder(pictures[0]) else pictures[0].parent
    alignment = warn_if_unaligned_files(place, lambda index: read_whole(files[index]), len(files), detector_model)
    names, embeddings, unreadable = _embed_files(embedder, files, flip)
    for unread in unreadable:
        say(f"skipped {unread}", file=sys.stderr)
    if not names:
        raise DataError(f"none of the {len(files)} pictures can be read{but_note(left_out)}")
    if left_out:
        say(f"note: {left_out}", file=sys.stderr)
    digest = _write(out, names, embeddings, embedder)

    if as_json:
        report = {
            "schema": 1,
            "model": str(model),
            "protocol": {"flip": flip},
            "pictures": len(names),
            "embedding_dim": embedder.dim,
            "left_out": left_out.to_dict(),
            "alignment": alignment.to_dict(),
            "unreadable": [{"path": unread.where, "reason": unread.reason} for unread in unreadable],
            "files": {str(out): digest, **embedder.files},
        }
        print_json(report)
    else:
        skipped = f", skipped {len(unreadable)}" if unreadable else ""
        say(f"wrote {out}: {len(names)} embeddings of {embedder.dim} numbers{skipped}")


def _embed_files(
    embedder: Embedder, files: Sequence[Path], flip: Flip
) -> tuple[list[str], Float[np.ndarray, "n dim"], list[UnreadablePictureError]]:
    """Names and embeddings of the pictures that can be read, and the errors of the others."""
    from vplface.data.pictures import UnreadablePictureError
    from vplface.embedder import read_picture
    from vplface.progress import progress

    names: list[str] = []
    parts: list[Float[np.ndarray, "some dim"]] = []
    unreadable: list[UnreadablePictureError] = []
    with progress("embedding", len(files)) as advance:
        for start in range(0, len(files), _BATCH_SIZE):
            batch = {}
            for path in files[start : start + _BATCH_SIZE]:
                try:
                    batch[str(path)] = read_picture(path, embedder.card.preprocessing.size)
                except UnreadablePictureError as error:
                    unreadable.append(error)
            parts.append(embedder([*batch.values()], flip, names=[*batch]))
            names += batch
            advance(min(_BATCH_SIZE, len(files) - start))
    return names, np.concatenate(parts), unreadable


def _write(out: Path, names: list[str], embeddings: Float[np.ndarray, "n dim"], embedder: Embedder) -> str:
    """Write the file; returns its SHA-256."""
    from vplface.evaluation.provenance import hashes
    from vplface.files import PRIVATE, replacing

    with replacing(out, PRIVATE) as path:
        if out.suffix == ".npz":
            np.savez(
                path,
                names=np.array(names),
                embeddings=embeddings,
                model_card=np.array(embedder.card.to_json()),
                model_files=np.array(json.dumps(embedder.files)),
            )
        elif out.suffix == ".npy":
            rows = np.empty(
                len(names), [("name", np.array(names).dtype), ("embedding", np.float32, embeddings.shape[1])]
            )
            rows["name"], rows["embedding"] = names, embeddings
            np.save(path, rows)
        else:
            with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                writer.writerow(["name", *(f"e{index}" for index in range(embeddings.shape[1]))])
                for name, embedding in zip(names, embeddings, strict=True):
                    writer.writerow([name, *(format(value, ".9g") for value in embedding)])
        return hashes([path])[str(path)]
