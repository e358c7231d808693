"""The training pictures of a configuration, and the identities that are held out."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

from vplface.config import DataConfig, Source, SyntheticConfig
from vplface.console import say
from vplface.data.align.advice import warn_if_unaligned
from vplface.data.drop import indices_without, read_drop
from vplface.data.formats import open_pictures
from vplface.data.people import read_people
from vplface.data.pictures import PictureSet
from vplface.data.selection import Joined, Subset, narrow, split_identities
from vplface.data.spelling import spelled_as_in
from vplface.data.synthetic_folder import write_synthetic
from vplface.errors import ConfigError, DataError
from vplface.reading import is_file
from vplface_synthetic import SyntheticFaces


def open_sources(sources: list[Source], tested: Collection[str] = (), *, write: bool = True) -> PictureSet:
    """Open all sources as one set; identities of different sources are different.

    Args:
        sources: the sources.
        tested: people to leave out of every source, see :func:`vplface.training.evaluation_sets.people_of_fold`.
        write: write generated faces to disk, where training reads them; else each is generated when it is read.

    Raises:
        ConfigError: if fewer than two identities remain.
        DataError: if a folder or a list is missing or damaged; it names the key of the source.
    """
    sets = []
    for number, source in enumerate(sources):
        try:
            sets.append(open_source(source, tested, write=write))
        except DataError as error:
            raise DataError(f"data.train.{number}: {error}") from error
    joined = sets[0] if len(sets) == 1 else Joined(sets)
    if len(joined.identities) < 2:
        folders = ", ".join(str(source.path) for source in sources)
        raise ConfigError(f"{folders}: {len(joined.identities)} identity remains; training needs at least two")
    return joined


def open_training(
    data: DataConfig, seed: int, tested: Collection[str] = (), *, write: bool = True
) -> tuple[PictureSet, PictureSet | None]:
    """Open the training pictures, and the held-out identities for validation (None if there are none).

    Args:
        data: the section of the configuration.
        seed: of the choice of held-out identities.
        tested: see :func:`open_sources`.
        write: see :func:`open_sources`.

    Raises:
        ConfigError: if fewer than two people are left.
        DataError: see :func:`open_sources`.
    """
    pictures = open_sources(data.train, tested, write=write)
    if not data.holdout:
        return pictures, None
    rest, aside = split_identities(pictures, data.holdout, seed)
    if len(rest.identities) < 2:
        raise ConfigError(
            f"data.holdout keeps {len(aside.identities)} of {len(pictures.identities)} people aside and leaves one to"
            " train on; training needs at least two. Lower data.holdout, or set it to 0"
        )
    return rest, aside


def open_source(source: Source, tested: Collection[str] = (), *, write: bool = True) -> PictureSet:
    """Open one source, without the people who are tested; a synthetic one is generated first."""
    pictures: PictureSet
    if source.synthetic is not None and not write:
        pictures = SyntheticFaces(**source.synthetic.model_dump())
    else:
        if source.synthetic is not None:
            generate(source.path, source.synthetic)
        pictures = stored = open_pictures(source.path, source.split)
        if stored.left_out:
            say(f"note: {source.path}: {stored.left_out}", file=sys.stderr)
        if source.synthetic is None and os.environ.get("RANK", "0") == "0":  # of several processes one says it
            warn_if_unaligned(source.path, stored, source.split)
    if source.drop is not None:
        pictures = Subset(pictures, indices_without(pictures, read_drop(source.drop), source.path))
    excluded = set() if source.exclude is None else _read_excluded(source.exclude)
    if excluded and not spelled_as_in(pictures.identities, excluded).intersection(pictures.identities):
        print(
            f"{source.exclude}: none of its {len(excluded)} people is in {source.path}, where they are called"
            f" {pictures.identities[0]!r} and so on; nobody is excluded",
            file=sys.stderr,
        )
    return narrow(
        pictures,
        None if source.people is None else read_people(source.people),
        excluded.union(tested),
        source.min_pictures,
        source.max_pictures,
        source.path,
    )


def _read_excluded(path: Path) -> set[str]:
    """The people on a list of exclusions, which may be empty."""
    return set(read_people(path)) if not is_file(path) or path.stat().st_size else set()


def generate(folder: Path, synthetic: SyntheticConfig) -> None:
    """Write the generated faces of a source to its folder, unless they are there already."""
    write_synthetic(folder, SyntheticFaces(**synthetic.model_dump()), workers=os.cpu_count() or 1)
