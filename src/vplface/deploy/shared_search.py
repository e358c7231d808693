"""Search of the gallery in a folder as it is at the moment, by any number of threads at once."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vplface.deploy.gallery import Gallery, Match
from vplface.deploy.gallery_folder import gallery_version, load_gallery
from vplface.deploy.gallery_search import Engine, Search
from vplface.evaluation.identification import TemplateKind


class SharedSearch:
    """Search that keeps a gallery and its index in memory, and reads them anew when the gallery has changed.

    A search that begins after a change was stored answers by the changed gallery: a person who was removed is not found
    any more. Searches run at once; while a changed gallery is read, they wait.

    Args:
        folder: folder of the gallery, which may appear later.
        engine: see :data:`~vplface.deploy.gallery_search.Engine`.
        templates: see :class:`~vplface.deploy.gallery_search.Search`.
    """

    def __init__(self, folder: Path, engine: Engine = "auto", templates: TemplateKind = "best") -> None:
        self._folder, self._engine, self._templates = folder, engine, templates
        self._lock = threading.Lock()
        self._held: tuple[tuple[int, ...], Gallery, Search] | None = None

    def __call__(self, probes: Float32[np.ndarray, "n dim"], k: int = 1) -> list[list[Match]]:
        """The ``k`` most similar people for each probe; raises as :meth:`current` and ``Search`` do."""
        return self.current()[1](probes, k)

    def forget(self) -> None:
        """Drop what is held in memory, after a removal for example; the next search reads the gallery."""
        with self._lock:
            self._held = None

    def current(self) -> tuple[Gallery, Search]:
        """The gallery as it is now, and a search of it, which any number of threads may call.

        Raises:
            DataError: there is no gallery, nobody is enrolled, or the file is damaged.
        """
        held, version = self._held, gallery_version(self._folder)
        if held is None or held[0] != version:
            with self._lock:
                # Before the file is read: if it is replaced in between, the next search reads it again.
                version = gallery_version(self._folder)
                held = self._held
                if held is None or held[0] != version:
                    self._held = held = None  # so that no removed person stays in memory if reading fails
                    gallery = load_gallery(self._folder)
                    self._held = held = (version, gallery, Search(gallery, self._engine, self._folder, self._templates))
        return held[1], held[2]
