"""Pictures per second that one core loads in each form, beside bare decoding and the usual way in PyTorch."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.utils.data import DataLoader, RandomSampler

from vplface import bounds
from vplface.bench.machine import machine
from vplface.bench.usual_loader import UsualFolder, generated_faces
from vplface.cli.options import AS_JSON, PLOT
from vplface.console import Console, print_json, say
from vplface.data.augment import Augmentation
from vplface.data.batches import load_batches
from vplface.data.formats import PictureWriter, open_pictures
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.recordio import RecordIO, RecordIOWriter
from vplface.data.formats.recordio_frames import HEADER, MAGIC
from vplface.data.pictures import PictureSet, Preprocessing, StoredPictures, UnreadablePictureError
from vplface.data.samplers import ShuffledBatches
from vplface.errors import DataError, MissingExtraError, UsageError, VplfaceError, import_extra
from vplface.progress import progress
from vplface.tables import Table

cv2 = import_extra("cv2", "train")

DECODING, USUAL = "imdecode", "PIL + DataLoader"
Lap = Callable[[int, int], float]
"""Loads so many batches in so many worker processes; returns seconds."""

_LONGER = 10
"""A lap with workers is so much longer, because it begins with starting them."""

_PER_IDENTITY = 50
"""Records of an identity in the set whose opening is timed."""

_FILES = {"RecordIO": "train.rec", "tar": "pictures.tar", "folder": "folder"}


def measure(data: Path | None, pictures: int, batch: int, repeats: int, workers: int) -> dict[str, Any]:
    """Pictures a second, medians over rounds in which every arm loads the same number of pictures.

    Args:
        data: a set in any form; None generates faces.
        pictures: how many to take of it, spread evenly over the set.
        batch: pictures in a batch.
        repeats: rounds, after one that is not counted.
        workers: worker processes of a second measurement; 0 for none.

    Returns:
        What was loaded; ``one_process``: of each arm its ``pictures_per_second`` of processor time on one thread
        (median) and ``spread`` (least and most), ``of_decoding`` and ``over_usual`` (medians of ratios within rounds);
        or the ``reason`` it was left out. ``workers``: the same in so many worker processes, of time on the clock.

    Raises:
        DataError: if the data cannot be read or are fewer than a batch.
    """
    with tempfile.TemporaryDirectory(prefix="vplface-bench-") as name, _one_thread():
        root = Path(name)
        source = open_pictures(data) if data is not None else generated_faces(root / "generated", pictures)
        missing = _write_all(source, pictures, root)
        folder = ImageFolder(root / "folder")
        if len(folder) < batch:
            raise DataError(f"{data or 'generated faces'}: {len(folder)} pictures are fewer than a batch of {batch}")
        encoded = [folder.encoded(index) for index in range(len(folder))]
        arms: dict[str, Lap] = {DECODING: _decoding(encoded, batch)}
        for form in _FILES:
            if form not in missing:
                pictures_of_form = open_pictures(root / _FILES[form])
                arms[f"{form}, bytes"] = _loading(pictures_of_form, batch, floats=False)
                arms[form] = _loading(pictures_of_form, batch, floats=True)
        arms[USUAL] = _usual(folder, batch)
        result = {
            "data": str(data) if data is not None else "generated faces",
            "pictures": len(folder),
            "bytes_per_picture": round(statistics.mean(map(len, encoded))),
            "batch": batch,
            "one_process": {"arms": _rounds(arms, len(folder) // batch, batch, repeats, 0) | missing},
        }
        if workers:
            del arms[DECODING]
            steps = _LONGER * (len(folder) // batch)
            measured = _rounds(arms, steps, batch, repeats, workers)
            result["workers"] = {"processes": workers, "arms": measured | missing}
        return result


def measure_startup(records: int, repeats: int) -> dict[str, Any]:
    """Seconds to open a RecordIO set of so many records, without and with names, of time on the clock and processor.

    The records are tiny, 36 bytes: opening a set does not read its pictures.
    """
    with tempfile.TemporaryDirectory(prefix="vplface-bench-") as name:
        path = Path(name) / "train.rec"
        identities = _write_tiny(path, records)
        opened = {"without .lst": _open_often(path, repeats)}
        with path.with_suffix(".lst").open("w", encoding="ascii") as lines:
            lines.writelines(
                f"{key}\t{(key - 1) // _PER_IDENTITY}\tperson {(key - 1) // _PER_IDENTITY}/{key}.jpg\n"
                for key in range(1, records + 1)
            )
        opened["with .lst"] = _open_often(path, repeats)
        return {"records": records, "identities": identities, "opening": opened}


def _write_all(source: StoredPictures, most: int, root: Path) -> dict[str, dict[str, str]]:
    """The pictures in each form, under the same names; returns why a form is left out."""
    writers: dict[str, PictureWriter] = {"RecordIO": RecordIOWriter(root / _FILES["RecordIO"], source.identities)}
    missing = {}
    if find_spec("vplface.data.formats.tar_shards") is None:
        missing["tar"] = {"reason": "this version has no tar shards"}
    else:
        from vplface.data.formats.tar_shards import TarShardsWriter

        try:
            writers["tar"] = TarShardsWriter(root / _FILES["tar"], source.identities)
        except MissingExtraError as error:
            missing["tar"] = {"reason": str(error)}
    taken = np.unique(np.linspace(0, len(source) - 1, most).round().astype(np.int64))
    with progress("writing the pictures in each form", len(taken)) as advance:
        for writer in writers.values():
            writer.__enter__()
        for index in taken.tolist():
            advance(1)
            try:
                encoded = source.encoded(index)
            except UnreadablePictureError:
                continue
            label = int(source.labels[index])
            name = f"{source.identities[label]}/{index:08d}.jpg"
            for writer in writers.values():
                writer.add(encoded, name, label)
            path = root / _FILES["folder"] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
        for writer in writers.values():
            writer.__exit__(None, None, None)
    return missing


def _decoding(encoded: list[bytes], batch: int) -> Lap:
    """cv2.imdecode and nothing else, of bytes in memory."""

    def lap(steps: int, _: int) -> float:
        began = time.process_time()
        for data in encoded[: steps * batch]:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return time.process_time() - began

    return lap


def _loading(pictures: PictureSet, batch: int, *, floats: bool) -> Lap:
    """As training does: shuffled, decoded, flipped, collated, and made a network's input."""
    batches, augmentation, preprocessing = ShuffledBatches(len(pictures), batch, 0), Augmentation(), Preprocessing()
    done = 0

    def lap(steps: int, workers: int) -> float:
        nonlocal done
        clock = _clock(workers)
        began = clock()
        for loaded in load_batches(pictures, batches, augmentation, 0, done, done + steps, workers):
            if floats:
                preprocessing(loaded.pictures)
        done += steps
        return clock() - began

    return lap


