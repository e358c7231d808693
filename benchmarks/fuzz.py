"""Hostile input: mutated files of every form that is read, in worker processes with little memory and little time.

Run: python benchmarks/fuzz.py --inputs 10000000 --seed 0 [--formats recordio,zip,yaml,...]
     python benchmarks/fuzz.py --inputs 10000000 --first 4000000           the inputs from number 4,000,000 on
     python benchmarks/fuzz.py --seed 0 --only 12345 [--formats ...]      one of them again, with its traceback

Input k follows from the seed, the formats and k alone. A small valid file set (benchmarks/hostile.py) is mutated one to
four times (benchmarks/mutations.py), in part spliced with another set. Of some formats the checksums are then made
right again, so that what lies behind them is reached.

A reader may refuse an input with an error of vplface's, or read it, in part or whole. Everything else is a failure:
another exception, a crash, more memory or time than allowed, or the file that hostile pickles would make. Failures are
written to --out with all their files. Exit status 1 if there are any.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from hostile import FORMATS, MARKER, Files, Format
from mutations import mutate

from vplface.data.forking import worker_processes
from vplface.errors import VplfaceError
from vplface.progress import progress

MEMORY = 1 << 30
"""Bytes of address space that a worker may take beyond what it has at its start."""

SECONDS = 5.0
"""After which an input has taken too long."""

DEADLINE = 30.0
"""Seconds after which a worker that does not even hear its alarm is killed."""

OUTCOMES = ("refused", "read in part", "read", "failed")


def build(names: Sequence[str]) -> dict[str, Format]:
    """The formats, with their corpora."""
    built = {}
    for name in names:
        module, make = FORMATS[name]
        if importlib.util.find_spec(module) is None:
            sys.exit(f"{name}: needs {module}, which is not installed")
        with tempfile.TemporaryDirectory() as folder:
            built[name] = make(Path(folder))
    return built


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


def turns(formats: Mapping[str, Format]) -> list[str]:
    """The formats of a round of inputs: each as often as its share."""
    most = max(form.share for form in formats.values())
    return [name for turn in range(most) for name, form in formats.items() if turn < form.share]


def numbered(
    formats: Mapping[str, Format], seed: int, number: int, rounds: Sequence[str] | None = None
) -> tuple[str, Files]:
    """Input ``number``: its format and its files; ``rounds`` are the :func:`turns`, if they are known."""
    rounds = rounds or turns(formats)
    whole, turn = divmod(number, len(rounds))
    name = rounds[turn]
    of_format = whole * formats[name].share + rounds[:turn].count(name)
    return name, generate(formats[name], random.Random(f"{seed}/{name}/{of_format}"))


class TooSlow(BaseException):
    """The alarm; nothing that a reader catches."""


def put(files: Files, folder: Path, before: Iterable[str] | None = None) -> None:
    """The folder holds these files and no others; ``before``: those that are in it, if that is known."""
    if before is None:
        before = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in before:
        if name not in files:
            (folder / name).unlink()
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
        present: dict[str, Files] = {name: {} for name in formats}
        rounds = turns(formats)
        for number in numbers:
            desk.current.value = number
            name, files = numbered(formats, seed, number, rounds)
            put(files, folders[name], present[name])
            present[name] = files
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


def fuzz(
    formats: Mapping[str, Format], inputs: int, seed: int, workers: int, out: Path, first: int = 0
) -> dict[str, dict[str, int]]:
    """Outcomes of the inputs ``first``, ..., ``inputs`` − 1, by format."""
    with worker_processes() as context:
        desks = [Desk(context, len(formats)) for _ in range(workers)]

        def start(worker: int, first: int) -> Any:
            process = context.Process(
                target=work, args=(formats, seed, range(first, inputs, workers), desks[worker], out), daemon=True
            )
            process.start()
            return process

        running = {worker: start(worker, first + worker) for worker in range(workers)}
        seen = {worker: (-1, time.monotonic()) for worker in range(workers)}
        done = 0
        with progress("hostile inputs", inputs - first) as advance:
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
    parser.add_argument("--first", type=int, default=0, metavar="K", help="begin with input K, to split a long run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"with commas between: {', '.join(FORMATS)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failures are put")
    parser.add_argument("--only", type=int, metavar="K", help="read input K in this process")
    options = parser.parse_args()
    names = options.formats.split(",")
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        parser.error(f"no format is called {', '.join(unknown)}; there are {', '.join(FORMATS)}")
    if not 0 <= options.first < options.inputs or options.workers < 1:
        parser.error("--workers must be at least 1, --first at least 0, and --inputs more than --first")
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
    table = fuzz(formats, options.inputs, options.seed, min(options.workers, options.inputs), out, options.first)
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
