"""Networks in ONNX files, whoever wrote them, run by onnxruntime on the bytes that were read here.

What a file declares is checked. What it leaves open is found by a trial with two pictures: which output is the
embedding, and whether several pictures can be embedded at once. A batch that is fixed inside the network, or whose
embeddings depend on each other, is noticed by this, and its pictures are then embedded one by one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vplface.errors import DataError, VplfaceError, import_extra
from vplface.printable import printable
from vplface.reading import is_file, kind_of, read_bytes
from vplface.telemetry import switch_off

FILE_LIMIT = 2 * 2**30
"""The largest ONNX file, in bytes; the format itself ends there."""
DATA_LIMIT = 8 * 2**30
"""The most that lies in files beside it, all together."""
BATCH_LIMIT = 1024
"""The largest batch that a network may fix."""
SIZE_LIMIT = 1024
"""The largest width of its pictures, in pixels."""
PATIENCE = 120.0
"""Seconds for loading a network, and for each picture of the trial."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_LOOPS = ("Loop", "Scan", "SequenceMap")
_SILENT = 4
"""The severity of messages that onnxruntime may print: its errors come as exceptions too."""
_LONGEST = 600
"""Of a message of onnxruntime's, and of a list of names, letters."""
_TOLERANCE = 0.01
"""Of an embedding's largest number: the difference that a second picture in the batch may make."""


