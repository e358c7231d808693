"""Seconds and memory of evaluations of the sizes that people run, on made-up embeddings."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float32, Int64

from vplface.bench.machine import machine
from vplface.cli.options import AS_JSON
from vplface.console import Console, print_json
from vplface.data.ijb import Faces, TemplateList, TemplatePairs, read_faces, read_landmarks, read_template_pairs
from vplface.data.pairs import Pairs
from vplface.data.pictures import Picture
from vplface.errors import UsageError, VplfaceError
from vplface.evaluation import evaluate_pairs_embedded
from vplface.evaluation.identification import IdentificationOptions, LabelledEmbeddings, evaluate_identification
from vplface.evaluation.templates import Flags, evaluate_one_to_many, evaluate_template_pairs, pool
from vplface.progress import progress
from vplface.tables import Table

DIM = 512


@dataclass(frozen=True)
class Size:
    """How large the made-up sets are; the defaults are IJB-C's, MegaFace's and LFW's."""

    faces: int = 469_375
    media: int = 138_000
    templates: int = 23_124
    subjects: int = 3_531
    genuine: int = 19_557
    pairs: int = 15_658_489
    replicates: int = 100
    probes: int = 3_530
    probe_people: int = 80
    distractors: int = 1_000_000
    lfw_pictures: int = 13_233
    lfw_people: int = 5_749
    lfw_pairs: int = 6_000
    lfw_replicates: int = 1_000


QUICK = Size(
    faces=4_000,
    media=1_500,
    templates=400,
    subjects=60,
    genuine=300,
    pairs=20_000,
    replicates=10,
    probes=100,
    probe_people=10,
    distractors=5_000,
    lfw_pictures=400,
    lfw_people=150,
    lfw_pairs=600,
    lfw_replicates=50,
)


@dataclass(frozen=True)
class Work:
    """A stage that is ready to run, and its least work.

    Attributes:
        run: does it.
        products: multiplications and additions of float32 that it cannot avoid.
        reads: bytes of embeddings that it cannot avoid reading.
    """

    run: Callable[[], object]
    products: float = 0.0
    reads: float = 0.0


def read_files(size: Size) -> Work:
    """Read IJB-C's three text files."""
    faces, pairs = _faces(size), _pairs(size)
    folder = tempfile.TemporaryDirectory()
    place = Path(folder.name)
    with (place / "faces.txt").open("w") as file:
        file.writelines(
            f"{face + 1}.jpg {template} {medium}\n"
            for face, (template, medium) in enumerate(zip(faces.template, faces.medium, strict=True))
        )
    with (place / "landmarks.txt").open("w") as file:
        numbers = " ".join("54.321" for _ in range(10))
        file.writelines(f"{name} {numbers} 0.98765\n" for name in faces.pictures)
    with (place / "pairs.txt").open("w") as file:
        for start in range(0, len(pairs.same), 100_000):
            some = slice(start, start + 100_000)
            columns = (pairs.left[some].tolist(), pairs.right[some].tolist(), pairs.same[some].astype(int).tolist())
            file.writelines(f"{left} {right} {same}\n" for left, right, same in zip(*columns, strict=True))

    def run() -> None:
        read = read_faces(place / "faces.txt")
        read_landmarks(place / "landmarks.txt", read.pictures)
        read_template_pairs(place / "pairs.txt")
        folder.cleanup()

    return Work(run)


def pooling(size: Size) -> Work:
    """Pool IJB-C's faces into templates, with all flags."""
    faces, embeddings, scores = _faces(size), _embeddings(size.faces), np.linspace(0.5, 1.0, size.faces)
    return Work(lambda: pool(embeddings, faces, norm=True, scores=scores), reads=embeddings.nbytes)


def one_to_one(size: Size) -> Work:
    """Compare IJB-C's pairs of templates; six false accept rates, replicates of each."""
    faces, embeddings, pairs = _faces(size), _embeddings(size.faces), _pairs(size)
    templates = pool(embeddings, faces, norm=True)
    used = float(len(np.unique(pairs.left)) * len(np.unique(pairs.right)))

    def run() -> None:
        evaluate_template_pairs(templates, pairs, Flags(), bootstrap=size.replicates)

    return Work(run, products=2 * used * DIM)


def one_to_many(size: Size) -> Work:
    """Search IJB-C's probes in its two galleries; replicates."""
    templates = pool(_embeddings(size.faces), _faces(size), norm=True)
    galleries, probes = _galleries(size)

    def run() -> None:
        evaluate_one_to_many(templates, galleries, probes, Flags(), bootstrap=size.replicates)

    return Work(run, products=2.0 * len(probes.template) * size.subjects * DIM)


