"""Search in large galleries: recall, time and memory of the exact search, of that by codes, and of other indexes.

    python benchmarks/gallery.py                          # 1,000,000 pictures of 128 and 512 numbers; needs 10 GB
    python benchmarks/gallery.py --pictures 100000        # a minute
    python benchmarks/gallery.py --others                 # also indexes that were not chosen
    python benchmarks/gallery.py --real embeddings.npz    # of real faces, as vplface embed writes them

Embeddings are made up: people belong to a few groups that resemble each other, their coordinates have the falling
spectrum of real ones, and each of a person's pictures is the person and noise, more or less of it from picture to
picture. Constants are such that 128 numbers have the cosines that a MobileFaceNet gives LFW: .67 ± .12 between pictures
of one person, .01 ± .10 between those of two. Probes are further pictures of enrolled people. Each engine runs in a
process of its own, with the gallery on the disk. "anonymous" is memory that gallery and search need; "mapped" are pages
of the gallery's file that were read, which the system may take back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vplface.data.pictures import Preprocessing
from vplface.deploy.gallery import EmbedderFingerprint, Gallery
from vplface.deploy.gallery_folder import load_gallery, store_gallery
from vplface.deploy.gallery_search import Search

PICTURES_OF_A_PERSON = 4
GROUPS, APART = 16, 0.35
SLOPE = -0.4
NOISE, SPREAD = -0.8, 0.7
OTHERS = {
    "IVF{cells},Flat": ("nprobe=16", "nprobe=64", "nprobe=256"),
    "HNSW32": ("efSearch=64", "efSearch=256"),
    "SQ8": ("",),
    "RaBitQfs": ("",),
}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Crowd:
    """People, and pictures of them."""

    def __init__(self, people: int, dim: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        spectrum = (1.0 + np.arange(dim)) ** SLOPE
        self.scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
        groups = self._noise(GROUPS) * APART
        self.centres = unit(self._noise(people) + groups[self.rng.integers(GROUPS, size=people)])

    def pictures(self, person: np.ndarray) -> np.ndarray:
        """A picture of each."""
        parts = []
        for some in np.array_split(person, max(1, len(person) // 50_000)):
            power = np.exp(self.rng.normal(NOISE, SPREAD, (len(some), 1))).astype(np.float32)
            parts.append(unit(self.centres[some] + np.sqrt(power) * self._noise(len(some))))
        return np.concatenate(parts)

    def _noise(self, count: int) -> np.ndarray:
        return self.rng.standard_normal((count, len(self.scale)), dtype=np.float32) * self.scale


def made_up(pictures: int, dim: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, the person of each, probes, and the person of each."""
    people = pictures // PICTURES_OF_A_PERSON
    crowd = Crowd(people, dim, seed)
    person = np.repeat(np.arange(people, dtype=np.int32), PICTURES_OF_A_PERSON)
    rows = crowd.pictures(person)
    asked = crowd.rng.integers(people, size=queries).astype(np.int32)
    return rows, person, crowd.pictures(asked), asked


