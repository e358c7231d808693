"""The formats of picture sets, one row each: how a path is recognised, and where the reader and the writer are.

| format | path |
|---|---|
| list | a .csv, .tsv or .parquet file with the columns path, label and maybe split |
| list of other tools | a .lst or .txt file of lines such as PATH LABEL, without column names |
| Hugging Face Parquet | a .parquet file with a column of pictures, a folder of them, or of CONFIG/SPLIT/0000.parquet |
| zip archive | a .zip file of folders, one per identity |
| InsightFace RecordIO | a .rec file, or a folder that holds one, with its .idx |
| WebDataset shards | a .tar file, a folder of them, or a pattern such as train-{000..127}.tar or train-*.tar |
| InsightFace verification set | a .bin file |
| image folder | a folder ROOT/IDENTITY/PICTURE |

This module imports no format, so that ``vplface data convert --help`` is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["folder", "recordio", "tar", "parquet", "list", "bin"]
"""The formats that ``vplface data convert`` writes, by name."""


@dataclass(frozen=True)
class FormatRow:
    """A format.

    Attributes:
        title: in error messages.
        suffixes: of its files, in small letters.
        compressed: suffixes that are also recognised, so that the reader can explain why it does not read them.
        reader: ``"module:name"`` in ``vplface.data.formats``: opens a path; takes the split, too, if ``splits``.
        name: in ``--to``; None if it is only read.
        writer: ``"module:name"`` of its ``PictureWriter``; None if it is only read, or holds pairs.
        folder: whether a folder is a set of this format; None if no folder is.
        splits: whether a part of a set can be chosen by name.
    """

    title: str
    suffixes: tuple[str, ...]
    reader: str
    name: Format | None = None
    writer: str | None = None
    folder: Callable[[Path], bool] | None = None
    compressed: tuple[str, ...] = ()
    splits: bool = False


def _holds_parquet(folder: Path) -> bool:
    from vplface.data.formats.parquet_files import holds_parquet

    return holds_parquet(folder)


FORMATS = (
    FormatRow(
        "list", (".csv", ".tsv"), "picture_list:PictureList", "list", "picture_list:PictureListWriter", splits=True
    ),
    FormatRow(
        "Parquet",
        (".parquet",),
        "parquet:open_parquet",
        "parquet",
        "parquet:ParquetWriter",
        folder=_holds_parquet,
        splits=True,
    ),
    FormatRow("list of other tools", (".lst", ".txt"), "text_list:open_text_list"),
    FormatRow("zip", (".zip",), "zip_archive:ZipArchive", splits=True),
    FormatRow(
        "RecordIO",
        (".rec",),
        "recordio:RecordIO",
        "recordio",
        "recordio:RecordIOWriter",
        folder=lambda path: any(path.glob("*.rec")),
    ),
    FormatRow(
        "tar shards",
        (".tar",),
        "tar_shards:TarShards",
        "tar",
        "tar_shards:TarShardsWriter",
        folder=lambda path: any(path.glob("*.tar")),
        compressed=(".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    ),
    FormatRow("verification set", (".bin",), "verification_bin:VerificationBin", "bin"),
)
"""The formats, in the order in which a path is compared with them; a folder that fits none is an image folder."""

FOLDER = FormatRow("image folder", (), "image_folder:ImageFolder", "folder", "image_folder:ImageFolderWriter")
"""The format of a folder ROOT/IDENTITY/PICTURE."""
