"""``vplface demo``: a local page for trying a model in the browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vplface.cli.faces import ALIGN, DETECTOR_MODEL, THRESHOLD, load_embedder
from vplface.cli.options import DEVICE
from vplface.cli.preprocessing import COLOR, MEAN, STD, preprocessing_of
from vplface.console import say
from vplface.errors import UsageError


def demo(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: a run's folder, RUN/best, or an .onnx file.", show_default=False, metavar="RUN"
        ),
    ],
    gallery: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The gallery to enrol into and search: a folder, created if it does not exist. Without it, a "
            "temporary one that is deleted at the end.",
            show_default=False,
        ),
    ] = None,
    detector_model: DETECTOR_MODEL = None,
    host: Annotated[str, typer.Option(help="The address to listen on; any other than loopback needs --expose.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.")] = 7860,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    expose: Annotated[
        bool, typer.Option("--expose", help="Let other machines reach the page. It has no password.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A further host name of the page, in addition to localhost and numeric addresses; may be repeated.",
            show_default=False,
        ),
    ] = None,
    threshold: THRESHOLD = None,
    align: ALIGN = "auto",
    color: COLOR = None,
    mean: MEAN = None,
    std: STD = None,
    device: DEVICE = "cpu",
) -> None:
    """Try a model on a page in the browser: compare two pictures, enrol people, search for them, read its report.

    The page is served on this machine, for this machine, and fetches nothing
    from elsewhere. Pictures (jpg, png, webp, bmp, up to 20 MB) are read into
    memory and deleted at once; a gallery keeps embeddings, hashes and names.
    Ctrl-C stops it and deletes temporary files.

    It needs the extra demo.

    Example:  vplface demo runs/lfw/best --gallery people --open
    """
    from vplface.demo.recogniser import Recogniser
    from vplface.demo.serve import (
        allowed_hosts,
        is_loopback,
        listening_socket,
        page_url,
        private_temporary_folder,
        serve,
    )
    from vplface.deploy.faces import FaceReader
    from vplface.errors import import_extra

    hosts = allowed_hosts(host, name or ())
    if not is_loopback(host):
        if not expose:
            raise UsageError(
                f"--host {host}: others could reach the page, which has no password, and faces are personal data. Add "
                "--expose if that is what you want"
            )
        say(
            f"warning: everybody who can reach {host} can see, enrol and remove people. Faces are personal data: do "
            "this in a network that you trust, with people who have agreed",
            file=sys.stderr,
        )
    with listening_socket(host, port) as listener, private_temporary_folder() as folder:
        import_extra("gradio", "demo")
        embedder = load_embedder(model, device, preprocessing_of(color, mean, std))
        reader = FaceReader(embedder.card.preprocessing.size, align, detector_model)
        recogniser = Recogniser.of(model, embedder, reader, gallery or folder / "gallery", threshold)
        say(f"{page_url(listener)}  (Ctrl-C stops it)")
        serve(recogniser, listener, folder, kept=gallery is not None, hosts=hosts, open_=open_)
    say("stopped; temporary files are deleted")