def real(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same from a file of vplface embed; the first picture of everybody who has several is the probe."""
    with np.load(path) as stored:
        names = [Path(name).parent.name for name in stored["names"].tolist()]
        rows = stored["embeddings"].astype(np.float32)
    _, first, person, count = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    probes = first[count > 1]
    stays = np.delete(np.arange(len(rows)), probes)
    person = person.astype(np.int32)
    return rows[stays], person[stays], rows[probes], person[probes]


def store(folder: Path, rows: np.ndarray, person: np.ndarray, probes: np.ndarray, asked: np.ndarray) -> None:
    n, dim = rows.shape
    names = [f"person {number}" for number in range(person.max() + 1)]
    gallery = Gallery(
        EmbedderFingerprint("none", "0" * 64, dim, Preprocessing(), "sum"), names, person, rows,
        np.zeros((n, 32), np.uint8),
        np.full((n, 4), -1, np.int32), [str(number) for number in range(n)],
    )  # fmt: skip
    began = time.perf_counter()
    store_gallery(folder, gallery)
    stored = time.perf_counter() - began
    np.savez(folder / "probes.npz", probes=probes, asked=asked)
    rng = np.random.default_rng(0)
    genuine = [
        rows[rng.choice(np.flatnonzero(person == who))] @ probe for who, probe in zip(asked[:500], probes, strict=False)
    ]
    some = rng.choice(n, min(n, 2000), replace=False)
    strangers = (rows[some] @ rows[some].T)[person[some, None] != person[None, some]]
    print(
        f"{n:,} × {dim}: one person's {np.mean(genuine):.2f} ± {np.std(genuine):.2f}, strangers' "
        f"{strangers.mean():.2f} ± {strangers.std():.2f}, highest of {len(strangers) // 2:,} {strangers.max():.2f}; "
        f"the file has {(folder / 'gallery.safetensors').stat().st_size / 1e6:,.0f} MB, stored in {stored:.1f} s",
        flush=True,
    )


def memory() -> dict[str, float]:
    """MB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    table = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmHWM"))}
    return {"anonymous": int(table["RssAnon"]) / 1e3, "mapped": int(table["RssFile"]) / 1e3}


def each_alone(find: Any, probes: np.ndarray) -> tuple[list[Any], np.ndarray]:
    found, times = [], []
    for probe in probes:
        began = time.perf_counter()
        found.append(find(probe[None]))
        times.append(time.perf_counter() - began)
    return found, 1e3 * np.array(times)


def engine(folder: Path, name: str) -> dict[str, Any]:
    """One of ours, in this process."""
    probes = np.load(folder / "probes.npz")["probes"]
    before = memory()
    began = time.perf_counter()
    search = Search(load_gallery(folder), name, folder)  # type: ignore[arg-type]
    opened = time.perf_counter() - began
    search(probes[:2])
    began = time.perf_counter()
    search(probes[:256])
    together = 1e3 * (time.perf_counter() - began) / min(256, len(probes))
    found, times = each_alone(search, probes if name == "faiss" else probes[:50])
    if name == "exact":
        found = [[each] for each in search(probes)]
    after = memory()
    return {
        "files": [int(matches[0][0].file) for matches in found],
        "first": opened, "median": float(np.median(times)), "p95": float(np.quantile(times, 0.95)),
        "together": together, **{key: after[key] - before[key] for key in after},
        "index": sum(path.stat().st_size for path in folder.glob("index-*")) / 1e6 if name == "faiss" else 0.0,
    }  # fmt: skip


def other(folder: Path, factory: str, candidates: int = 256) -> list[dict[str, Any]]:
    """An index of faiss that was not chosen; its best few hundred are compared exactly, as ours."""
    import faiss

    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    probes = np.load(folder / "probes.npz")["probes"]
    rows = load_gallery(folder).embeddings
    began = time.perf_counter()
    cells = 1 << round(np.log2(4 * len(rows) ** 0.5))
    index = faiss.index_factory(rows.shape[1], factory.format(cells=cells), faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(rows[:: max(1, len(rows) // 65_536)]))
    index.add(np.ascontiguousarray(rows))
    built = time.perf_counter() - began
    size = faiss.serialize_index(index).nbytes / 1e6
    kept = 1 if "Flat" in factory or "HNSW" in factory else candidates

    def find(probe: np.ndarray) -> int:
        found = index.search(probe, kept)[1][0]
        found = found[found >= 0]
        return int(found[(rows[found] @ probe[0]).argmax()]) if len(found) else -1

    told = []
    for setting in OTHERS[factory]:
        if setting:
            faiss.ParameterSpace().set_index_parameters(index, setting)
        files, times = each_alone(find, probes)
        told.append({
            "setting": setting, "files": files, "first": built, "index": size, "median": float(np.median(times)),
            "p95": float(np.quantile(times, 0.95)),
        })  # fmt: skip
    return told


def alone(folder: Path, what: str, name: str) -> Any:
    """The result of ``what`` in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), f"--{what}", name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def show(name: str, result: dict[str, Any], exact: list[int], person: np.ndarray, asked: np.ndarray) -> None:
    files = np.array(result["files"])
    recall, same = (files == exact).mean(), (person[files] == person[exact]).mean()
    rest = "".join(f", {key} {result[key]:,.0f} MB" for key in ("index", "anonymous", "mapped") if key in result)
    rest += f", {result['together']:.1f} ms of 256 together" if "together" in result else ""
    rest += f", again {result['again']:.1f} s" if "again" in result else ""
    print(
        f"  {name}: recall@1 {recall:.4f} (person {same:.4f}; rank-1 {(person[files] == asked).mean():.4f}), one query "
        f"{result['median']:.1f} ms (95 %: {result['p95']:.1f}), opened in {result['first']:.1f} s{rest}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--dims", default="128,512")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--real", type=Path)
    for internal in ("--folder", "--engine", "--other"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        folder = Path(arguments.folder)
        print(json.dumps(engine(folder, arguments.engine) if arguments.engine else other(folder, arguments.other)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for dim in [0] if arguments.real else map(int, arguments.dims.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if arguments.real:
                store(folder, *real(arguments.real))
            else:
                store(folder, *made_up(arguments.pictures, dim, arguments.queries, arguments.seed))
            person, asked = load_gallery(folder).person, np.load(folder / "probes.npz")["asked"]
            exact = alone(folder, "engine", "exact")
            show("exact", exact, exact["files"], person, asked)
            first, then = (alone(folder, "engine", "faiss") for _ in range(2))  # then the index is there
            codes = {**then, "first": first["first"], "again": then["first"]}
            show("codes", codes, exact["files"], person, asked)
            for factory in OTHERS if arguments.others else ():
                for result in alone(folder, "other", factory):
                    show(f"{factory} {result['setting']}".strip(), result, exact["files"], person, asked)


if __name__ == "__main__":
    main()
