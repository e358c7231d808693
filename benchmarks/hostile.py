"""The formats that benchmarks/fuzz.py tries: a few small valid inputs of each, and the reader that is attacked."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save

from vplface.data.drop import read_drop
from vplface.data.format_table import Format as StoredFormat
from vplface.data.formats import create_pictures, open_pictures
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import Pairs
from vplface.data.people import read_people
from vplface.data.pictures import UnreadablePictureError, decode
from vplface.errors import VplfaceError
from vplface.stored_model import ModelCard
from vplface.training import checkpoint, checkpoint_manifest

Files = dict[str, bytes]
"""Name → content of the files of an input."""

MARKER = "executed"
"""The file that a hostile input makes if it is executed."""


@dataclass(frozen=True)
class Format:
    """A kind of input.

    Attributes:
        corpus: valid inputs, and hostile ones.
        read: reads all there is in a folder with an input; True if all of it could be read.
        repair: makes checksums right again.
        share: how many inputs it gets of each round; the more, the quicker one is read.
    """

    corpus: Sequence[Files]
    read: Callable[[Path], bool]
    repair: Callable[[Files], Files] | None = None
    share: int = 1


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


def written(form: StoredFormat, target: str, folder: Path, names: Sequence[str]) -> Files:
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
    return Format(corpus, lambda here: read_set(here / "x" / "train.rec"), share=4)


def tar(folder: Path) -> Format:
    corpus = [written("tar", "x.tar", folder / f"{k}", names) for k, names in enumerate(NAMES)]
    return Format(corpus, lambda here: read_set(here / "x.tar"), repair_tar, share=7)


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
        made = written("list", f"x.{kind}", folder / kind, names)
        corpus.append({name: made[name] for name in (f"x.{kind}", f"x/ada/{names[0]}")})
    rows = b'path,label,split\nx/ada/1.jpg,ada,train\n"x/ada/2.png","a,da",val\n../x.jpg,,\n/etc/passwd,b,train\n'
    corpus.append({**corpus[0], "x.csv": b"\xef\xbb\xbf" + rows})
    corpus.append({**corpus[0], "x.csv": rows.replace(b"\n", b"\r\n")})
    corpus.append({**corpus[0], "x.csv": b"path,label\nx/ada/1.jpg,ada\n"})
    return Format(corpus, lambda here: read_set(here / ("x.tsv" if (here / "x.tsv").exists() else "x.csv")), share=9)


def parquet(folder: Path) -> Format:
    corpus = [written("parquet", "x", folder / f"{k}", names) for k, names in enumerate(NAMES)]
    return Format(corpus, lambda here: read_set(here / "x"), share=4)


def zip_(folder: Path) -> Format:
    corpus = []
    for number, names in enumerate(NAMES):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path = folder / f"{number}-{method}.zip"
            with zipfile.ZipFile(path, "w", method) as archive:
                for label, encoded, name in zip("aabbc", tiny_pictures(), names, strict=True):
                    archive.writestr(f"x/{label}/{name}", encoded)
            corpus.append({"x.zip": path.read_bytes()})
    return Format(corpus, lambda here: read_set(here / "x.zip"), share=7)


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
    return Format([{"x.bin": data} for data in told], lambda here: read_set(here / "x.bin"), share=52)


def checkpoint_(folder: Path) -> Format:
    common = save({"backbone.w": torch.arange(6.0).reshape(2, 3), "head.step_count": torch.tensor(7)})
    rows = [save({"head.weight": torch.ones(2, 3), "head.timer": torch.ones(2, dtype=torch.int32)}) for _ in range(2)]
    stored = {"common.safetensors": common}
    parts: dict[str, Any] = {"common.safetensors": {}}
    for rank, data in enumerate(rows):
        name = f"rows-{rank:05d}-of-00002.safetensors"
        stored[name] = data
        parts[name] = {"first": 2 * rank, "stop": 2 * rank + 2}
    notes = {"step": 7, "best": None, "unreadable": []}
    manifest = {
        "format": checkpoint_manifest.FORMAT,
        "notes": notes,
        "classes": 4,
        "dim": 3,
        "world": 2,
        "files": parts,
    }
    stored[checkpoint_manifest.MANIFEST] = json.dumps(manifest).encode()
    card = {"model.json": ModelCard("tiny", 8).to_json().encode()}
    return Format([repair_checkpoint(stored | card)], read_checkpoint, repair_checkpoint, share=4)


def read_checkpoint(folder: Path) -> bool:
    card = folder / "model.json"
    if card.exists():
        ModelCard.from_json(card.read_text("utf-8", "replace"), "model.json")
    manifest = checkpoint_manifest.read_manifest(folder)
    checkpoint_manifest.verify_checkpoint(folder)
    checkpoint.read_tensors(folder / checkpoint_manifest.COMMON)
    checkpoint.read_rows(folder, manifest, torch.arange(manifest["classes"] if manifest["classes"] < 100 else 4))
    return True


def repair_checkpoint(files: Files) -> Files:
    """A manifest that still is one gets the sizes and digests of the files, and its own digest."""
    try:
        manifest = json.loads(files[checkpoint_manifest.MANIFEST])
        for name, told in manifest["files"].items():
            told |= {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
        manifest.pop("sha256", None)
        manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        return {**files, checkpoint_manifest.MANIFEST: json.dumps(manifest).encode()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return files


def picture(folder: Path) -> Format:
    def read(here: Path) -> bool:
        decode((here / "x").read_bytes(), "x")
        return True

    grey = cv2.imencode(".png", np.zeros((20, 20), np.uint16))[1].tobytes()
    clear = cv2.imencode(".png", np.full((20, 20, 4), 90, np.uint8))[1].tobytes()
    return Format([{"x": data} for data in (*tiny_pictures(), grey, clear)], read, repair_png, share=96)


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
    return Format([{"x.txt": data} for data in lists], read, share=72)


def yaml(folder: Path) -> Format:
    """A recipe, a study and the value of an override; none of them opens data."""
    from vplface.config import apply_overrides, build_config, read_recipe
    from vplface.study.grid import is_study, read_grid

    def read(here: Path) -> bool:
        raw = read_recipe(here / "x.yaml")
        if is_study(raw):
            read_grid(here / "x.yaml")
        else:
            given = here / "overrides"
            overrides = given.read_text("utf-8", "surrogateescape").splitlines() if given.exists() else []
            build_config(apply_overrides(raw, overrides), "x.yaml")
        return True

    recipe = files("vplface").joinpath("configs", "folder.yaml").read_bytes()
    short = b"name: a\ndata: {train: [{path: b, people: c}], workers: 0}\nbackbone: {name: tiny, options: {width: 8}}\n"
    study = (
        b"name: s\nbase: {data: {train: x}}\nseeds: [0, 1]\narms: {a: {}, b: {variational: {lam: .3, start: auto}}}\n"
    )
    aliased = b"name: a\nx: &x {train: a}\ndata: *x\nevaluation: {sets: [&s {name: b, path: c}, {<<: *s, name: d}]}\n"
    bomb = b"name: x\ndata: {train: a}\nl0: &l0 [x,x,x,x]\n" + b"".join(
        b"l%d: &l%d [%s]\n" % (k, k, b",".join([b"*l%d" % (k - 1)] * 9)) for k in range(1, 12)
    )
    overrides = b"optimizer.lr=1e-3\ndata.train=people #2\nname=007\nschedule.length=3 epochs\n"
    corpus = [{"x.yaml": data, "overrides": overrides} for data in (recipe, short, study, aliased, bomb)]
    return Format(corpus, read, share=3)


def json_(folder: Path) -> Format:
    """The JSON of a run folder, and the operating point of a model."""
    from vplface.evaluation.operating_point import OperatingPoint
    from vplface.report.record import read_run

    def read(here: Path) -> bool:
        read_run(here)
        OperatingPoint.load(here)
        return True

    weights = save({"w": torch.ones(1)})
    point = {"schema": 1, "threshold": 0.4, "far": 1e-3, "actual_far": 9e-4, "tar": 0.9, "protocol": {"flip": "sum"}}
    point |= {"data": "x", "date": "2026-11-30", "files": {"model.safetensors": hashlib.sha256(weights).hexdigest()}}
    lines = [{"step": k, "loss": 9.5 - k, "lr": 0.1} for k in range(3)]
    lines.append({"step": 2, "validation": {"all pairs": {"tar@far=1e-3": 0.5}}})
    evaluation = {"all pairs": {"name": "all pairs", "metrics": {"tar@far=1e-3": {"value": 0.5, "ci95": [0.4, 0.6]}}}}
    texts = {
        "operating_point.json": json.dumps(point),
        "environment.json": json.dumps({"torch": "2.13.0", "pictures": 5, "steps": 3}),
        "evaluation.json": json.dumps(evaluation),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "model.json": ModelCard("tiny", 8).to_json(),
    }
    corpus = [{"model.safetensors": weights} | {name: text.encode() for name, text in texts.items()}]
    return Format(corpus, read, share=6)


def onnx(folder: Path) -> Format:
    """A model by others, loaded and used for one picture."""
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    from vplface.data.pictures import Preprocessing
    from vplface.embedder import Embedder

    pictures = np.zeros((1, 112, 112, 3), np.uint8)

    def read(here: Path) -> bool:
        Embedder.load(here / "x.onnx", preprocessing=Preprocessing())(pictures)
        return True

    def model(batch: int | str, kind: int) -> bytes:
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
        nodes += [
            helper.make_node("GlobalAveragePool", ["y"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "W"], ["e"]),
        ]
        inputs = [helper.make_tensor_value_info("x", kind, [batch, 3, 112, 112])]
        outputs = [helper.make_tensor_value_info("e", TensorProto.FLOAT, [batch, 4])]
        weights = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "W")
        graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(made.SerializeToString())

    assert library
    corpus = [{"x.onnx": model(*of)} for of in (("b", 1), (1, 1), ("b", TensorProto.UINT8), (1, TensorProto.FLOAT16))]
    return Format(corpus, read, share=4)


def gallery(folder: Path) -> Format:
    """A gallery, opened and searched."""
    from vplface.data.pictures import Preprocessing
    from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace
    from vplface.deploy.gallery_folder import add_faces, load_gallery
    from vplface.deploy.gallery_search import Search

    embeddings = np.eye(4, dtype=np.float32)

    def read(here: Path) -> bool:
        Search(load_gallery(here), "exact")(embeddings[:1], k=1)
        return True

    people = [EnrolledFace(f"p{k // 2}", embeddings[k], f"{k:064x}", f"{k}.jpg") for k in range(4)]
    add_faces(folder / "g", EmbedderFingerprint("m", "0" * 64, 4, Preprocessing(), "sum"), people)
    stored = contents(folder / "g")
    return Format([{"gallery.safetensors": stored["gallery.safetensors"]}], read, share=52)


FORMATS: Mapping[str, tuple[str, Callable[[Path], Format]]] = {
    "recordio": ("vplface.data.formats.recordio", recordio),
    "bin": ("vplface.data.formats.verification_bin", bin_),
    "tar": ("vplface.data.formats.tar_shards", tar),
    "zip": ("vplface.data.formats.zip_archive", zip_),
    "csv": ("vplface.data.formats.picture_list", csv),
    "parquet": ("pyarrow", parquet),
    "checkpoint": ("vplface.training.checkpoint", checkpoint_),
    "picture": ("vplface.data.pictures", picture),
    "text": ("vplface.data.pair_lists", text),
    "yaml": ("vplface.config", yaml),
    "json": ("vplface.report.record", json_),
    "onnx": ("onnxruntime", onnx),
    "gallery": ("vplface.deploy.gallery_folder", gallery),
}
"""The module that is needed, and the format; a new one is one function here."""
