"""Hostile input: mutated files of every form that is read, in worker processes with little memory and little time.

Run: python benchmarks/fuzz.py --inputs 1000000 --seed 0 [--formats recordio,bin,tar,zip,csv,checkpoint,picture,text]
     python benchmarks/fuzz.py --seed 0 --only 12345 [--formats ...]      one of them again, with its traceback

Input k follows from the seed, the formats and k alone. A small valid file set is mutated one to four times: bits are
flipped, bytes overwritten with telling numbers, ends cut off, parts repeated, removed, inserted, spliced with those of
another set. Of some formats the checksums are then made right again, so that what lies behind them is reached.

A reader may refuse an input with an error of vplface's, or read it, in part or whole. Everything else is a failure:
another exception, a crash, more memory or time than allowed, or the file that hostile pickles would make. Failures are
written to --out with all their files. Exit status 1 if there are any.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save

from vplface.data.drop import read_drop
from vplface.data.forking import worker_processes
from vplface.data.formats import Form, create_pictures, open_pictures
from vplface.data.pairs import Pairs, read_pairs, read_people
from vplface.data.pictures import UnreadablePictureError, decode
from vplface.embedder import ModelCard
from vplface.errors import VplfaceError
from vplface.progress import progress
from vplface.training import checkpoint

Files = dict[str, bytes]
"""Name → content of the files of an input."""

MEMORY = 1 << 30
"""Bytes of address space that a worker may take beyond what it has at its start."""

SECONDS = 5.0
"""After which an input has taken too long."""

DEADLINE = 30.0
"""Seconds after which a worker that does not even hear its alarm is killed."""

OUTCOMES = ("refused", "read in part", "read", "failed")
MARKER = "executed"


@dataclass(frozen=True)
class Format:
    """A kind of input.

    Attributes:
        corpus: valid inputs, and hostile ones.
        read: reads all there is in a folder with an input; True if all of it could be read.
        repair: makes checksums right again.
    """

    corpus: Sequence[Files]
    read: Callable[[Path], bool]
    repair: Callable[[Files], Files] | None = None


def read_set(path: Path) -> bool:
    """Open a set and take everything out of it."""
    pictures = open_pictures(path)
    whole = True
    for index in range(len(pictures)):
        pictures.name(index), pictures.where(index), pictures.identities[pictures.labels[index]]
        try:
            pictures.picture(index)
        except UnreadablePictureError:
            whole = False
    return whole


def tiny_pictures() -> list[bytes]:
    """A few hundred bytes each: jpg, png, webp, bmp."""
    rng = np.random.default_rng(0)
    made = []
    for suffix, options in ((".jpg", (1, 30)), (".png", ()), (".webp", (64, 30)), (".bmp", ()), (".jpg", (1, 10))):
        picture = cv2.resize(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8), (16, 16))
        made.append(cv2.imencode(suffix, picture, options)[1].tobytes())
    return made


def written(form: Form, target: str, folder: Path, names: Sequence[str]) -> Files:
    """What a writer makes of three identities with five pictures."""
    identities = ["ada", "grace", "mary"]
    with create_pictures(folder / target, form, identities) as writer:
        for number, (encoded, name) in enumerate(zip(tiny_pictures(), names, strict=True)):
            label = (0, 0, 1, 1, 2)[number]
            writer.add(encoded, f"{identities[label]}/{name}", label)
    return contents(folder)


def contents(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = (("1.jpg", "2.png", "3.webp", "4.bmp", "5.jpg"), ("a b.jpg", "é.png", "s/t.webp", "4.bmp", "x" * 90 + ".jpg"))


def recordio(folder: Path) -> Format:
    corpus = [written("recordio", "x/train.rec", folder / f"{k}", names) for k, names in enumerate(NAMES)]
    for kinds in ((".rec",), (".rec", ".idx")):
        corpus.append({name: data for name, data in corpus[0].items() if name.endswith(kinds)})
    return Format(corpus, lambda here: read_set(here / "x" / "train.rec"))


def tar(folder: Path) -> Format:
    corpus = [written("tar", "x.tar", folder / f"{k}", names) for k, names in enumerate(NAMES)]
    return Format(corpus, lambda here: read_set(here / "x.tar"), repair_tar)


def repair_tar(files: Files) -> Files:
    """Each 512-byte block that could be a header gets the checksum of a header."""
    data = bytearray(files["x.tar"])
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return {**files, "x.tar": bytes(data)}


def csv(folder: Path) -> Format:
    corpus = []
    for kind, names in (("csv", NAMES[0]), ("tsv", NAMES[1])):
        files = written("list", f"x.{kind}", folder / kind, names)
        corpus.append({name: files[name] for name in (f"x.{kind}", f"x/ada/{names[0]}")})
    rows = b'path,label,split\nx/ada/1.jpg,ada,train\n"x/ada/2.png","a,da",val\n../x.jpg,,\n/etc/passwd,b,train\n'
    corpus.append({**corpus[0], "x.csv": b"\xef\xbb\xbf" + rows})
    corpus.append({**corpus[0], "x.csv": rows.replace(b"\n", b"\r\n")})
    corpus.append({**corpus[0], "x.csv": b"path,label\nx/ada/1.jpg,ada\n"})
    return Format(corpus, lambda here: read_set(here / ("x.tsv" if (here / "x.tsv").exists() else "x.csv")))


def parquet(folder: Path) -> Format:
    corpus = [written("parquet", "x", folder / f"{k}", names) for k, names in enumerate(NAMES)]
    return Format(corpus, lambda here: read_set(here / "x"))


def zip_(folder: Path) -> Format:
    corpus = []
    for number, names in enumerate(NAMES):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path = folder / f"{number}-{method}.zip"
            with zipfile.ZipFile(path, "w", method) as archive:
                for label, encoded, name in zip("aabbc", tiny_pictures(), names, strict=True):
                    archive.writestr(f"x/{label}/{name}", encoded)
            corpus.append({"x.zip": path.read_bytes()})
    return Format(corpus, lambda here: read_set(here / "x.zip"))


class Hostile:
    """Pickles as a call; loading it would leave a file behind."""

    def __init__(self, called: Callable[..., Any], *arguments: Any) -> None:
        self.call = called, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def bin_(folder: Path) -> Format:
    from vplface.data.formats.verification_bin import write_verification_bin

    written("folder", "x", folder / "set", NAMES[0])
    names = ["ada/1.jpg", "ada/2.png", "grace/3.webp", "grace/4.bmp", "mary/5.jpg"]
    pairs = Pairs(
        [names[k] for k in (0, 2, 0, 4)], [names[k] for k in (1, 3, 2, 1)], np.arange(4) < 2, np.zeros(4, int)
    )
    write_verification_bin(folder / "x.bin", open_pictures(folder / "set" / "x"), pairs)
    pictures = tiny_pictures()[:4]
    told = [(folder / "x.bin").read_bytes()]
    told += [pickle.dumps((pictures, [True, False]), protocol) for protocol in range(6)]
    told.append(pickle.dumps(([np.frombuffer(data, np.uint8) for data in pictures], np.array([1, 0], bool))))
    calls = [
        Hostile(os.system, f"touch {MARKER}"),
        Hostile(eval, f"open({MARKER!r}, 'w').close()"),
        Hostile(open, MARKER, "w"),
        Hostile(os.mkdir, MARKER),
    ]
    told += [pickle.dumps(value, protocol) for call in calls for protocol in (0, 2, 4)
             for value in (call, ([pictures[0], call], [True]), (pictures, [call, call]))]  # fmt: skip
    return Format([{"x.bin": data} for data in told], lambda here: read_set(here / "x.bin"))


def checkpoint_(folder: Path) -> Format:
    common = save({"backbone.w": torch.arange(6.0).reshape(2, 3), "head.step_count": torch.tensor(7)})
    rows = [save({"head.weight": torch.ones(2, 3), "head.timer": torch.ones(2, dtype=torch.int32)}) for _ in range(2)]
    files = {"common.safetensors": common}
    parts: dict[str, Any] = {"common.safetensors": {}}
    for rank, data in enumerate(rows):
        name = f"rows-{rank:05d}-of-00002.safetensors"
        files[name] = data
        parts[name] = {"first": 2 * rank, "stop": 2 * rank + 2}
    notes = {"step": 7, "best": None, "unreadable": []}
    manifest = {"format": checkpoint.FORMAT, "notes": notes, "classes": 4, "dim": 3, "world": 2, "files": parts}
    files[checkpoint.MANIFEST] = json.dumps(manifest).encode()
    card = {"model.json": ModelCard("tiny", 8).to_json().encode()}
    return Format([repair_checkpoint(files | card)], read_checkpoint, repair_checkpoint)


def read_checkpoint(folder: Path) -> bool:
    card = folder / "model.json"
    if card.exists():
        ModelCard.from_json(card.read_text("utf-8", "replace"), "model.json")
    manifest = checkpoint.read_manifest(folder)
    checkpoint.verify(folder)
    checkpoint.read_tensors(folder / checkpoint.COMMON)
    checkpoint.read_rows(folder, manifest, torch.arange(manifest["classes"] if manifest["classes"] < 100 else 4))
    return True


def repair_checkpoint(files: Files) -> Files:
    """A manifest that still is one gets the sizes and digests of the files, and its own digest."""
    try:
        manifest = json.loads(files[checkpoint.MANIFEST])
        for name, told in manifest["files"].items():
            told |= {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
        manifest.pop("sha256", None)
        manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        return {**files, checkpoint.MANIFEST: json.dumps(manifest).encode()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return files


def picture(folder: Path) -> Format:
    def read(here: Path) -> bool:
        decode((here / "x").read_bytes(), "x")
        return True

    grey = cv2.imencode(".png", np.zeros((20, 20), np.uint16))[1].tobytes()
    clear = cv2.imencode(".png", np.full((20, 20, 4), 90, np.uint8))[1].tobytes()
    return Format([{"x": data} for data in (*tiny_pictures(), grey, clear)], read, repair_png)


def repair_png(files: Files) -> Files:
    """The chunks of a PNG file get their checksums."""
    import zlib

    data = bytearray(files["x"])
    position = 8
    while data[:4] == b"\x89PNG" and position + 12 <= len(data):
        end = position + 8 + int(struct.unpack_from(">I", data, position)[0])
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return {"x": bytes(data)}


def text(folder: Path) -> Format:
    def read(here: Path) -> bool:
        for reader in (read_pairs, read_people, read_drop):
            try:
                reader(here / "x.txt")
            except VplfaceError:
                continue
            return True
        raise VplfaceError("none of them")

    lists = [
        b"2\t1\nAda\t1\t2\nAda\t1\tGrace\t2\nMary\t1\t2\nMary\t1\tAda\t2\n",
        b"1\nAda\t1\t2\nAda\t1\tGrace\t2\n",
        b"left,right,same,fold\na/1.jpg,a/2.jpg,1,0\na/1.jpg,b/2.jpg,0,9\n",
        b"2\nAda\t3\nGrace\t1\n",
        b"Ada\nGrace Hopper\n",
        b"a/1.jpg\tblurred\nb/2.jpg\t\n",
    ]
    return Format([{"x.txt": data} for data in lists], read)


FORMATS: Mapping[str, tuple[str, Callable[[Path], Format]]] = {
    "recordio": ("vplface.data.formats.recordio", recordio),
    "bin": ("vplface.data.formats.verification_bin", bin_),
    "tar": ("vplface.data.formats.tar_shards", tar),
    "zip": ("vplface.data.formats.zip_archive", zip_),
    "csv": ("vplface.data.formats.picture_list", csv),
    "parquet": ("vplface.data.formats.parquet", parquet),
    "checkpoint": ("vplface.training.checkpoint", checkpoint_),
    "picture": ("vplface.data.pictures", picture),
    "text": ("vplface.data.pairs", text),
}
"""The module that is tried, and the format; a new one is one function here."""

DEFAULT = "recordio,bin,tar,zip,csv,checkpoint,picture,text"


def build(names: Sequence[str]) -> dict[str, Format]:
    """The formats, with their corpora."""
    built = {}
    for name in names:
        module, make = FORMATS[name]
        if importlib.util.find_spec(module) is None:
            sys.exit(f"{name}: there is no {module}")
        with tempfile.TemporaryDirectory() as folder:
            built[name] = make(Path(folder))
    return built


NUMBERS = [
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**24,
    2**29 - 1,
    2**29,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
]
TOKENS = [b"\0", b"\n", b"\r\n", b",", b"\t", b'"', b"'", b"..", b"../", b"/", b"\\", b"\xef\xbb\xbf", b"\xff\xd8\xff"]
TOKENS += [
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"[" * 50,
    b"{" * 50,
    b"9" * 30,
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"%s%n",
]


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """One change of one file."""
    size = len(data)
    at = rng.randrange(size + 1)
    match rng.randrange(10):
        case 0 | 1 if size:  # a bit
            changed = bytearray(data)
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 2:  # a number of some width, such as a length
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) + rng.randrange(-2, 3)
            number = (value % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
            place = at - at % width if rng.random() < 0.7 else at
            return data[:place] + number + data[place + width :]
        case 3:  # a nearby change of a number
            changed = bytearray(data)
            if size:
                place = rng.randrange(size)
                changed[place] = (changed[place] + rng.choice((-1, 1, 16, -16))) % 256
            return bytes(changed)
        case 4:  # cut off
            return data[:at]
        case 5:  # a part removed
            return data[:at] + data[at + rng.randrange(1, 65) :]
        case 6:  # a part repeated
            part = data[at : at + rng.randrange(1, 129)]
            return data[:at] + part * rng.randrange(1, 4) + data[at:]
        case 7:  # something inserted
            return (
                data[:at]
                + (rng.choice(TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 33)))
                + data[at:]
            )
        case 8:  # the end of another file
            return data[:at] + other[rng.randrange(len(other) + 1) :]
        case _:  # digits
            start = data.find(rng.choice((b"0", b"1", b"2", b"3")), at)
            return (
                data[:start] + rng.choice((b"9", b"-", b"99999999", b"7", b"")) + data[start + 1 :]
                if start >= 0
                else data
            )


def generate(format: Format, rng: random.Random) -> Files:
    """An input: a member of the corpus, mutated."""
    files = dict(rng.choice(format.corpus))
    names = sorted(files)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(names)
        other = rng.choice(format.corpus)
        files[name] = mutate(files[name], rng, other.get(name, b""))
    if len(names) > 1 and rng.random() < 0.02:
        del files[rng.choice(names)]
    if format.repair is not None and rng.random() < 0.5:
        files = format.repair(files)
    return files


def numbered(formats: Mapping[str, Format], seed: int, number: int) -> tuple[str, Files]:
    """Input ``number``: its format and its files."""
    name = list(formats)[number % len(formats)]
    return name, generate(formats[name], random.Random(f"{seed}/{name}/{number}"))


class TooSlow(BaseException):
    """The alarm; nothing that a reader catches."""


def put(files: Files, folder: Path) -> None:
    """The folder holds these files and no others."""
    for path in [
        path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() not in files
    ]:
        path.unlink()
    for name, data in files.items():
        try:
            (folder / name).write_bytes(data)
        except FileNotFoundError:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def judge(format: Format, folder: Path) -> tuple[str, str]:
    """What becomes of the input in a folder: the outcome, and of a failure its traceback."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        outcome, trace = ("read" if format.read(folder) else "read in part"), ""
    except VplfaceError:
        outcome, trace = "refused", ""
    except BaseException:  # whatever it is, it is a failure
        outcome, trace = "failed", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if Path(MARKER).exists() or (folder / MARKER).exists():
        outcome, trace = "failed", "the input was executed"
    return outcome, trace