class OnnxNetwork:
    """Prepared pictures [n, 3, size, size] → raw embeddings [n, dim], both float32 on the CPU.

    Args:
        path: the file. It has one input, pictures in either order of axes, in float or in uint8.
        device: where to compute, ``cpu`` or ``cuda``.

    Attributes:
        metadata: what the file says of itself, by key.
        files: SHA-256 of the bytes that were read, by path: the file, then those beside it that hold weights.
        takes_bytes: whether the network takes pixels of 0 to 255 in uint8.
        dim: size of an embedding; 0 before :meth:`try_out` has found it.

    Raises:
        DataError: there is no such file, it is damaged or too large, or it is no network of pictures.
        MissingExtraError: without the extra ``onnx``.
        VplfaceError: onnxruntime does not have the device.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        switch_off()
        runtime = import_extra("onnxruntime", "onnx")
        runtime.disable_telemetry_events()  # for a program that imported it before vplface
        provider = _PROVIDERS.get(torch.device(device).type)
        if provider not in runtime.get_available_providers():
            raise VplfaceError(f"device {device}: this onnxruntime does not support it; use device cpu")
        if kind_of(path) is None:
            raise DataError(f"{path}: no such file")
        self._path = path
        data = read_bytes(path, FILE_LIMIT)
        beside = _files_beside(path, _parse(path, data))
        self.files = {str(path): _sha256(data)} | {str(path.parent / name): _sha256(beside[name]) for name in beside}
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _SILENT
        if beside:
            contents = list(beside.values())
            options.add_external_initializers_from_files_in_memory(list(beside), contents, [len(x) for x in contents])
        try:
            with _within(PATIENCE, lambda: options.set_load_cancellation_flag(True)):
                self._session = runtime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise DataError(f"{path}: onnxruntime cannot load it: {_short(error)}") from error
        self._runtime = runtime
        try:
            self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
            self._outputs: list[str] = [made.name for made in self._session.get_outputs()]
            inputs = [(given.name, given.type, given.shape) for given in self._session.get_inputs()]
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: onnxruntime cannot load it: a name in it is not text: {error}") from error
        self._given, self._type, self._shape = self._only(inputs)
        self.takes_bytes = self._type is np.uint8
        self.dim = 0

    def _only(self, inputs: Sequence[tuple[str, str, list[Any]]]) -> tuple[str, Any, list[Any]]:
        """Name, type and shape of the input."""
        if len(inputs) != 1:
            names = _short(", ".join(repr(name) for name, _, _ in inputs)) or "none"
            raise DataError(
                f"{self._path}: has {len(inputs)} inputs ({names}); a network of faces has one, which takes the "
                "pictures; export it with that input alone"
            )
        ((name, kind, shape),) = inputs
        if kind not in _TYPES:
            raise DataError(f"{self._path}: its input {name!r} is of type {kind}; expected one of {', '.join(_TYPES)}")
        return name, _TYPES[kind], shape

    def try_out(self, size: int, dim: int | None = None) -> None:
        """Find the order of axes, the batch that the network takes, and the output that is the embedding.

        Args:
            size: of the pictures, in pixels.
            dim: size of an embedding, if that is known; else the output must be plain from its shape.

        Raises:
            DataError: pictures of another size, no output that is an embedding, or several; or it cannot be run.
        """
        if not 1 <= size <= SIZE_LIMIT:
            raise DataError(f"{self._path}: its card says pictures of {size} pixels; at most {SIZE_LIMIT} are possible")
        shape = self._shape
        orders = {(3, size, size): (0, 1, 2, 3), (size, size, 3): (0, 2, 3, 1)}
        self._order = next((orders[axes] for axes in orders if _fits(shape[1:], axes)), ())
        fixed = shape[0] if shape and isinstance(shape[0], int) else None
        if not self._order or (fixed is not None and not 1 <= fixed <= BATCH_LIMIT):
            raise DataError(
                f"{self._path}: takes pictures of shape {_short(str(shape))}; expected [batch, 3, {size}, {size}] or "
                f"[batch, {size}, {size}, 3], with a batch that is open or at most {BATCH_LIMIT}"
            )
        pictures = torch.linspace(0, 255, 2 * 3 * size * size).reshape(2, 3, size, size)
        pictures[1] = pictures[1].flip(-1).transpose(-1, -2) / 2
        if not self.takes_bytes:
            pictures = pictures / 127.5 - 1
        self._step: int | None = fixed or 1
        first = self._padded(pictures[:1])
        made = self._run(first, self._outputs, PATIENCE)
        self._outputs = [self._embedding_among(made, len(first), dim)]
        alone = self(pictures)
        self.dim = alone.shape[1]
        if fixed is None and self._together(pictures, alone):
            self._step = None

    def _embedding_among(self, made: Sequence[Any], batch: int, dim: int | None) -> str:
        shapes = {name: list(np.shape(each)) for name, each in zip(self._outputs, made, strict=True)}
        sizes = {name: _length(each, batch) for name, each in zip(self._outputs, made, strict=True)}
        found = [name for name, length in sizes.items() if length >= 2 and dim in (None, length)]
        told = _short(", ".join(f"{name!r} {shape}" for name, shape in shapes.items())) or "nothing"
        if not found and dim is not None:
            other = [length for length in sizes.values() if length >= 2]
            what = f"embeddings of dimension {other}" if other else f"no embedding, but {told}"
            raise DataError(f"{self._path}: gives {what}, its card says {dim}")
        if not found:
            raise DataError(
                f"{self._path}: gives no embedding, a vector of floats for each picture, but {told} for {batch}"
            )
        if len(found) > 1:
            raise DataError(
                f"{self._path}: gives several vectors for each picture: {told} for {batch}; which is the embedding "
                "is ambiguous: export the network with that output alone"
            )
        return found[0]

    def _together(self, pictures: Tensor, alone: Tensor) -> bool:
        """Whether pictures in one batch get the embeddings that they get alone."""
        try:
            together = self._rows(self._padded(pictures))
        except DataError:
            return False
        near = _TOLERANCE * alone.abs().amax(1, keepdim=True)
        return together.shape == alone.shape and not bool(((together - alone).abs() > near).any())

    def __call__(self, pictures: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n dim"]:
        """Embed prepared pictures.

        Raises:
            DataError: onnxruntime cannot run the network on them, or what it gives is no embedding.
        """
        step = self._step or len(pictures)
        rows = [self._rows(self._padded(part))[: len(part)] for part in torch.split(pictures, step)]
        return torch.cat(rows)

    def _padded(self, pictures: Tensor) -> np.ndarray:
        """Pictures as the network takes them; a fixed batch is filled with the last one."""
        missing = (self._step or 0) - len(pictures)
        if missing > 0:
            pictures = torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)])
        if self.takes_bytes:
            pictures = pictures.round().clamp(0, 255)
        return np.ascontiguousarray(pictures.cpu().numpy().transpose(self._order), self._type)

    def _rows(self, given: np.ndarray) -> Tensor:
        made = self._run(given, self._outputs)[0]
        dim = self.dim or _length(made, len(given))
        if not isinstance(made, np.ndarray) or made.size != len(given) * dim:
            raise DataError(
                f"{self._path}: gives {self._outputs[0]!r} of shape {list(np.shape(made))} for {len(given)} pictures"
            )
        return torch.from_numpy(made.reshape(len(given), dim).astype(np.float32))

    def _run(self, given: np.ndarray, outputs: list[str], patience: float | None = None) -> list[Any]:
        options = self._runtime.RunOptions()
        options.log_severity_level = _SILENT

        def stop() -> None:
            options.terminate = True

        try:
            with _within(patience, stop):
                made: list[Any] = self._session.run(outputs, {self._given: given}, options)
        except Exception as error:
            raise DataError(f"{self._path}: onnxruntime cannot run it: {_short(error)}") from error
        return made


def _parse(path: Path, data: bytes) -> Any:
    """The model in a file, without what lies beside it; raises DataError for one that is damaged or has loops."""
    onnx = import_extra("onnx", "onnx")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, which is not imported here
        raise DataError(f"{path}: onnxruntime cannot load it: it is not an ONNX file, or a damaged one") from error
    for nodes, _ in _graphs(model):
        for node in nodes:
            if node.op_type in _LOOPS and node.domain in ("", "ai.onnx"):
                raise DataError(
                    f"{path}: has a {node.op_type}, which may loop without end; export the network without it"
                )
    return model


def _graphs(model: Any) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Nodes and tensors of each graph and function, those inside attributes of nodes too."""
    left = [model.graph, *model.functions]
    while left:
        graph = left.pop()
        tensors = [*getattr(graph, "initializer", ())]
        sparse = [*getattr(graph, "sparse_initializer", ())]
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
                left += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        yield graph.node, tensors + [part for each in sparse for part in (each.values, each.indices)]


