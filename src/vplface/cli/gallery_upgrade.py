"""The upgrade of a gallery to another model, and its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vplface.cli.faces import FaceOptions, load_embedder
from vplface.cli.gallery_listing import count, people_count
from vplface.console import print_json, say
from vplface.errors import DataError
from vplface.printable import printable_name
from vplface.reading import kind_of

if TYPE_CHECKING:
    from vplface.deploy.upgrade import Upgrade

_NOTES = 10


def upgrade(
    gallery: Path, model: Path, places: list[Path], options: FaceOptions, allow_missing: bool, as_json: bool
) -> None:
    """Embed a gallery again with ``model`` from its pictures, at their paths or in ``places``.

    Raises:
        DataError: faces are missing and this was not allowed; the gallery is unchanged.
    """
    from vplface.cli.picture_files import picture_files  # torch and opencv take seconds to import
    from vplface.deploy.decision import load_operating_point, resolve_flip
    from vplface.deploy.gallery import EmbedderFingerprint
    from vplface.deploy.gallery_folder import load_gallery
    from vplface.deploy.upgrade import upgrade_gallery

    load_gallery(gallery)  # fail before the model is loaded
    for place in places:
        if kind_of(place) is None:
            raise DataError(f"{place}: no such folder; give the folders that hold the enrolled pictures")
    files, _ = picture_files(places)
    embedder = load_embedder(model, options.device, options.preprocessing)
    flip = options.flip or resolve_flip(load_operating_point(model, None, embedder.weights), None)
    fingerprint = EmbedderFingerprint.of(model, embedder, flip)
    done = upgrade_gallery(gallery, fingerprint, embedder, files, options.detector_model, allow_missing)
    if as_json:
        report = {
            "schema": 1,
            "gallery": str(gallery),
            "maker": fingerprint.to_dict(),
            "upgraded": done.stored,
            "pictures": dict(done.pictures),
            "missing": [{**vars(face), "path": face.path or None} for face in done.missing],
            "must_come_again": list(done.must_come_again),
        }
        print_json(report)
    else:
        _show_missing(done)
    again = f" {people_count(len(done.must_come_again))} must come again:" if done.must_come_again else ""
    names = ", ".join(map(printable_name, done.must_come_again[:_NOTES]))
    more = f" and {len(done.must_come_again) - _NOTES} more (--json names all)" * (len(done.must_come_again) > _NOTES)
    if not done.stored:
        raise DataError(
            f"{gallery}: unchanged, because the pictures of {count(len(done.missing), 'face')} are not found.{again} "
            f"{names}{more}{'.' if names else ''} Give the folders that hold these pictures after the gallery, or "
            "--allow-missing to continue without these faces"
        )
    if not as_json:
        left = f"; {count(len(done.missing), 'face')} left out.{again} {names}{more}" if done.missing else ""
        embedded = count(sum(done.pictures.values()), "face")
        say(f"{gallery}: embedded {embedded} of {people_count(len(done.pictures))} again with {model}{left}".rstrip())


def _show_missing(done: Upgrade) -> None:
    for face in done.missing[:_NOTES]:
        say(f"missing {face.path or face.file} ({printable_name(face.name)}): {face.reason}", file=sys.stderr)
    if len(done.missing) > _NOTES:
        say(f"... and {len(done.missing) - _NOTES} more; --json names all", file=sys.stderr)
