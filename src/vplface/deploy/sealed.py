"""Files encrypted at rest: AES-256-GCM in blocks, with a key of 32 bytes from the environment or from a file.

A file is ``magic (8) | key id (8) | salt (16) | block | block …``. The key of the file is HKDF-SHA256 of the secret,
the salt and the magic; the salt is drawn anew for each file, so that no key is used for two. Block i of at most
:data:`BLOCK` bytes is encrypted with the nonce (i, 1 if it is the last one else 0), which detects blocks that are
changed, exchanged, repeated, cut off or appended (STREAM of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015); the
first 32 bytes of the file are authenticated with each block. The key id is derived from the secret, too: it tells a
wrong key from a damaged file. An earlier version of a whole file, put back by somebody, is not detected.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vplface.errors import DataError, UsageError, import_extra
from vplface.reading import read_text

KEY = "VPLFACE_GALLERY_KEY"
"""Environment variable that holds the key."""
KEY_FILE = "VPLFACE_GALLERY_KEY_FILE"
"""Environment variable that names the file of the key."""
BLOCK = 2**20
"""Bytes of a block before it is encrypted."""

Purpose = Literal["gallery", "index"]
_MAGIC: Mapping[Purpose, bytes] = {"gallery": b"VPLGAL01", "index": b"VPLIDX01"}
_ID, _SALT, _TAG = 8, 16, 16
_HEAD = 8 + _ID + _SALT
_KEY_BYTES = 32
_KEY_FILE_LIMIT = 4096


@dataclass(frozen=True)
class GalleryKey:
    """A secret of 32 bytes that encrypts galleries and their indexes."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str, where: str) -> GalleryKey:
        """The key written as 64 hexadecimal digits, or as base64 of 32 bytes.

        Raises:
            DataError: the text is neither; the message names ``where`` and not the text.
        """
        text = text.strip()
        try:
            if re.fullmatch("[0-9a-fA-F]{64}", text):
                return cls(bytes.fromhex(text))
            secret = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        except (ValueError, binascii.Error):
            secret = b""
        if len(secret) != _KEY_BYTES:
            raise DataError(
                f"{where}: not a key; a key is 64 hexadecimal digits, or base64 of 32 bytes. This makes one: "
                'python -c "import secrets; print(secrets.token_hex(32))"'
            )
        return cls(secret)

    @classmethod
    def of_environment(cls) -> GalleryKey | None:
        """The key in :data:`KEY`, or in the file that :data:`KEY_FILE` names; None if neither is set.

        Raises:
            UsageError: both are set.
            DataError: the file cannot be read, or there is no key in it.
        """
        text, path = os.environ.get(KEY), os.environ.get(KEY_FILE)
        if text and path:
            raise UsageError(f"both {KEY} and {KEY_FILE} are set; set one")
        if text:
            return cls.parse(text, KEY)
        return cls.parse(read_text(Path(path), limit=_KEY_FILE_LIMIT), path) if path else None

    @property
    def id(self) -> bytes:
        """Eight bytes that identify the key and do not reveal it."""
        return _derived(self.secret, b"", b"vplface key id", _ID)

    def seal(self, data: bytes, purpose: Purpose) -> bytes:
        """Encrypt the content of a file."""
        head = _MAGIC[purpose] + self.id + secrets.token_bytes(_SALT)
        cipher = self._cipher(head)
        view, count = memoryview(data), max(1, -(-len(data) // BLOCK))
        blocks = (
            cipher.encrypt(_nonce(number, number == count - 1), view[number * BLOCK : (number + 1) * BLOCK], head)
            for number in range(count)
        )
        return b"".join([head, *blocks])

    def unseal(self, data: bytes, purpose: Purpose, where: str) -> bytes:
        """Decrypt the content of a file.

        Raises:
            DataError: it was encrypted with another key or for another purpose, or is not what was written.
        """
        invalid = import_extra("cryptography.exceptions", "encryption").InvalidTag
        if not is_sealed(data, purpose) or len(data) < _HEAD + _TAG:
            raise DataError(f"{where}: damaged: not an encrypted file of this kind, or cut off")
        head, view = bytes(data[:_HEAD]), memoryview(data)[_HEAD:]
        there = head[8 : 8 + _ID]
        if there != self.id:
            raise DataError(
                f"{where}: encrypted with another key, {there.hex()}; the key that is given is {self.id.hex()}"
            )
        cipher = self._cipher(head)
        count = -(-len(view) // (BLOCK + _TAG))
        plain = []
        for number in range(count):
            block = view[number * (BLOCK + _TAG) : (number + 1) * (BLOCK + _TAG)]
            try:
                plain.append(cipher.decrypt(_nonce(number, number == count - 1), block, head))
            except (invalid, ValueError) as error:
                raise DataError(
                    f"{where}: damaged, or changed by somebody: block {number + 1} of {count} is not what was written; "
                    "restore the file from a backup"
                ) from error
        return b"".join(plain)

    def _cipher(self, head: bytes) -> Any:
        aead = import_extra("cryptography.hazmat.primitives.ciphers.aead", "encryption")
        return aead.AESGCM(_derived(self.secret, head[8 + _ID :], head[:8], _KEY_BYTES))


def is_sealed(data: bytes, purpose: Purpose) -> bool:
    """Whether a file is encrypted, by its first eight bytes."""
    return bytes(data[:8]) == _MAGIC[purpose]


def required_key(where: str) -> GalleryKey:
    """The key of the environment, for an encrypted file.

    Raises:
        DataError: there is none.
    """
    key = GalleryKey.of_environment()
    if key is None:
        raise DataError(
            f"{where}: encrypted; give its key in the environment variable {KEY}, or the file of the key in "
            f"{KEY_FILE}. Without the key nobody can read it: enrol the people again if it is lost"
        )
    return key


def _derived(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    hashes = import_extra("cryptography.hazmat.primitives.hashes", "encryption")
    hkdf = import_extra("cryptography.hazmat.primitives.kdf.hkdf", "encryption")
    derived: bytes = hkdf.HKDF(hashes.SHA256(), length, salt or None, info).derive(secret)
    return derived


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
