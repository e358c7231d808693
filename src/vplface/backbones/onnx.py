"""Runner for ONNX networks of any origin, on onnxruntime.

The file's declarations are checked. A trial with two pictures finds which output is the embedding, and whether pictures
can be embedded in batches. If the batch size is fixed inside the network, or the embeddings of a batch depend on each
other, pictures are embedded one by one.
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

MAX_FILE_BYTES = 2 * 2**30
"""Largest ONNX file, in bytes, which is also the format's limit."""
MAX_EXTERNAL_BYTES = 8 * 2**30
"""Largest total size of external data files, in bytes."""
MAX_BATCH = 1024
"""Largest fixed batch size of a network."""
MAX_SIZE = 1024
"""Largest picture size, in pixels."""
LOAD_TIMEOUT = 120.0
"""Time limit for loading a network and for each picture of the trial, in seconds."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INPUT_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_LOOP_OPERATORS = ("Loop", "Scan", "SequenceMap")
_LOG_FATAL = 4
"""Log level of onnxruntime that silences messages: its errors are raised as exceptions too."""
_MAX_TEXT = 600
"""Longest quoted message or list of names, in characters."""
_TOLERANCE = 0.01
"""Largest change of an embedding by a second picture in the batch, relative to its largest coordinate."""


class OnnxNetwork:
    """Maps prepared pictures [n, 3, size, size] to raw embeddings [n, dim], both float32 on the CPU.

    Args:
        path: the ONNX file. Its one input takes pictures, NCHW or NHWC, float or uint8.
        device: ``cpu`` or ``cuda``.

    Attributes:
        metadata: custom metadata of the file, by key.
        files: SHA-256 of the bytes that were read, by path: the file, then its external data files.
        takes_uint8: whether the network takes uint8 pixels, 0 to 255.
        dim: dimension of an embedding; 0 until :meth:`try_out` has found it.

    Raises:
        DataError: the file is missing, damaged or too large, or its network does not take pictures.
        MissingExtraError: the extra ``onnx`` is not installed.
        VplfaceError: onnxruntime does not support the device.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        switch_off()
        runtime = import_extra("onnxruntime", "onnx")
        runtime.disable_telemetry_events()  # the program may have imported it before vplface
        provider = _PROVIDERS.get(torch.device(device).type)
        if provider not in runtime.get_available_providers():
            raise VplfaceError(f"device {device}: this onnxruntime does not support it; use device cpu")
        if kind_of(path) is None:
            raise DataError(f"{path}: no such file")
        self._path = path
        data = read_bytes(path, MAX_FILE_BYTES)
        external = read_external_files(path, parse_model(path, data))
        self.files = {str(path): _sha256(data)} | {
            str(path.parent / name): _sha256(external[name]) for name in external
        }
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _LOG_FATAL
        if external:
            contents = list(external.values())
            options.add_external_initializers_from_files_in_memory(list(external), contents, [len(x) for x in contents])
        try:
            with _time_limit(LOAD_TIMEOUT, lambda: options.set_load_cancellation_flag(True)):
                self._session = runtime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's errors share no base class
            raise DataError(f"{path}: onnxruntime cannot load it: {shorten(error)}") from error
        self._runtime = runtime
        try:
            self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
            self._outputs: list[str] = [output.name for output in self._session.get_outputs()]
            inputs = [(given.name, given.type, given.shape) for given in self._session.get_inputs()]
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: onnxruntime cannot load it: a name in it is not text: {error}") from error
        self._input_name, self._input_dtype, self._input_shape = self._single_input(inputs)
        self.takes_uint8 = self._input_dtype is np.uint8
        self.dim = 0

    def _single_input(self, inputs: Sequence[tuple[str, str, list[Any]]]) -> tuple[str, Any, list[Any]]:
        """Name, dtype and shape of the only input."""
        if len(inputs) != 1:
            names = shorten(", ".join(repr(name) for name, _, _ in inputs)) or "none"
            raise DataError(
                f"{self._path}: has {len(inputs)} inputs ({names}); expected one, the pictures; export the network "
                "with that input alone"
            )
        ((name, kind, shape),) = inputs
        if kind not in _INPUT_DTYPES:
            raise DataError(
                f"{self._path}: its input {name!r} is of type {kind}; expected one of {', '.join(_INPUT_DTYPES)}"
            )
        return name, _INPUT_DTYPES[kind], shape

    def try_out(self, size: int, dim: int | None = None) -> None:
        """Run the network on two pictures to find its axis order, batch size and embedding output.

        Args:
            size: picture size, in pixels.
            dim: dimension of the embedding, if known; otherwise the output is identified by its shape. 1 for a network
                that gives one number.

        Raises:
            DataError: the network takes another picture size, none or several of its outputs can be the embedding, or
                it cannot be run.
        """
        if not 1 <= size <= MAX_SIZE:
            raise DataError(f"{self._path}: its card says pictures of {size} pixels; at most {MAX_SIZE} are supported")
        shape = self._input_shape
        orders = {(3, size, size): (0, 1, 2, 3), (size, size, 3): (0, 2, 3, 1)}
        self._axes = next((orders[axes] for axes in orders if _shape_allows(shape[1:], axes)), ())
        fixed = shape[0] if shape and isinstance(shape[0], int) else None
        if not self._axes or (fixed is not None and not 1 <= fixed <= MAX_BATCH):
            raise DataError(
                f"{self._path}: takes pictures of shape {shorten(str(shape))}; expected [batch, 3, {size}, {size}] or "
                f"[batch, {size}, {size}, 3], with a batch that is open or at most {MAX_BATCH}"
            )
        pictures = torch.linspace(0, 255, 2 * 3 * size * size).reshape(2, 3, size, size)
        pictures[1] = pictures[1].flip(-1).transpose(-1, -2) / 2
        if not self.takes_uint8:
            pictures = pictures / 127.5 - 1
        self._batch_size: int | None = fixed or 1
        first = self._to_input(pictures[:1])
        results = self._run(first, self._outputs, LOAD_TIMEOUT)
        self._outputs = [self._find_embedding(results, len(first), dim)]
        single = self(pictures)
        self.dim = single.shape[1]
        if fixed is None and self._batch_matches_single(pictures, single):
            self._batch_size = None

    def _find_embedding(self, results: Sequence[Any], batch: int, dim: int | None) -> str:
        shapes = {name: list(np.shape(each)) for name, each in zip(self._outputs, results, strict=True)}
        sizes = {name: _embedding_length(each, batch) for name, each in zip(self._outputs, results, strict=True)}
        least = 1 if dim == 1 else 2
        candidates = [name for name, length in sizes.items() if length >= least and dim in (None, length)]
        shapes_text = shorten(", ".join(f"{name!r} {shape}" for name, shape in shapes.items())) or "nothing"
        if not candidates and dim == 1:
            raise DataError(f"{self._path}: does not give one number per picture; its outputs are {shapes_text}")
        if not candidates and dim is not None:
            other = [length for length in sizes.values() if length >= 2]
            what = f"embeddings of dimension {other}" if other else f"no embedding, but {shapes_text}"
            raise DataError(f"{self._path}: gives {what}, its card says {dim}")
        if not candidates:
            raise DataError(
                f"{self._path}: no output is an embedding, one vector of floats per picture; its outputs are "
                f"{shapes_text} for {batch}"
            )
        if len(candidates) > 1:
            raise DataError(
                f"{self._path}: several outputs can be the embedding: {shapes_text} for {batch}; export the network "
                "with that output alone"
            )
        return candidates[0]

    def _batch_matches_single(self, pictures: Tensor, single: Tensor) -> bool:
        """Whether pictures have the same embeddings in a batch as alone."""
        try:
            batched = self._embed_batch(self._to_input(pictures))
        except DataError:
            return False
        near = _TOLERANCE * single.abs().amax(1, keepdim=True)
        return batched.shape == single.shape and not bool(((batched - single).abs() > near).any())

    def __call__(self, pictures: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n dim"]:
        """Embed prepared pictures.

        Raises:
            DataError: onnxruntime cannot run the network, or its output is not an embedding.
        """
        step = self._batch_size or len(pictures)
        rows = [self._embed_batch(self._to_input(part))[: len(part)] for part in torch.split(pictures, step)]
        return torch.cat(rows)

    def _to_input(self, pictures: Tensor) -> np.ndarray:
        """Convert pictures to the network's input; a fixed batch is padded with the last one."""
        missing = (self._batch_size or 0) - len(pictures)
        if missing > 0:
            pictures = torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)])
        if self.takes_uint8:
            pictures = pictures.round().clamp(0, 255)
        return np.ascontiguousarray(pictures.cpu().numpy().transpose(self._axes), self._input_dtype)

    def _embed_batch(self, given: np.ndarray) -> Tensor:
        output = self._run(given, self._outputs)[0]
        dim = self.dim or _embedding_length(output, len(given))
        if not isinstance(output, np.ndarray) or output.size != len(given) * dim:
            raise DataError(
                f"{self._path}: gives {self._outputs[0]!r} of shape {list(np.shape(output))} for {len(given)} pictures"
            )
        return torch.from_numpy(output.reshape(len(given), dim).astype(np.float32))

    def _run(self, given: np.ndarray, outputs: list[str], timeout: float | None = None) -> list[Any]:
        options = self._runtime.RunOptions()
        options.log_severity_level = _LOG_FATAL

        def stop() -> None:
            options.terminate = True

        try:
            with _time_limit(timeout, stop):
                results: list[Any] = self._session.run(outputs, {self._input_name: given}, options)
        except Exception as error:
            raise DataError(f"{self._path}: onnxruntime cannot run it: {shorten(error)}") from error
        return results


