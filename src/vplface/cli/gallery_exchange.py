"""Galleries to and from Parquet files."""

from __future__ import annotations

import sys
from pathlib import Path

from vplface.cli.faces import FaceOptions, load_embedder
from vplface.cli.gallery_listing import count, people_count
from vplface.console import print_json, say
from vplface.errors import UsageError
from vplface.printable import printable_name

_NOTES = 10


def export_gallery(gallery: Path, path: Path, as_json: bool) -> None:
    """Write a gallery to a Parquet file.

    Raises:
        UsageError: the name of the file does not end in .parquet.
    """
    from vplface.deploy.gallery_folder import is_encrypted, load_gallery
    from vplface.deploy.gallery_parquet import export_parquet
    from vplface.evaluation.provenance import hashes

    if path.suffix != ".parquet":
        raise UsageError(f"--export {path}: the name must end in .parquet")
    people = load_gallery(gallery)
    export_parquet(people, path)
    if is_encrypted(gallery):
        say(f"note: {path} is not encrypted", file=sys.stderr)
    if as_json:
        report = {
            "schema": 1,
            "gallery": str(gallery),
            "exported": str(path),
            "people": len(people.names),
            "pictures": len(people),
            "files": hashes([path]),
        }
        print_json(report)
    else:
        say(f"wrote {path}: {people_count(len(people.names))}, {count(len(people), 'picture')}")


def import_gallery(gallery: Path, path: Path, model: Path | None, options: FaceOptions, as_json: bool) -> None:
    """Add the rows of a Parquet file to a gallery; ``model`` is that of a file that does not name one."""
    from vplface.deploy.decision import load_operating_point, resolve_flip
    from vplface.deploy.gallery import EmbedderFingerprint
    from vplface.deploy.gallery_folder import require_gallery_or_empty
    from vplface.deploy.gallery_parquet import import_parquet

    require_gallery_or_empty(gallery)
    fingerprint = None
    if model is not None:
        embedder = load_embedder(model, options.device, options.preprocessing)
        flip = options.flip or resolve_flip(load_operating_point(model, None, embedder.weights), None)
        fingerprint = EmbedderFingerprint.of(model, embedder, flip)
    added, known = import_parquet(path, gallery, fingerprint)
    conflicts = [(face, owner) for face, owner in known if face.name != owner]
    for face, owner in conflicts[:_NOTES]:
        say(
            f"skipped {face.file} ({printable_name(face.name)}): this face is already enrolled as {owner!r}",
            file=sys.stderr,
        )
    if as_json:
        report = {
            "schema": 1,
            "gallery": str(gallery),
            "imported": str(path),
            "added": added,
            "there_already": len(known) - len(conflicts),
            "passed_over": [{"name": face.name, "file": face.file, "enrolled_as": owner} for face, owner in conflicts],
        }
        print_json(report)
        return
    there = f"; {len(known) - len(conflicts)} were already enrolled" if len(known) > len(conflicts) else ""
    over = f"; skipped {len(conflicts)}" if conflicts else ""
    say(f"{gallery}: imported {count(added, 'picture')} from {path}{there}{over}")