def _usual(folder: ImageFolder, batch: int) -> Lap:
    dataset = UsualFolder(folder)

    def lap(steps: int, workers: int) -> float:
        clock = _clock(workers)
        began = clock()
        order = RandomSampler(dataset, num_samples=steps * batch)
        for _ in DataLoader(dataset, batch, sampler=order, num_workers=workers):
            pass
        return clock() - began

    return lap


def _clock(workers: int) -> Callable[[], float]:
    """Processor time where all happens in this process, so that what else runs on the machine counts less."""
    return time.perf_counter if workers else time.process_time


def _rounds(arms: Mapping[str, Lap], steps: int, batch: int, repeats: int, workers: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with progress(f"loading in {workers} processes" if workers else "loading", (repeats + 1) * len(arms)) as advance:
        for _ in range(repeats + 1):
            for name, lap in arms.items():
                seconds[name].append(lap(steps, workers))
                advance(1, name)
    timings = {name: np.array(each[1:]) for name, each in seconds.items()}
    found = {}
    for name, each in timings.items():
        found[name] = {
            "pictures_per_second": steps * batch / float(np.median(each)),
            "spread": [steps * batch / float(each.max()), steps * batch / float(each.min())],
            "over_usual": float(np.median(timings[USUAL] / each)),
        }
        if DECODING in timings:
            found[name]["of_decoding"] = float(np.median(timings[DECODING] / each))
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _write_tiny(path: Path, records: int) -> int:
    """A .rec of records that hold labels and no picture, with its .idx; returns the number of identities."""
    identities = -(-records // _PER_IDENTITY)
    keys = np.arange(1, records + 1)
    pictures = np.zeros((records, 9), "<u4")  # with four bytes in place of a picture
    pictures[:, 0], pictures[:, 1], pictures[:, 4] = MAGIC, HEADER.size + 4, keys
    pictures[:, 3] = ((keys - 1) // _PER_IDENTITY).astype("<f4").view("<u4")
    headers = np.zeros((1 + identities, 10), "<u4")
    headers[:, 0], headers[:, 1], headers[:, 2] = MAGIC, HEADER.size + 8, 2
    headers[1:, 4] = records + 1 + np.arange(identities)
    begin = 1 + _PER_IDENTITY * np.arange(identities)
    labels = np.array([begin, np.minimum(begin + _PER_IDENTITY, records + 1)])
    headers[0, 8:] = np.array([records + 1, records + 1 + identities], "<f4").view("<u4")
    headers[1:, 8:] = np.ascontiguousarray(labels.T, "<f4").view("<u4")
    path.write_bytes(headers[:1].tobytes() + pictures.tobytes() + headers[1:].tobytes())
    sizes = np.concatenate([[40], np.full(records, 36), np.full(identities, 40)])
    offsets = np.cumsum(sizes) - sizes
    with path.with_suffix(".idx").open("w", encoding="ascii") as lines:
        lines.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets.tolist()))
    return identities


def _open_often(path: Path, repeats: int) -> dict[str, Any]:
    clock, processor = [], []
    for _ in range(repeats):
        began = time.perf_counter(), time.process_time()
        RecordIO(path)
        clock.append(time.perf_counter() - began[0])
        processor.append(time.process_time() - began[1])
    return {
        "seconds": statistics.median(clock),
        "spread": [min(clock), max(clock)],
        "first": clock[0],
        "processor_seconds": statistics.median(processor),
    }


def main(
    path: Annotated[
        Path | None,
        typer.Option("--data", help="A set in any form; faces are generated unless given.", show_default=False),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, max=bounds.LARGEST, help="How many pictures to take, evenly over the set.")
    ] = 1500,
    batch: Annotated[int, typer.Option(min=1, max=bounds.BATCH, help="B, pictures in a batch.")] = 128,
    repeats: Annotated[
        int, typer.Option(min=1, max=bounds.REPEATS, help="Rounds in which each arm loads all of them.")
    ] = 9,
    workers: Annotated[
        int, typer.Option(min=0, max=bounds.PROCESSES, help="Measure with so many worker processes as well.")
    ] = 0,
    startup: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=bounds.LARGEST,
            help="Instead, time the opening of a RecordIO set of so many records.",
            show_default=False,
        ),
    ] = None,
    plot: PLOT = None,
    as_json: AS_JSON = False,
) -> None:
    """Pictures per second that one core loads from RecordIO, tar shards and a folder.

    Every arm loads the same files, bit for bit, in random order: read, decoded, flipped at random, collated and made a
    batch of floats, as training does. Beside them: cv2.imdecode of the same bytes and nothing else, and the usual way
    in PyTorch, PIL and a DataLoader over a folder. Arms take turns, so that a machine that slows down slows them all;
    figures are medians. Without workers, processor time counts.

    \b
    bytes      without floats: batches as they leave a worker
    imdecode   as a share of bare decoding
    × usual    times PIL and a DataLoader

    \b
    python benchmarks/loading.py --data lfw112 --workers 2 --plot loading.png
    python benchmarks/loading.py --startup 5000000    how long it takes to open five million records
    """  # noqa: D301 (the mark before lines that stay as they are)
    if startup is not None:
        if path is not None or workers or plot is not None:
            raise UsageError("--startup measures one thing only: leave out --data, --workers and --plot")
        opened = measure_startup(startup, repeats)
        if as_json:
            print_json({"schema": 1, "machine": machine(), "startup": opened})
        else:
            show_startup(opened)
        return
    if pictures < batch:
        raise UsageError(f"--pictures {pictures} is less than a batch; --batch is {batch}")
    result = measure(path, pictures, batch, repeats, workers)
    if plot is not None:
        from loading_plot import draw_loading

        draw_loading(plot, machine(), result)
    if as_json:
        print_json({"schema": 1, "machine": machine(), **result})
        return
    show_loading(machine(), result)
    if plot is not None:
        say(f"plot: {plot}")