def parse_model(path: Path, data: bytes) -> Any:
    """Parse a model without its external data; raises DataError if it is damaged or has loops."""
    onnx = import_extra("onnx", "onnx")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's error, which is not imported here
        raise DataError(f"{path}: onnxruntime cannot load it: it is damaged or not an ONNX file") from error
    for nodes, _ in _graphs(model):
        for node in nodes:
            if node.op_type in _LOOP_OPERATORS and node.domain in ("", "ai.onnx"):
                raise DataError(
                    f"{path}: has a {node.op_type} operator, which may never end; export the network without it"
                )
    return model


def _graphs(model: Any) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Nodes and tensors of each graph and function, including those in node attributes."""
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


def read_external_files(path: Path, model: Any) -> dict[str, bytes]:
    """Read the external data files, by the names that the model uses.

    Raises:
        DataError: a name leads out of the folder, or a file is missing, too short or too large.
    """
    external: dict[str, bytes] = {}
    left = MAX_EXTERNAL_BYTES
    for _, tensors in _graphs(model):
        for tensor in tensors:
            if tensor.data_location != 1:  # TensorProto.EXTERNAL
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            name = place.get("location", "")
            if name not in external:
                _require_inside(path, name)
                external[name] = read_bytes(path.parent / name, left)
                left -= len(external[name])
            try:
                start, length = int(place.get("offset", "0")), int(place.get("length", "0"))
            except ValueError:
                start = length = -1
            if min(start, length) < 0 or start + length > len(external[name]):
                raise DataError(
                    f"{path}: the weights {shorten(repr(tensor.name))} lie outside {shorten(repr(name))}, which has "
                    f"{len(external[name])} bytes; one of the files is damaged or of another version"
                )
    return external


def _require_inside(path: Path, name: str) -> None:
    """Raise DataError unless a name is a file in the model's folder, or in that of its link target."""
    plain = bool(name) and not PureWindowsPath(name).is_absolute() and not os.path.isabs(name)  # noqa: PTH117
    target = os.path.realpath(path.parent / name) if plain and "\0" not in name else ""
    folders = {os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))}  # noqa: PTH120
    if not any(target.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders):
        raise DataError(
            f"{path}: its weights are in {shorten(repr(name))}, outside its folder, which is not allowed; put that "
            "file beside it, and save the model with the plain name"
        )
    if not is_file(target):
        raise DataError(f"{path}: its weights are in {shorten(repr(name))}, which is not beside it; copy both files")


@contextmanager
def _time_limit(seconds: float | None, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` if the block takes longer; a failure after that raises TimeoutError."""
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
            raise TimeoutError(f"timed out after {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()


def _shape_allows(declared: Sequence[int | str | None], expected: tuple[int, ...]) -> bool:
    """Whether a declared shape, with names or None for dynamic axes, allows another."""
    return len(declared) == len(expected) and all(
        not isinstance(length, int) or length == wanted for length, wanted in zip(declared, expected, strict=True)
    )


def _embedding_length(output: Any, batch: int) -> int:
    """Length of the vector per picture if an output is one float vector per picture, else 0."""
    if not isinstance(output, np.ndarray) or not np.issubdtype(output.dtype, np.floating) or output.size == 0:
        return 0
    if output.shape == (batch,):
        return 1
    own = output.shape[1:] if output.ndim > 1 and output.shape[0] == batch else output.shape if batch == 1 else ()
    length = max(own, default=0)
    return length if length * batch == output.size else 0


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def shorten(error: Exception | str) -> str:
    """Text of an error or name of a file in one printable line of bounded length."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
