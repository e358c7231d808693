"""The list of the people of a gallery, and of the pictures whose time has expired."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vplface.console import print_json, say
from vplface.printable import printable_name

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

    from vplface.deploy.gallery import Gallery


def list_people(folder: Path, as_json: bool) -> None:
    """Print the people of a gallery with their pictures and the days of their enrolment."""
    from vplface.deploy.gallery_folder import is_encrypted, load_gallery

    people, encrypted = load_gallery(folder), is_encrypted(folder)
    if as_json:
        report = {
            "schema": 1,
            "gallery": str(folder),
            "encrypted": encrypted,
            "maker": people.fingerprint.to_dict(),
            "people": _pictures_by_name(people),
        }
        print_json(report)
        return
    days = _days(people)
    for name, pictures in people.pictures.items():
        say(f"{printable_name(name)}  {pictures}  {days[name]}")
    fingerprint = people.fingerprint
    enrolled = f"{people_count(len(people.names))}, {count(len(people), 'picture')}"
    say(f"{enrolled}; model {printable_name(fingerprint.model)}, flip {fingerprint.flip}{'; encrypted' * encrypted}")


def expire(folder: Path, period: str, delete: bool, as_json: bool) -> None:
    """List or delete the pictures that were enrolled one period ago or earlier.

    Raises:
        UsageError: the period cannot be read.
    """
    from vplface.deploy.gallery_folder import load_gallery, remove_pictures
    from vplface.deploy.retention import Period

    before = Period.parse(period).before(datetime.now(UTC)).replace(microsecond=0)

    def has_expired(gallery: Gallery) -> Bool[np.ndarray, " n"]:
        return gallery.records.enrolled_until(before)

    people = remove_pictures(folder, has_expired) if delete else load_gallery(folder)
    expired = people.keeping(has_expired(people))
    if as_json:
        report = {
            "schema": 1,
            "gallery": str(folder),
            "enrolled_until": before.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "deleted": delete,
            "expired": [
                {**person, "all": len(person["pictures"]) == people.pictures[person["name"]]}
                for person in _pictures_by_name(expired)
            ],
            "undated": people.records.undated,
        }
        print_json(report)
        return
    days = _days(expired)
    for name, pictures in expired.pictures.items():
        say(f"{printable_name(name)}  {pictures} of {people.pictures[name]}  {days[name]}")
    what = f"{count(len(expired), 'picture')} of {people_count(len(expired.names))}, enrolled until {before:%Y-%m-%d}"
    if delete:
        say(f"{folder}: deleted {what}; delete backups and copies yourself")
    elif len(expired):
        say(f"{folder}: expired: {what}; nothing was deleted, --delete does it")
    else:
        say(f"{folder}: nothing has expired: {what}")
    if undated := people.records.undated:
        say(
            f"note: {count(undated, 'picture')} without a date of enrolment, by an earlier version, never "
            f"expire{'s' if undated == 1 else ''}; --list shows whose, --remove NAME deletes them",
            file=sys.stderr,
        )


def encrypt(folder: Path, encrypted: bool, as_json: bool) -> None:
    """Encrypt a gallery with the key of the environment, or store it without encryption."""
    from vplface.deploy.gallery_folder import set_encryption

    set_encryption(folder, encrypted)
    if as_json:
        print_json({"schema": 1, "gallery": str(folder), "encrypted": encrypted})
    elif encrypted:
        say(f"{folder}: encrypted; keep a copy of the key elsewhere, and delete older copies of the gallery yourself")
    else:
        say(f"{folder}: stored without encryption")


def _pictures_by_name(people: Gallery) -> list[dict[str, Any]]:
    from vplface.deploy.picture_records import iso_time

    pictures: dict[str, list[dict[str, str | None]]] = {name: [] for name in people.names}
    rows = zip(
        people.person.tolist(),
        people.files,
        people.sha256,
        people.records.enrolled.tolist(),
        people.records.paths,
        strict=True,
    )
    for person, file, digest, enrolled, path in rows:
        entry = {"file": file, "sha256": digest.tobytes().hex(), "enrolled": iso_time(enrolled), "path": path or None}
        pictures[people.names[person]].append(entry)
    return [{"name": name, "pictures": listed} for name, listed in pictures.items()]


def _days(people: Gallery) -> dict[str, str]:
    """The first and the last day of enrolment of each person, in words."""
    from vplface.deploy.picture_records import iso_day

    days: dict[str, set[str | None]] = {name: set() for name in people.names}
    for person, enrolled in zip(people.person.tolist(), people.records.enrolled.tolist(), strict=True):
        days[people.names[person]].add(iso_day(enrolled))
    texts = {}
    for name, found in days.items():
        dated = sorted(day for day in found if day is not None)
        first_and_last = f"{dated[0]} to {dated[-1]}" if len(dated) > 1 else "".join(dated)
        texts[name] = ", ".join(filter(None, [first_and_last, "undated" if None in found else ""]))
    return texts


def count(number: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def people_count(number: int) -> str:
    """``1 person``, ``2 people``."""
    return "1 person" if number == 1 else f"{number:,} people"
