"""The page, in gradio: four tabs, and what happens when a picture is put in or a button is pressed.

Gradio puts an upload into a file, as whose path it arrives here; the first thing done with it is to read and delete it.
Pictures of a visit lie in its own state, in memory, and are forgotten with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from vplface.demo import pieces
from vplface.demo.gate import REPORT, run_of
from vplface.demo.pieces import Shown
from vplface.demo.recogniser import LONGEST_NAME, Recogniser
from vplface.demo.uploads import MOST_BYTES, MOST_PICTURES, taken
from vplface.deploy.faces import Photograph
from vplface.errors import DataError, VplfaceError, import_extra
from vplface.paths import argument
from vplface.report.markup import Markup, join, tag

T = TypeVar("T")

_FORGOTTEN_AFTER = 1800
"""Seconds."""

_NO_PICTURE = f"No picture yet. Jpg, png, webp or bmp, up to {MOST_BYTES // 2**20} MB."
_CONSENT = "These people have agreed to it, know what for, and can take it back."


class Page:
    """The page of a recogniser.

    Args:
        recogniser: the model in use.
        uploads: the folder into which gradio puts uploads.
        kept: whether the gallery is kept when the server ends.
        report: whether there is a report to show.
    """

    def __init__(self, recogniser: Recogniser, uploads: Path, kept: bool, report: bool) -> None:
        self._recogniser = recogniser
        self._uploads = uploads
        self._kept = kept
        self._report = report
        self._gr: Any = import_extra("gradio", "demo")
        self._turn = threading.Lock()

    def blocks(self) -> Any:
        """The page as gradio's Blocks."""
        gr = self._gr
        with gr.Blocks(title="vplface demo", analytics_enabled=False) as blocks:
            self._html(self._head())
            with gr.Tabs():
                with gr.Tab("Compare", id="compare"):
                    self._compare_tab()
                with gr.Tab("Enrol", id="enrol"):
                    listing, choice = self._enrol_tab()
                with gr.Tab("Search", id="search"):
                    self._search_tab()
                with gr.Tab("Report", id="report"):
                    self._html(self._report_tab())
            self._html(_foot())
            blocks.load(self._alone(self._listed), None, [listing, choice], **_event() | {"show_progress": "hidden"})
        return blocks

    def look(self) -> dict[str, Any]:
        """Theme and style, for mounting the page; no font is fetched."""
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
                    shown = self._html(pieces.empty(_NO_PICTURE), f"{which}-picture")
                    state = gr.State(None, time_to_live=_FORGOTTEN_AFTER)
                    sides.append((file, choice, shown, state))
        result = self._html("", "comparison")
        compared = [each for _, choice, _, state in sides for each in (state, choice)]
        for file, choice, shown, state in sides:
            seen = file.upload(self._alone(self._seen), file, [file, state, choice, shown], **_event())
            seen.then(self._alone(self._compared), compared, result, **_event())
            chosen = choice.input(self._alone(self._chosen), [state, choice], shown, **_event())
            chosen.then(self._alone(self._compared), compared, result, **_event())

    def _enrol_tab(self) -> tuple[Any, Any]:
        gr = self._gr
        held = gr.State({}, time_to_live=_FORGOTTEN_AFTER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                name = gr.Textbox(label="Name", placeholder="any text", max_length=LONGEST_NAME, elem_id="enrol-name")
                file = self._drop("Pictures of this person", "enrol-file", several=True)
                waiting = self._html(pieces.pending({}), "enrol-pending")
                consent = gr.Checkbox(label=_CONSENT, elem_id="enrol-consent", container=False)
                with gr.Row():
                    enrol = gr.Button("Enrol", variant="primary", elem_id="enrol-button")
                    clear = gr.Button("Clear", elem_id="enrol-clear")
                told = self._html("", "enrol-told")
            with gr.Column(scale=2, min_width=280):
                self._html(self._about_gallery())
                listing = self._html(pieces.people({}), "enrol-people")
                choice = gr.Dropdown([], label="Remove", elem_id="remove-name", filterable=True)
                remove = gr.Button("Remove for good", variant="stop", elem_id="remove-button")
                removed = self._html("", "remove-told")
        file.upload(self._alone(self._held), [file, held], [file, held, waiting, told], **_event())
        clear.click(lambda: ({}, pieces.pending({}), ""), None, [held, waiting, told], **_event())
        enrol.click(
            self._enrolled, [name, consent, held], [held, waiting, told, name, consent, listing, choice], **_event()
        )
        remove.click(self._alone(self._removed), choice, [removed, listing, choice], **_event())
        return listing, choice

    def _search_tab(self) -> None:
        file = self._drop("A photograph, with any number of faces", "search-file")
        result = self._html(pieces.empty(_NO_PICTURE), "search-result")
        file.upload(self._alone(self._found), file, [file, result], **_event())

    def _alone(self, step: Callable[..., T]) -> Callable[..., T]:
        """A step that waits for the one before, for there is one model."""

        @wraps(step)
        def alone(*inputs: Any) -> T:
            with self._turn:
                return step(*inputs)

        return alone

    def _html(self, value: str, name: str | None = None) -> Any:
        return self._gr.HTML(value, elem_id=name, js_on_load=None)

    def _drop(self, label: str, name: str, several: bool = False) -> Any:
        count = "multiple" if several else "single"
        return self._gr.File(label=label, file_count=count, type="filepath", height=150, elem_id=name)

    def _seen(self, uploaded: str | None) -> tuple[Any, ...]:
        """A picture to compare: the drop is emptied, the picture remembered, its faces offered."""
        gr = self._gr
        hidden = gr.Radio([1], value=1, visible=False)
        try:
            shown = Shown.of(self._one(uploaded))
        except VplfaceError as error:
            return None, None, hidden, pieces.note(str(error), tone="no")
        numbers = list(range(1, len(shown.faces) + 1))
        offered = gr.Radio(numbers, value=1, visible=len(numbers) > 1)
        return None, shown, offered, pieces.side(shown, 1)

    def _chosen(self, shown: Shown | None, number: int) -> Markup:
        return pieces.empty(_NO_PICTURE) if shown is None else pieces.side(shown, number)

    def _compared(self, first: Shown | None, m: int, second: Shown | None, n: int) -> Markup | str:
        if first is None or second is None:
            return ""
        try:
            similarity = self._recogniser.similarity(first.faces[m - 1], second.faces[n - 1])
        except VplfaceError as error:
            return pieces.note(str(error), tone="no")
        return pieces.verdict(similarity, self._recogniser.threshold, self._recogniser.model)

    def _held(self, uploaded: list[str] | None, held: dict[Path, Any]) -> tuple[Any, ...]:
        """More pictures of somebody, held in memory until they are enrolled or put away."""
        try:
            more = taken(uploaded or [], self._uploads, held)
            if len(held) + len(more) > MOST_PICTURES:
                raise DataError(f"more than {MOST_PICTURES} pictures at once; enrol these first")
        except VplfaceError as error:
            return None, held, _waiting(held), pieces.note(str(error), tone="no")
        held = held | {path: (data, self._shown(data, path)) for path, data in more.items()}
        return None, held, _waiting(held), ""

    def _enrolled(self, typed: str | None, consent: bool, held: dict[Path, Any]) -> tuple[Any, ...]:
        name = typed or ""
        try:
            if not held:
                raise DataError("put in a picture first")
            if not consent:
                raise DataError("say first that these people have agreed to it")
            done = self._recogniser.enrol(name, {path: data for path, (data, _) in held.items()})
        except VplfaceError as error:
            return held, _waiting(held), pieces.note(str(error), tone="no"), name, consent, *self._listed()
        return {}, pieces.pending({}), pieces.enrolled(name, done), "", False, *self._listed()

    def _removed(self, name: str | None) -> tuple[Any, ...]:
        try:
            if not name:
                raise DataError("choose a name first")
            pictures = self._recogniser.remove(name)
        except VplfaceError as error:
            return pieces.note(str(error), tone="no"), *self._listed()
        return pieces.removed(name, pictures), *self._listed()

    def _listed(self) -> tuple[Markup, Any]:
        try:
            people = self._recogniser.people()
        except VplfaceError as error:
            return pieces.note(str(error), tone="no"), self._gr.Dropdown([], value=None)
        return pieces.people(people), self._gr.Dropdown(list(people), value=None)

    def _found(self, uploaded: str | None) -> tuple[None, Markup]:
        try:
            photograph = self._one(uploaded)
            faces, pictures = self._recogniser.search(photograph)
        except VplfaceError as error:
            return None, pieces.note(str(error), tone="no")
        recogniser = self._recogniser
        return None, pieces.found(Shown.of(photograph), faces, recogniser.threshold, pictures, recogniser.model)

    def _one(self, uploaded: str | None) -> Photograph:
        """The picture that was put in, which is deleted."""
        if not isinstance(uploaded, str):
            raise DataError("put in one picture")
        ((path, data),) = taken([uploaded], self._uploads).items()
        return self._recogniser.read(data, path)

    def _shown(self, data: bytes, path: Path) -> Shown | str:
        """A picture, or why it cannot be used."""
        try:
            return Shown.of(self._recogniser.read(data, path))
        except VplfaceError as error:
            return str(error)

    def _head(self) -> Markup:
        card = self._recogniser.embedder.card
        threshold = self._recogniser.threshold
        facts = [str(self._recogniser.model), f"{card.backbone}, {card.embedding_dim} numbers a face"]
        facts.append("no operating point" if threshold is None else f"threshold {threshold.value:.4f}")
        return tag("header", tag("h1", "vplface"), tag("p", [tag("span", fact) for fact in facts]), class_="head")

    def _about_gallery(self) -> Markup:
        where = (
            ["In the folder ", tag("code", str(self._recogniser.gallery)), ", which is not encrypted."]
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
            link = tag("a", "Open it alone", href=REPORT, target="_blank", rel="noopener")
            frame = tag("iframe", src=REPORT, title="report of the training", sandbox="allow-scripts", loading="lazy")
            return join(tag("p", link, class_="fine"), frame)
        run = run_of(self._recogniser.model)
        if run is None:
            return pieces.empty(
                "A model that is one file has no report; that of its training lies in the run's folder."
            )
        command = f"vplface report {argument(run)} --out {argument(run / 'report.html')}"
        return tag(
            "div",
            tag("p", "This model's folder holds no report. A training run writes one; to make it anew:"),
            tag("p", tag("code", command)),
            class_="empty",
        )


def _event() -> dict[str, Any]:
    """Options of every event: nothing for programs to call, and no queue.

    Gradio's queue loses an event that arrives while it closes the stream of the one before; the page then waits
    without end.
    """
    return {"queue": False, "api_visibility": "private", "show_progress": "minimal"}


def _waiting(held: dict[Path, Any]) -> Markup:
    return pieces.pending({path: shown for path, (_, shown) in held.items()})


def _foot() -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            "A similarity is evidence and no proof. Pictures stay on the machine that runs this page: they are read "
            "into memory, and deleted from its temporary folder at once.",
        ),
        class_="foot",
    )
