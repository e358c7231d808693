"""Gradio page with four tabs, and its event handlers.

Gradio stores an upload as a file and passes its path; the handlers read and delete that file first. The pictures of a
visit are kept in its session state, in memory only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from vplface.demo import fragments
from vplface.demo.fragments import PhotographView
from vplface.demo.middleware import REPORT, run_folder_of
from vplface.demo.recogniser import MAX_NAME_LENGTH, Recogniser
from vplface.demo.uploads import MAX_PICTURE_BYTES, MAX_PICTURES, take_uploads
from vplface.deploy.faces import Photograph
from vplface.errors import DataError, VplfaceError, import_extra
from vplface.paths import argument
from vplface.report.markup import Markup, join, tag

T = TypeVar("T")

_SESSION_TTL = 1800
"""Seconds that the pictures of a visit are kept."""

_NO_PICTURE = f"No picture yet. Jpg, png, webp or bmp, up to {MAX_PICTURE_BYTES // 2**20} MB."
_CONSENT = "These people have agreed to it, know what for, and can take it back."


class Page:
    """Web page of a recogniser.

    Args:
        recogniser: the model in use.
        uploads: folder in which gradio stores uploads.
        kept: whether the gallery is kept when the server ends.
        report: whether there is a report to show.
    """

    def __init__(self, recogniser: Recogniser, uploads: Path, kept: bool, report: bool) -> None:
        self._recogniser = recogniser
        self._uploads = uploads
        self._kept = kept
        self._report = report
        self._gr: Any = import_extra("gradio", "demo")
        self._model_lock = threading.Lock()

    def blocks(self) -> Any:
        """The page as gradio's Blocks."""
        gr = self._gr
        with gr.Blocks(title="vplface demo", analytics_enabled=False) as blocks:
            self._html(self._header())
            with gr.Tabs():
                with gr.Tab("Compare", id="compare"):
                    self._compare_tab()
                with gr.Tab("Enrol", id="enrol"):
                    listing, choice = self._enrol_tab()
                with gr.Tab("Search", id="search"):
                    self._search_tab()
                with gr.Tab("Report", id="report"):
                    self._html(self._report_tab())
            self._html(_footer())
            blocks.load(
                self._serialised(self._people_listing),
                None,
                [listing, choice],
                **_event() | {"show_progress": "hidden"},
            )
        return blocks

    def theme(self) -> dict[str, Any]:
        """Theme and CSS for mounting the page; no font is fetched."""
        themes = self._gr.themes
        sans = ["-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif"]
        mono = ["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"]
        theme = themes.Base(primary_hue="blue", neutral_hue="gray", radius_size="md", font=sans, font_mono=mono)
        return {"theme": theme, "css": files("vplface.demo").joinpath("page.css").read_text(encoding="utf-8")}

    def _compare_tab(self) -> None:
        gr = self._gr
        sides = []
        with gr.Row(equal_height=False):
            for which, name in (("first", "First picture"), ("second", "Second picture")):
                with gr.Column(min_width=280):
                    file = self._drop(name, f"{which}-file")
                    choice = gr.Radio([1], value=1, label="Which face?", visible=False, elem_id=f"{which}-face")
                    view = self._html(fragments.empty(_NO_PICTURE), f"{which}-picture")
                    state = gr.State(None, time_to_live=_SESSION_TTL)
                    sides.append((file, choice, view, state))
        result = self._html("", "comparison")
        compared = [each for _, choice, _, state in sides for each in (state, choice)]
        for file, choice, view, state in sides:
            seen = file.upload(self._serialised(self._on_compare_upload), file, [file, state, choice, view], **_event())
            seen.then(self._serialised(self._compare), compared, result, **_event())
            chosen = choice.input(self._serialised(self._on_face_choice), [state, choice], view, **_event())
            chosen.then(self._serialised(self._compare), compared, result, **_event())

    def _enrol_tab(self) -> tuple[Any, Any]:
        gr = self._gr
        held = gr.State({}, time_to_live=_SESSION_TTL)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                name = gr.Textbox(
                    label="Name", placeholder="any text", max_length=MAX_NAME_LENGTH, elem_id="enrol-name"
                )
                file = self._drop("Pictures of this person", "enrol-file", several=True)
                waiting = self._html(fragments.pending({}), "enrol-pending")
                consent = gr.Checkbox(label=_CONSENT, elem_id="enrol-consent", container=False)
                with gr.Row():
                    enrol = gr.Button("Enrol", variant="primary", elem_id="enrol-button")
                    clear = gr.Button("Clear", elem_id="enrol-clear")
                outcome = self._html("", "enrol-result")
            with gr.Column(scale=2, min_width=280):
                self._html(self._about_gallery())
                listing = self._html(fragments.people({}), "enrol-people")
                choice = gr.Dropdown([], label="Remove", elem_id="remove-name", filterable=True)
                remove = gr.Button("Remove for good", variant="stop", elem_id="remove-button")
                removed = self._html("", "remove-result")
        file.upload(self._serialised(self._on_enrol_upload), [file, held], [file, held, waiting, outcome], **_event())
        clear.click(lambda: ({}, fragments.pending({}), ""), None, [held, waiting, outcome], **_event())
        enrol.click(
            self._enrol, [name, consent, held], [held, waiting, outcome, name, consent, listing, choice], **_event()
        )
        remove.click(self._serialised(self._remove), choice, [removed, listing, choice], **_event())
        return listing, choice

    def _search_tab(self) -> None:
        file = self._drop("A photograph, with any number of faces", "search-file")
        result = self._html(fragments.empty(_NO_PICTURE), "search-result")
        file.upload(self._search, file, [file, result], **_event())

    def _serialised(self, step: Callable[..., T]) -> Callable[..., T]:
        """Wrap a handler so that handlers run one at a time: they share one model."""

        @wraps(step)
        def wrapper(*inputs: Any) -> T:
            with self._model_lock:
                return step(*inputs)

        return wrapper

    def _html(self, value: str, name: str | None = None) -> Any:
        return self._gr.HTML(value, elem_id=name, js_on_load=None)

    def _drop(self, label: str, name: str, several: bool = False) -> Any:
        count = "multiple" if several else "single"
        return self._gr.File(label=label, file_count=count, type="filepath", height=150, elem_id=name)

    def _on_compare_upload(self, uploaded: str | None) -> tuple[Any, ...]:
        """Empty the file input, keep the picture in the session and offer its faces."""
        gr = self._gr
        hidden = gr.Radio([1], value=1, visible=False)
        try:
            view = PhotographView.of(self._read_upload(uploaded))
        except VplfaceError as error:
            return None, None, hidden, fragments.note(str(error), tone="no")
        numbers = list(range(1, len(view.faces) + 1))
        offered = gr.Radio(numbers, value=1, visible=len(numbers) > 1)
        return None, view, offered, fragments.compared_photograph(view, 1)

    def _on_face_choice(self, view: PhotographView | None, number: int) -> Markup:
        return fragments.empty(_NO_PICTURE) if view is None else fragments.compared_photograph(view, number)

    def _compare(self, first: PhotographView | None, m: int, second: PhotographView | None, n: int) -> Markup | str:
        if first is None or second is None:
            return ""
        try:
            similarity = self._recogniser.similarity(first.faces[m - 1], second.faces[n - 1])
        except VplfaceError as error:
            return fragments.note(str(error), tone="no")
        return fragments.verdict(similarity, self._recogniser.threshold, self._recogniser.model)

    def _on_enrol_upload(self, uploaded: list[str] | None, held: dict[Path, Any]) -> tuple[Any, ...]:
        """Hold further pictures of a person in memory until they are enrolled or cleared."""
        try:
            more = take_uploads(uploaded or [], self._uploads, held)
            if len(held) + len(more) > MAX_PICTURES:
                raise DataError(f"more than {MAX_PICTURES} pictures at once; enrol these first")
        except VplfaceError as error:
            return None, held, _pending_fragment(held), fragments.note(str(error), tone="no")
        held = held | {path: (data, self._view_or_reason(data, path)) for path, data in more.items()}
        return None, held, _pending_fragment(held), ""

    def _enrol(self, typed: str | None, consent: bool, held: dict[Path, Any]) -> tuple[Any, ...]:
        name = typed or ""
        try:
            if not held:
                raise DataError("add a picture first")
            if not consent:
                raise DataError("confirm first that these people have agreed to it")
            done = self._recogniser.enrol(name, {path: data for path, (data, _) in held.items()})
        except VplfaceError as error:
            return (
                held,
                _pending_fragment(held),
                fragments.note(str(error), tone="no"),
                name,
                consent,
                *self._people_listing(),
            )
        return {}, fragments.pending({}), fragments.enrolled(name, done), "", False, *self._people_listing()

    def _remove(self, name: str | None) -> tuple[Any, ...]:
        try:
            if not name:
                raise DataError("choose a name first")
            pictures = self._recogniser.remove(name)
        except VplfaceError as error:
            return fragments.note(str(error), tone="no"), *self._people_listing()
        return fragments.removed(name, pictures), *self._people_listing()

    def _people_listing(self) -> tuple[Markup, Any]:
        try:
            people = self._recogniser.people()
        except VplfaceError as error:
            return fragments.note(str(error), tone="no"), self._gr.Dropdown([], value=None)
        return fragments.people(people), self._gr.Dropdown(list(people), value=None)

    def _search(self, uploaded: str | None) -> tuple[None, Markup]:
        try:
            with self._model_lock:
                photograph = self._read_upload(uploaded)
                embeddings = self._recogniser.embed(photograph)
            faces, pictures = self._recogniser.find(embeddings)
        except VplfaceError as error:
            return None, fragments.note(str(error), tone="no")
        recogniser = self._recogniser
        return None, fragments.search_result(
            PhotographView.of(photograph), faces, recogniser.threshold, pictures, recogniser.model
        )

    def _read_upload(self, uploaded: str | None) -> Photograph:
        """Read the uploaded picture and delete its file."""
        if not isinstance(uploaded, str):
            raise DataError("add one picture")
        ((path, data),) = take_uploads([uploaded], self._uploads).items()
        return self._recogniser.read(data, path)

    def _view_or_reason(self, data: bytes, path: Path) -> PhotographView | str:
        """A picture, or the reason why it cannot be used."""
        try:
            return PhotographView.of(self._recogniser.read(data, path))
        except VplfaceError as error:
            return str(error)

    def _header(self) -> Markup:
        card = self._recogniser.embedder.card
        threshold = self._recogniser.threshold
        facts = [str(self._recogniser.model), f"{card.backbone}, {card.embedding_dim}-d embeddings"]
        facts.append("no operating point" if threshold is None else f"threshold {threshold.value:.4f}")
        return tag("header", tag("h1", "vplface"), tag("p", [tag("span", fact) for fact in facts]), class_="head")

    def _about_gallery(self) -> Markup:
        encrypted = "encrypted" if self._recogniser.encrypted else "not encrypted"
        where = (
            ["In the folder ", tag("code", str(self._recogniser.gallery)), f", which is {encrypted}."]
            if self._kept
            else [
                "In a temporary folder, deleted when this demo ends. To keep one: ",
                tag("code", "--gallery DIR"),
            ]
        )
        kept = "Kept of a picture: an embedding, its hash and file name, and the name. All of it is personal data."
        return tag("div", tag("h3", "Who is enrolled"), tag("p", where), tag("p", kept), class_="about")

    def _report_tab(self) -> Markup:
        if self._report:
            link = tag("a", "Open it in a new tab", href=REPORT, target="_blank", rel="noopener")
            frame = tag("iframe", src=REPORT, title="report of the training", sandbox="allow-scripts", loading="lazy")
            return join(tag("p", link, class_="fine"), frame)
        run = run_folder_of(self._recogniser.model)
        if run is None:
            return fragments.empty(
                "A single model file has no report. Open the run's folder to see the report of its training."
            )
        command = f"vplface report {argument(run.path)} --out {argument(run.report)}"
        return tag(
            "div",
            tag("p", "This model's folder holds no report. Training writes one; to create it again:"),
            tag("p", tag("code", command)),
            class_="empty",
        )


def _event() -> dict[str, Any]:
    """Options of every event: not part of gradio's public API, and not queued.

    Gradio's queue loses an event that arrives while it closes the stream of the previous one; the page then hangs.
    """
    return {"queue": False, "api_visibility": "private", "show_progress": "minimal"}


def _pending_fragment(held: dict[Path, Any]) -> Markup:
    return fragments.pending({path: view for path, (_, view) in held.items()})


def _footer() -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            "A similarity is evidence, not proof. Pictures stay on the machine that runs this page: they are read "
            "into memory and deleted from its temporary folder at once.",
        ),
        class_="foot",
    )
