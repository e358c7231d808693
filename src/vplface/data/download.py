"""Resumable downloads with a checksum, and safe unpacking of archives."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import re
import shutil
import ssl
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vplface.errors import DataError
from vplface.files import claimed
from vplface.progress import progress
from vplface.reading import is_file, is_folder

TIMEOUT = 30.0
"""Seconds without an answer after which a server counts as unreachable."""

_BLOCK = 1 << 16
_MAX_UNPACKED, _MAX_MEMBERS = 2**33, 10**6
"""Limits of the unpacked bytes and members of an archive."""

# ValueError: invalid headers and addresses
_FAULTS = (
    urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError, ValueError
)  # fmt: skip


@dataclass(frozen=True)
class File:
    """File to download.

    Attributes:
        name: name of the file, or of the folder into which an archive is unpacked.
        urls: URLs, tried in order.
        algorithm: hash of the digest: "sha256", or "md5" if no other is published, which detects damage but not malice.
        digest: digest of the file, in hex.
        archive: whether the file is a .tar.gz of one folder, to be unpacked.
        max_bytes: largest accepted size.
    """

    name: str
    urls: Sequence[str]
    algorithm: str
    digest: str
    archive: bool = False
    max_bytes: int = 2**30


def fetch(file: File, folder: Path) -> bool:
    """Download to ``folder/name``, resuming an interrupted download.

    Returns:
        Whether anything was downloaded; False if the file exists.

    Raises:
        DataError: no URL gives the file, its digest is wrong, or it cannot be written. A partial download is kept
            unless it is wrong.
    """
    target = folder / file.name
    if _is_complete(target, file):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(target):
            _fetch(file, folder, target)
    except OSError as error:
        where = error.filename or target
        raise DataError(
            f"cannot write {where}: {error.strerror or error}; free some space or choose another folder (--to), then "
            "repeat the command to resume"
        ) from error
    return True


def _is_complete(target: Path, file: File) -> bool:
    return is_folder(target) if file.archive else _matches_digest(target, file)


def _fetch(file: File, folder: Path, target: Path) -> None:
    part = folder / f".{file.name}.part"
    if not _matches_digest(part, file):
        _download(file, part)
    if file.archive:
        _unpack(part, folder / f".{file.name}.unpacking", target)
        part.unlink()
    else:
        part.replace(target)


def _download(file: File, part: Path) -> None:
    faults = []
    for url in file.urls:
        for attempt in range(2):
            before = part.stat().st_size if part.exists() else 0
            try:
                _receive(url, part, file)
            except _FAULTS as error:
                if _matches_digest(part, file):  # a server that promises more than there is
                    return
                faults.append(f"{url}: {_reason(error)}")
                if isinstance(error, urllib.error.HTTPError) and error.code == 416 and before and not attempt:
                    part.unlink()  # longer than the file: it is part of another one
                    continue
                break
            if _matches_digest(part, file):
                return
            faults.append(f"{url}: the file there has another {file.algorithm} than {file.digest}: damaged or replaced")
            part.unlink()
            if not before:  # otherwise the earlier part may have been wrong
                break
    come = part.stat().st_size if part.exists() else 0
    kept = f"\n{come:,} bytes are kept; repeat the command to resume" if come else ""
    raise DataError(f"{file.name} cannot be downloaded:\n  " + "\n  ".join(faults) + kept)


def _receive(url: str, part: Path, file: File) -> None:
    """Append to ``part`` the missing rest of the file at a URL."""
    received = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vplface"})
    if received:
        request.add_header("Range", f"bytes={received}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {received}-")
        if received and not goes_on:
            received = 0
        length = answer.headers.get("Content-Length", "")
        total = received + int(length) if re.fullmatch("[0-9]{1,15}", length) else None
        _require_size(total or 0, file, part)
        with (
            part.open("ab" if received else "wb") as stored,
            progress(f"downloading {file.name}", total, received) as advance,
        ):
            while block := _block(answer):
                received += len(block)
                _require_size(received, file, part)
                stored.write(block)
                advance(len(block))
        if total is not None and received < total:
            raise http.client.IncompleteRead(b"", total - received)


def _block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_BLOCK)
    except _FAULTS:
        raise
    except OSError as error:  # of the network, not of the disk
        raise ConnectionError(error.strerror or str(error)) from error


def _require_size(size: int, file: File, part: Path) -> None:
    if size > file.max_bytes:
        part.unlink(missing_ok=True)
        raise ValueError(f"the file there is larger than {file.max_bytes:,} bytes, the limit for {file.name}")


def _reason(error: Exception) -> str:
    match error:
        case urllib.error.HTTPError():
            return f"the server answers {error.code} {_one_line(error.reason)}"
        case http.client.IncompleteRead():
            before = "before the end" if error.expected is None else f"{error.expected:,} bytes before the end"
            return f"the connection broke off, {before}"
        case urllib.error.URLError():
            return f"cannot be reached: {_one_line(error.reason)}; is this machine online?"
        case TimeoutError():
            return f"no answer within {TIMEOUT:.0f} seconds"
    return _one_line(error) or type(error).__name__


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


def _matches_digest(path: Path, file: File) -> bool:
    if not is_file(path):
        return False
    with path.open("rb") as stored:
        return hashlib.file_digest(stored, file.algorithm).hexdigest() == file.digest


def _unpack(archive: Path, working: Path, target: Path) -> None:
    """Unpack the only folder of an archive to ``target``; members cannot be written outside."""
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    try:
        with tarfile.open(archive, "r:*") as tar, progress(f"unpacking {target.name}", None) as advance:
            size = 0
            for number, member in enumerate(tar, start=1):
                size += member.size
                if size > _MAX_UNPACKED or number > _MAX_MEMBERS:
                    raise tarfile.ReadError(
                        f"it unpacks to more than {_MAX_UNPACKED:,} bytes or {_MAX_MEMBERS:,} files"
                    )
                tar.extract(member, working, filter="data")
                advance(1)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError, MemoryError) as error:
        shutil.rmtree(working, ignore_errors=True)
        raise DataError(f"{archive}: cannot be unpacked: {error}; delete it and repeat the command") from error
    found = [path for path in working.iterdir() if path.is_dir()]
    if len(found) != 1:
        raise DataError(f"{archive}: holds {len(found)} folders, one was expected; delete it and repeat the command")
    found[0].rename(target)
    shutil.rmtree(working, ignore_errors=True)