def whole_ijbc(size: Size) -> Work:
    """Pool, compare one to one and search one to many, in one process."""
    faces, embeddings, pairs = _faces(size), _embeddings(size.faces), _pairs(size)
    scores, (galleries, probes) = np.linspace(0.5, 1.0, size.faces), _galleries(size)
    used = float(len(np.unique(pairs.left)) * len(np.unique(pairs.right)))

    def run() -> None:
        templates = pool(embeddings, faces, norm=True, scores=scores)
        evaluate_template_pairs(templates, pairs, Flags(), bootstrap=size.replicates)
        evaluate_one_to_many(templates, galleries, probes, Flags(), bootstrap=size.replicates)

    return Work(run, 2 * DIM * (used + len(probes.template) * size.subjects), embeddings.nbytes)


def megaface(size: Size) -> Work:
    """Search MegaFace's probes among its distractors: rank-k, TAR at FAR, replicates."""
    people = np.sort(np.arange(size.probes) % size.probe_people)
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((size.probe_people, DIM), np.float32)
    embeddings = centres[people] + 0.7 * rng.standard_normal((size.probes, DIM), np.float32)
    probes = LabelledEmbeddings(
        embeddings, [str(person) for person in people], [str(number) for number in range(size.probes)]
    )
    distractors = _embeddings(size.distractors)

    def run() -> None:
        options = IdentificationOptions(mates="each", bootstrap=size.replicates)
        evaluate_identification(probes, probes, distractors, options)

    return Work(run, 2.0 * size.probes * size.distractors * DIM, distractors.nbytes)