def show_loading(where: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    console = Console()
    console.print(f"{where['processor']}, {where['cores']} cores, torch {where['torch']}", highlight=False)
    size = f"{result['pictures']:,} pictures of {result['bytes_per_picture']:,} bytes, B {result['batch']}"
    for key in ("one_process", "workers"):
        if key not in result:
            continue
        how = "one core" if key == "one_process" else f"{result[key]['processes']} workers"
        table = Table(f"{how}: {size}", ["arm", "pictures/s", "least – most", "imdecode", "× usual"])
        for name, arm in result[key]["arms"].items():
            if "reason" in arm:
                console.print(f"{name}: {arm['reason']}")
                continue
            least, most = arm["spread"]
            table.add_row(
                name,
                f"{arm['pictures_per_second']:,.0f}",
                f"{least:,.0f} – {most:,.0f}",
                f"{arm['of_decoding']:.0%}" if "of_decoding" in arm else "",
                f"{arm['over_usual']:.2f}",
            )
        console.print(table)


def show_startup(result: Mapping[str, Any]) -> None:
    heads = ["opening", "seconds", "least – most", "processor"]
    table = Table(f"{result['records']:,} records, {result['identities']:,} identities", heads)
    for name, opened in result["opening"].items():
        least, most = opened["spread"]
        table.add_row(
            name,
            f"{opened['seconds']:.2f}",
            f"{least:.2f} – {most:.2f}",
            f"{opened['processor_seconds']:.2f}",
        )
    Console().print(table)


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    try:
        app()
    except VplfaceError as error:
        sys.exit(f"loading.py: {error}")