def work(formats: Mapping[str, Format], seed: int, numbers: range, desk: Desk, out: Path) -> None:
    """Read the inputs of a range; what is under way and what became of it is on the desk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as working:
        os.chdir(working)
        faulthandler.disable()
        quiet = os.open(os.devnull, os.O_WRONLY)  # decoders of pictures complain there
        os.dup2(quiet, 2)
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, _ring)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        folders = {name: Path(working) / name for name in formats}
        for folder in folders.values():
            folder.mkdir()
        for number in numbers:
            desk.current.value = number
            name, files = numbered(formats, seed, number)
            put(files, folders[name])
            outcome, trace = judge(formats[name], folders[name])
            desk.count(list(formats).index(name), outcome)
            if outcome == "failed":
                keep(out, name, seed, number, files, trace)
                Path(MARKER).unlink(missing_ok=True)
    desk.current.value = numbers.stop


def _ring(*_: object) -> None:
    raise TooSlow(f"took more than {SECONDS:g} seconds")


class Desk:
    """What a worker and the process that watches it share."""

    def __init__(self, context: Any, formats: int) -> None:
        self.current = context.Value("q", -1, lock=False)
        self.counts = context.Array("q", formats * len(OUTCOMES), lock=False)

    def count(self, format: int, outcome: str) -> None:
        """Note an outcome."""
        self.counts[format * len(OUTCOMES) + OUTCOMES.index(outcome)] += 1


def keep(out: Path, name: str, seed: int, number: int, files: Files, trace: str) -> None:
    """Put a failure down."""
    folder = out / f"{name}-{seed}-{number}"
    put_all = {f"files/{file}": data for file, data in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    put({**put_all, "failure.txt": f"format {name}, seed {seed}, input {number}\n\n{trace}".encode()}, folder)


def fuzz(formats: Mapping[str, Format], inputs: int, seed: int, workers: int, out: Path) -> dict[str, dict[str, int]]:
    """Outcomes of so many inputs, by format."""
    with worker_processes() as context:
        desks = [Desk(context, len(formats)) for _ in range(workers)]

        def start(worker: int, first: int) -> Any:
            process = context.Process(
                target=work, args=(formats, seed, range(first, inputs, workers), desks[worker], out), daemon=True
            )
            process.start()
            return process

        running = {worker: start(worker, worker) for worker in range(workers)}
        seen = {worker: (-1, time.monotonic()) for worker in range(workers)}
        done = 0
        with progress("hostile inputs", inputs) as advance:
            while running:
                time.sleep(0.1)
                for worker, process in list(running.items()):
                    number = desks[worker].current.value
                    if number != seen[worker][0]:
                        seen[worker] = number, time.monotonic()
                    hangs = process.is_alive() and time.monotonic() - seen[worker][1] > DEADLINE
                    if hangs:
                        process.kill()
                        process.join()
                    if process.is_alive():
                        continue
                    del running[worker]
                    if number < inputs or process.exitcode:
                        why = (
                            f"took more than {DEADLINE:g} seconds" if hangs else f"ended with status {process.exitcode}"
                        )
                        name, files = numbered(formats, seed, number)
                        keep(out, name, seed, number, files, f"the process {why}")
                        desks[worker].count(list(formats).index(name), "failed")
                        running[worker] = start(worker, number + workers)
                now = sum(sum(desk.counts) for desk in desks)
                advance(now - done)
                done = now
        table = {}
        for place, name in enumerate(formats):
            columns = range(place * len(OUTCOMES), (place + 1) * len(OUTCOMES))
            table[name] = {o: sum(desk.counts[c] for desk in desks) for o, c in zip(OUTCOMES, columns, strict=True)}
        return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default=DEFAULT, help=f"with commas between: {', '.join(FORMATS)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failures are put")
    parser.add_argument("--only", type=int, metavar="K", help="read input K in this process")
    options = parser.parse_args()
    names = options.formats.split(",")
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        parser.error(f"no format is called {', '.join(unknown)}; there are {', '.join(FORMATS)}")
    if options.inputs < 1 or options.workers < 1:
        parser.error("--inputs and --workers must be at least 1")
    out = options.out.absolute()
    formats = build(names)
    if options.only is not None:
        name, files = numbered(formats, options.seed, options.only)
        with tempfile.TemporaryDirectory() as folder:
            put(files, Path(folder))
            print(f"{name}: {'read' if formats[name].read(Path(folder)) else 'read in part'}")
        return
    began = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    table = fuzz(formats, options.inputs, options.seed, min(options.workers, options.inputs), out)
    took = time.monotonic() - began
    print(f"{'':12}" + "".join(f"{outcome:>14}" for outcome in OUTCOMES))
    for name, counts in table.items():
        print(f"{name:12}" + "".join(f"{count:14,}" for count in counts.values()))
    total = sum(sum(counts.values()) for counts in table.values())
    failed = sum(counts["failed"] for counts in table.values())
    print(f"{total:,} inputs in {took:,.0f} s, {total / took:,.0f} a second; {failed:,} failures")
    if failed:
        sys.exit(f"failures are in {out}")


if __name__ == "__main__":
    main()