def lfw(size: Size) -> Work:
    """LFW's ten folds with their intervals."""
    rng = np.random.default_rng(2)
    people = np.sort(np.arange(size.lfw_pictures) % size.lfw_people)
    centres = rng.standard_normal((size.lfw_people, DIM), np.float32)
    embeddings = centres[people] + rng.standard_normal((size.lfw_pictures, DIM), np.float32)
    several = np.flatnonzero(np.append(people[1:] == people[:-1], False))
    same = np.tile(np.repeat([True, False], size.lfw_pairs // 20), 10)
    left = rng.choice(several, len(same))
    right = np.where(same, left + 1, (left + size.lfw_pictures // 2) % size.lfw_pictures)
    pictures = _Named(people)
    pairs = Pairs(
        [pictures.name(index) for index in left],
        [pictures.name(index) for index in right],
        same,
        np.repeat(np.arange(10), size.lfw_pairs // 10),
    )
    return Work(
        lambda: evaluate_pairs_embedded(embeddings, pictures, pairs, flip="none", bootstrap=size.lfw_replicates)
    )


STAGES: dict[str, Callable[[Size], Work]] = {
    "ijbc: read": read_files,
    "ijbc: pool": pooling,
    "ijbc: 1:1": one_to_one,
    "ijbc: 1:N": one_to_many,
    "ijbc: all but reading": whole_ijbc,
    "megaface": megaface,
    "lfw": lfw,
}


def measure(stage: str, size: Size) -> dict[str, Any]:
    """Run a stage in a new process: seconds by the clock and of the processors, floor, peak memory in MiB.

    What is compiled is compiled beforehand, by a run of the small size in that process.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return {"stage": stage, **process.submit(_measure, stage, size).result()}


def _measure(stage: str, size: Size) -> dict[str, float]:
    STAGES[stage](QUICK).run()
    work = STAGES[stage](size)
    before = _speeds()
    if (forget := Path("/proc/self/clear_refs")).exists():
        forget.write_text("5", encoding="ascii")  # the peak of the preparations
    began, processors = time.perf_counter(), time.process_time()
    work.run()
    seconds, of_processors = time.perf_counter() - began, time.process_time() - processors
    peak = _peak()
    products, reading = np.mean([before, _speeds()], axis=0).tolist()
    return {
        "seconds": seconds,
        "processor_seconds": of_processors,
        "floor_seconds": work.products / products + work.reads / reading,
        "peak_mb": peak,
        "products_per_second": products,
    }


def _speeds() -> tuple[float, float]:
    """Operations a second of products of the shape of a search, bytes a second of reading."""
    rng = np.random.default_rng(0)
    probes, rows = (rng.standard_normal((n, DIM), np.float32) for n in (2048, 1024))
    room = np.empty((2048, 1024), np.float32)
    began = time.perf_counter()
    for _ in range(20):
        np.matmul(probes, rows.T, out=room)
    products = 20 * 2.0 * room.size * DIM / (time.perf_counter() - began)
    long = rng.standard_normal(1 << 25, np.float32)
    began = time.perf_counter()
    long.max()
    return products, long.nbytes / (time.perf_counter() - began)


def _peak() -> float:
    """MiB."""
    if (status := Path("/proc/self/status")).exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


def _embeddings(rows: int) -> Float32[np.ndarray, "rows dim"]:
    return np.random.default_rng(0).standard_normal((rows, DIM), np.float32)


def _faces(size: Size) -> Faces:
    """Faces spread evenly over media, and media over templates."""
    medium = np.arange(size.faces) * size.media // size.faces
    template = 1 + medium * size.templates // size.media
    return Faces([f"{face + 1}.jpg" for face in range(size.faces)], np.arange(size.faces), template, medium)


def _subjects(size: Size) -> Int64[np.ndarray, " templates"]:
    """The gallery comes first, a template a subject; the probes' subjects follow in turn."""
    return np.arange(size.templates) % size.subjects


def _galleries(size: Size) -> tuple[dict[str, TemplateList], TemplateList]:
    subject, number = _subjects(size), np.arange(1, size.templates + 1)
    ends = [0, size.subjects // 2, size.subjects, size.templates]
    one, other, probes = (TemplateList(number[a:b], subject[a:b]) for a, b in pairwise(ends))
    return {"G1": one, "G2": other}, probes


def _pairs(size: Size) -> TemplatePairs:
    """Probes with galleries: each with its own subject, and other pairs at random, by gallery as in the real list."""
    rng = np.random.default_rng(3)
    subject = _subjects(size)
    probe = size.subjects + np.arange(size.genuine) % (size.templates - size.subjects)
    others = rng.choice(size.subjects * (size.templates - size.subjects), size.pairs - size.genuine)
    left = np.concatenate([subject[probe], others // (size.templates - size.subjects)])
    right = np.concatenate([probe, size.subjects + others % (size.templates - size.subjects)])
    order = np.argsort(left, kind="stable")
    return TemplatePairs(1 + left[order], 1 + right[order], subject[left[order]] == subject[right[order]])


class _Named:
    """Pictures that nobody opens."""

    def __init__(self, labels: Int64[np.ndarray, " n"]) -> None:
        self.labels = labels
        self.identities: Sequence[str] = [str(person) for person in range(int(labels.max()) + 1)]

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Picture:
        raise NotImplementedError("embeddings are evaluated, no pictures are opened")

    def name(self, index: int) -> str:
        return f"{index}.jpg"


def main(
    stages: Annotated[
        str | None,
        typer.Option(
            help="What to measure, names or their beginnings with commas; all unless given.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: whether it runs, not how fast.")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Time evaluations of the sizes that people run, on made-up embeddings, each stage in a process of its own.

    \b
    ijbc       469,375 faces in 23,124 templates, 15,658,489 pairs, 19,593 probes in two galleries of 3,531 people
    megaface   3,530 probes among 1,000,000 distractors
    lfw        6,000 pairs in ten folds, 1,000 replicates; the others have 100

    "floor" is what cannot be avoided: the matrix products, and reading the embeddings once, at the speed that this
    machine shows just before and after the stage. Peak memory is that of the whole process, with interpreter,
    libraries and input.

    \b
    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --stages ijbc
    """  # noqa: D301 (the mark before lines that stay as they are)
    begun = [""] if stages is None else [each.strip() for each in stages.split(",")]
    if unknown := [each for each in begun if not any(name.startswith(each) for name in STAGES)]:
        raise UsageError(f"--stages: no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    chosen = [name for name in STAGES if name.startswith(tuple(begun))]
    results = []
    with progress("measuring", len(chosen)) as advance:
        for name in chosen:
            results.append(measure(name, QUICK if quick else Size()))
            advance(1, name)
    where = machine()
    if as_json:
        print_json({"schema": 1, "machine": where, "quick": quick, "results": results})
        return
    console = Console()
    console.print(f"{where['processor']}, {where['cores']} cores", highlight=False)
    heads = ["stage", "seconds", "of processors", "floor", "peak MiB"]
    table = Table("small sizes" if quick else "", heads)
    for result in results:
        numbers = (result[key] for key in ("seconds", "processor_seconds", "floor_seconds"))
        table.add_row(result["stage"], *(f"{number:.2f}" for number in numbers), f"{result['peak_mb']:,.0f}")
    console.print(table)


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    try:
        app()
    except VplfaceError as error:
        sys.exit(f"evaluation.py: {error}")
