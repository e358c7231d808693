"""``vplface enroll``: additions to a gallery, removals from it, and its list of people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vplface import bounds
from vplface.cli.faces import ALIGN, DETECTOR_MODEL, FLIP_OF_POINT, FaceOptions, gallery_model, load_embedder
from vplface.cli.gallery_exchange import export_gallery, import_gallery
from vplface.cli.gallery_listing import count, encrypt, expire, list_people, people_count
from vplface.cli.gallery_upgrade import upgrade
from vplface.cli.options import AS_JSON, DEVICE
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.cli.quality_gate import GATE_SCORE, MIN_QUALITY, quality_check
from vplface.console import print_json, say
from vplface.errors import DataError, UsageError
from vplface.printable import printable_name

if TYPE_CHECKING:
    from vplface.data.folder_scan import LeftOut
    from vplface.deploy.enrolment import Enrolment
    from vplface.deploy.gallery import EmbedderFingerprint

_NOTES = 10


def enroll(
    gallery: Annotated[
        Path, typer.Argument(help="The gallery: a folder, created if it does not exist.", show_default=False)
    ],
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            help="With --name: pictures of that person, or folders of them. Without: folders FOLDER/NAME/PICTURE of "
            "several people.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the person, any text.", show_default=False)] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="The model: a run's folder, RUN/best, or an .onnx file. A gallery works only with the model it was "
            "created with, and stores its path.",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead: delete this person and all their embeddings; may be repeated.",
            show_default=False,
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Instead: list the people enrolled, with the days of their enrolment.")
    ] = False,
    expire_: Annotated[
        str | None,
        typer.Option(
            "--expire",
            help="Instead: list the pictures that were enrolled this long ago or longer: 2y, 18m (months), 6w, 90d.",
            show_default=False,
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="With --expire: delete these pictures, and people without any left.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Instead: write the gallery to this .parquet file, for vector databases.", show_default=False
        ),
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Instead: add the rows of such a file. If the file does not name their model, --model does.",
            show_default=False,
        ),
    ] = None,
    encrypt_: Annotated[
        bool | None,
        typer.Option(
            "--encrypt/--decrypt",
            help="Instead: encrypt the gallery with the key in VPLFACE_GALLERY_KEY or in the file that "
            "VPLFACE_GALLERY_KEY_FILE names, or store it without encryption. With a key, new galleries are encrypted.",
            show_default=False,
        ),
    ] = None,
    upgrade_: Annotated[
        Path | None,
        typer.Option(
            "--upgrade",
            metavar="MODEL",
            help="Instead: embed everybody again with this model, from the pictures at the paths where they were "
            "enrolled, or in the folders given after the gallery, where they are found by their hash.",
            show_default=False,
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="With --upgrade: leave out faces whose picture is not found. Without it, the gallery then stays as it "
            "is.",
        ),
    ] = False,
    face: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=bounds.LARGEST,
            help="Which face, if the one picture that is given shows several: 1, the default, is the largest.",
            show_default=False,
        ),
    ] = None,
    quality: GATE_SCORE = None,
    min_quality: MIN_QUALITY = None,
    align: ALIGN = "auto",
    detector_model: DETECTOR_MODEL = None,
    flip: FLIP_OF_POINT = None,
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
    as_json: AS_JSON = False,
) -> None:
    """Add people to a gallery, which vplface identify searches, or remove them.

    Several varied pictures of a person work better than one. Of a
    photograph with several faces the largest is taken. Pictures that show
    no face, cannot be read, are too poor (--min-quality) or are enrolled already are skipped. All of
    this is reported. Repeat the command to complete an interrupted run.

    Enrol only people who have agreed to it. A gallery holds biometric data:
    embeddings, names, dates, hashes and paths of pictures. It holds no pictures.

    vplface enroll people --model runs/lfw/best --name "Ada Lovelace" 1.jpg 2.jpg
    vplface enroll people --model runs/lfw/best photos/
    vplface enroll people --list
    vplface enroll people --remove "Ada Lovelace"
    vplface enroll people --expire 2y --delete
    vplface enroll people --upgrade runs/new/best
    """
    adding = bool(pictures) and upgrade_ is None
    modes = [
        adding,
        bool(remove),
        list_ or expire_ is not None,
        upgrade_ is not None,
        encrypt_ is not None,
        export is not None,
        import_ is not None,
    ]
    if sum(modes) != 1:
        raise UsageError(
            "give pictures to enrol, or --remove NAME, or --list, --expire PERIOD, --upgrade MODEL, --export FILE, "
            "--import FILE or --encrypt" + (", one of them" if any(modes) else "")
        )
    if delete and (expire_ is None or list_):
        raise UsageError("--delete goes with --expire PERIOD" + (", and --list deletes nothing" if list_ else ""))
    if allow_missing and upgrade_ is None:
        raise UsageError("--allow-missing goes with --upgrade MODEL")
    if not adding and (name is not None or face is not None):
        raise UsageError("--name and --face need pictures; give some")
    options = FaceOptions(align, detector_model, flip, preprocessing_of(color, mean, std), device)
    if expire_ is not None:
        expire(gallery, expire_, delete, as_json)
    elif export is not None:
        export_gallery(gallery, export, as_json)
    elif import_ is not None:
        import_gallery(gallery, import_, model, options, as_json)
    elif encrypt_ is not None:
        encrypt(gallery, encrypt_, as_json)
    elif list_:
        list_people(gallery, as_json)
    elif remove:
        _remove(gallery, remove, as_json)
    elif upgrade_ is not None:
        if model is not None:
            raise UsageError("--upgrade MODEL names the new model; leave out --model")
        upgrade(gallery, upgrade_, pictures or [], options, allow_missing, as_json)
    elif pictures:
        _add(gallery, pictures, name, model, face, options, (quality, min_quality), as_json)


def _add(
    gallery: Path,
    pictures: list[Path],
    name: str | None,
    model: Path | None,
    face: int | None,
    options: FaceOptions,
    gate: tuple[str | None, float | None],
    as_json: bool,
) -> None:
    from vplface.deploy.decision import (  # torch and opencv take seconds to import
        load_operating_point,
        resolve_flip,
        resolve_threshold,
    )
    from vplface.deploy.enrolment import enrol
    from vplface.deploy.faces import FaceReader
    from vplface.deploy.gallery import EmbedderFingerprint, normalise_name
    from vplface.deploy.gallery_folder import has_gallery, is_encrypted, load_gallery, require_gallery_or_empty
    from vplface.deploy.sealed import GalleryKey

    require_gallery_or_empty(gallery)
    there = load_gallery(gallery).fingerprint if has_gallery(gallery) else None
    if there is not None:
        model = gallery_model(there, model)
    elif model is None:
        raise UsageError(f"{gallery} is a new gallery: give its model with --model")
    sources, left_out = _sources(pictures, None if name is None else normalise_name(name))
    if face is not None and len(sources) > 1:
        raise UsageError(f"--face {face} applies to one picture, but there are {len(sources)}")
    prepared = options.preprocessing or (None if there is None else there.preprocessing)
    embedder = load_embedder(model, options.device, prepared)
    flip, point = options.flip, load_operating_point(model, None, embedder.weights)
    if flip is None:
        flip = resolve_flip(point, None) if there is None else there.flip
    fingerprint = EmbedderFingerprint.of(model, embedder, flip)
    if there is not None:
        there.require_same(fingerprint, str(gallery))
    read = FaceReader(fingerprint.preprocessing.size, options.align, options.detector_model)
    check = quality_check(point, *gate, options.device)
    if check is not None and gate[1] is None:  # the least quality is that of the operating point
        resolve_threshold(model, point, None, flip, fingerprint.preprocessing)
    done = enrol(gallery, fingerprint, embedder, read, sources, face, check=check)
    if GalleryKey.of_environment() is not None and has_gallery(gallery) and not is_encrypted(gallery):
        say(f"note: {gallery} is not encrypted, though there is a key; --encrypt does it", file=sys.stderr)
    _print_enrolment(gallery, fingerprint, done, left_out, as_json)


def _print_enrolment(
    gallery: Path, fingerprint: EmbedderFingerprint, done: Enrolment, left_out: LeftOut, as_json: bool
) -> None:
    from vplface.deploy.faces import describe_boxes

    for passed in done.skipped[:_NOTES]:
        say(f"skipped {passed.path} ({printable_name(passed.name)}): {passed.reason}", file=sys.stderr)
    if len(done.skipped) > _NOTES:
        say(f"... and {len(done.skipped) - _NOTES} more; --json names all", file=sys.stderr)
    for several in done.several[:_NOTES]:
        faces = f"{len(several.boxes)} faces{describe_boxes(several.boxes)}"
        say(f"note: {several.path} shows {faces}; taken: {several.taken}", file=sys.stderr)
    if len(done.several) > _NOTES:
        say(f"... and {len(done.several) - _NOTES} more with several faces; --json names all", file=sys.stderr)
    if left_out:
        say(f"note: {left_out}", file=sys.stderr)
    if not done.added and not done.already_enrolled:
        raise DataError(f"{gallery}: none of the {len(done.skipped)} pictures could be enrolled")
    if as_json:
        report = {
            "schema": 1,
            "gallery": str(gallery),
            "maker": fingerprint.to_dict(),
            "added": done.added,
            "there_already": done.already_enrolled,
            "passed_over": [{**vars(passed), "path": str(passed.path)} for passed in done.skipped],
            "left_out": left_out.to_dict(),
            "several_faces": [{**vars(several), "path": str(several.path)} for several in done.several],
        }
        print_json(report)
        return
    added = count(sum(done.added.values()), "picture")
    there = f"; {done.already_enrolled} were already enrolled" if done.already_enrolled else ""
    over = f"; skipped {len(done.skipped)}" if done.skipped else ""
    say(f"{gallery}: enrolled {added} of {people_count(len(done.added))}{there}{over}")


def _sources(places: list[Path], name: str | None) -> tuple[list[tuple[str, Path]], LeftOut]:
    """(name, picture) for all pictures in these places, and the files left out."""
    from vplface.cli.picture_files import picture_files
    from vplface.data.folder_scan import LeftOut, but_note
    from vplface.data.formats.image_folder import ImageFolder
    from vplface.deploy.gallery import normalise_name
    from vplface.reading import is_file

    if name is not None:
        files, left_out = picture_files(places)
        if not files:
            raise DataError(f"no pictures in {', '.join(map(str, places))}{but_note(left_out)}")
        return [(name, path) for path in files], left_out
    sources: list[tuple[str, Path]] = []
    left_out = LeftOut()
    for place in places:
        if is_file(place):
            raise UsageError(f"{place} is a picture without the name of a person: give it with --name")
        people = ImageFolder(place)
        left_out += people.left_out
        sources += [
            (normalise_name(people.identities[label]), people.path(index))
            for index, label in enumerate(people.labels.tolist())
        ]
    return sources, left_out


def _remove(gallery: Path, names: list[str], as_json: bool) -> None:
    from vplface.deploy.gallery_folder import remove_people

    pictures = remove_people(gallery, names)
    if as_json:
        print_json({"schema": 1, "gallery": str(gallery), "removed": names, "pictures": pictures})
    else:
        removed = f"{', '.join(map(printable_name, names))}, {count(pictures, 'picture')}"
        say(f"{gallery}: removed {removed}; delete backups and copies yourself")