def _files_beside(path: Path, model: Any) -> dict[str, bytes]:
    """What lies in other files, by the names that the model has for them.

    Raises:
        DataError: a name that leads out of the folder, a file that is missing or too short, or too much of it.
    """
    found: dict[str, bytes] = {}
    left = DATA_LIMIT
    for _, tensors in _graphs(model):
        for tensor in tensors:
            if tensor.data_location != 1:  # TensorProto.EXTERNAL
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            name = place.get("location", "")
            if name not in found:
                _require_inside(path, name)
                found[name] = read_bytes(path.parent / name, left)
                left -= len(found[name])
            try:
                start, length = int(place.get("offset", "0")), int(place.get("length", "0"))
            except ValueError:
                start = length = -1
            if min(start, length) < 0 or start + length > len(found[name]):
                raise DataError(
                    f"{path}: the weights {_short(repr(tensor.name))} lie outside {_short(repr(name))}, which has "
                    f"{len(found[name])} bytes; one of both files is damaged, or of another version"
                )
    return found


def _require_inside(path: Path, name: str) -> None:
    """Raise DataError unless a name is that of a file in the model's folder, or beside the file that it links to."""
    plain = bool(name) and not PureWindowsPath(name).is_absolute() and not os.path.isabs(name)  # noqa: PTH117
    target = os.path.realpath(path.parent / name) if plain and "\0" not in name else ""
    folders = {os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))}  # noqa: PTH120
    if not any(target.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders):
        raise DataError(
            f"{path}: its weights are in {_short(repr(name))}, outside its folder, where nothing is read; put that "
            "file beside it, and save the model with the plain name"
        )
    if not is_file(target):
        raise DataError(f"{path}: its weights are in {_short(repr(name))}, which is not beside it; copy both files")


@contextmanager
def _within(seconds: float | None, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` if the block lasts longer; raises TimeoutError where it fails because of that."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if timer.finished.is_set():
            raise TimeoutError(f"it took longer than {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()


def _fits(declared: Sequence[int | str | None], expected: tuple[int, ...]) -> bool:
    """Whether a shape, with names or None for what is open, allows another."""
    return len(declared) == len(expected) and all(
        not isinstance(length, int) or length == wanted for length, wanted in zip(declared, expected, strict=True)
    )


def _length(made: Any, batch: int) -> int:
    """Numbers for each picture, if an output is one vector of floats for each; else 0."""
    if not isinstance(made, np.ndarray) or not np.issubdtype(made.dtype, np.floating) or made.size == 0:
        return 0
    own = made.shape[1:] if made.ndim > 1 and made.shape[0] == batch else made.shape if batch == 1 else ()
    length = max(own, default=0)
    return length if length * batch == made.size else 0


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _short(error: Exception | str) -> str:
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
