"""Upload and download of models on the Hugging Face Hub.

Only JSON and safetensors are downloaded, which cannot contain code.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vplface.embedder import Embedder
from vplface.errors import DataError, VplfaceError, import_extra
from vplface.evaluation.operating_point import OperatingPoint, operating_point_path
from vplface.files import replacing
from vplface.paths import argument
from vplface.printable import printable
from vplface.reading import is_file, kind_of, read_json
from vplface.report.model_page import UNKNOWN_LICENCE, Measured, model_page
from vplface.report.record import read_run
from vplface.run_folder import ModelFolder
from vplface.stored_model import read_model

MODEL_FILES = (ModelFolder.weights.name, ModelFolder.card.name)
_OPERATING_POINT = ModelFolder.operating_point.name
_PAGE = "README.md"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def write_hub_folder(
    model: str | Path,
    folder: str | Path,
    repo: str,
    *,
    licence: str = UNKNOWN_LICENCE,
    evaluations: Sequence[str | Path] = (),
) -> list[Path]:
    """Write the files that :func:`push_to_hub` uploads: ``model.safetensors``, ``model.json``, ``README.md``.

    ``operating_point.json`` is included if the model has one, without the path of the pictures it was measured on.
    ``README.md`` lists the results of the run on its own evaluation sets and those of ``evaluations``.

    Args:
        model: model folder (a run, or its ``best``).
        folder: output folder; existing files are replaced one by one.
        repo: ``owner/name``.
        licence: licence of the weights, as the hub abbreviates it: ``"mit"``, ``"cc-by-nc-4.0"``, ``"other"``.
        evaluations: files of ``vplface evaluate MODEL --out FILE.json``.

    Returns:
        Paths of the written files.

    Raises:
        DataError: there is no model, or a results file is damaged or belongs to other weights.
    """
    model, folder = Path(model), Path(folder)
    _require_repo_name(repo)
    stored = read_model(model)
    stored.backbone()
    card = stored.card
    run = ModelFolder(model).run
    record = read_run(run.path if is_file(run.config) else model)
    measured = []
    if card.evaluation is not None:
        protocols = {name: entry.get("protocol") for name, entry in record.evaluations.items()}
        measured = [
            Measured(name, _as_mapping(protocols.get(name)), _as_mapping(metrics))
            for name, metrics in card.evaluation.items()
        ]
    assert card.weights is not None
    for path in evaluations:
        measured += _read_measurements(Path(path), card.weights)
    point = OperatingPoint.load(model, card.weights) if is_file(operating_point_path(model)) else None
    page = printable(model_page(card, repo, licence, measured, record.config, point))

    _write_model(folder, stored.weights, card.to_json().encode("utf-8", "backslashreplace"))
    with replacing(folder / _PAGE) as path:
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    if point is None:
        (folder / _OPERATING_POINT).unlink(missing_ok=True)
        return [folder / name for name in (*MODEL_FILES, _PAGE)]
    replace(point, data=Path(point.data).name).save(folder)
    return [folder / name for name in (*MODEL_FILES, _PAGE, _OPERATING_POINT)]


def push_to_hub(
    model: str | Path,
    repo: str,
    *,
    private: bool = False,
    licence: str = UNKNOWN_LICENCE,
    evaluations: Sequence[str | Path] = (),
    token: str | None = None,
) -> str:
    """Push a model to the Hugging Face Hub in one commit; a missing repository is created.

    See :func:`write_hub_folder` for the uploaded files. An outdated ``operating_point.json`` is deleted there.

    Args:
        model: model folder (a run, or its ``best``).
        repo: ``owner/name``.
        private: whether a new repository is private; an existing one is not changed.
        licence: see :func:`write_hub_folder`.
        evaluations: see :func:`write_hub_folder`.
        token: access token; None uses that of ``hf auth login`` or HF_TOKEN.

    Returns:
        URL of the commit.

    Raises:
        DataError: as :func:`write_hub_folder`.
        MissingExtraError: the extra ``hub`` is not installed.
        VplfaceError: the hub cannot be reached or refuses the upload.
    """
    client = import_extra("huggingface_hub", "hub")
    with TemporaryDirectory(prefix="vplface-hub-") as scratch:
        files = write_hub_folder(model, scratch, repo, licence=licence, evaluations=evaluations)
        with _clear_errors(repo):
            api = client.HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=scratch,
                commit_message=f"Model of vplface: {', '.join(path.name for path in files)}",
                delete_patterns=[_OPERATING_POINT],
            )
    return str(commit.commit_url)


def pull_from_hub(
    repo: str, folder: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download a model that vplface pushed, and check that it can be loaded.

    Other files of the repository are not downloaded.

    Args:
        repo: ``owner/name``.
        folder: output folder; None uses the hub's own cache, which must not be modified.
        revision: branch, tag or commit; None for the newest.
        token: access token; None uses that of ``hf auth login`` or HF_TOKEN, if there is one.

    Returns:
        Path of the model folder.

    Raises:
        MissingExtraError: the extra ``hub`` is not installed.
        DataError: the repository is not a model of vplface, or a file is damaged; ``folder`` is then unchanged.
        VplfaceError: the hub cannot be reached, or the repository or revision does not exist.
    """
    client = import_extra("huggingface_hub", "hub")
    _require_repo_name(repo)
    with _clear_errors(repo):
        cached = Path(
            client.HfApi(token=token).snapshot_download(
                repo, revision=revision, allow_patterns=[*MODEL_FILES, _PAGE, _OPERATING_POINT]
            )
        )
    if missing := [name for name in MODEL_FILES if not (cached / name).is_file()]:
        raise DataError(f"{repo}: has no {missing[0]}; it is not a model pushed by vplface")
    stored = read_model(cached)
    stored.backbone()
    if folder is None:
        return cached
    folder = Path(folder)
    _write_model(folder, stored.weights, (cached / MODEL_FILES[1]).read_bytes())
    for name in (_PAGE, _OPERATING_POINT):
        if (cached / name).is_file():
            with replacing(folder / name) as path:
                shutil.copyfile(cached / name, path)
        else:
            (folder / name).unlink(missing_ok=True)
    return folder


def from_pretrained(
    source: str | Path, *, revision: str | None = None, device: str = "cpu", token: str | None = None
) -> Embedder:
    """Load a model from a folder or from the Hugging Face Hub.

    Args:
        source: model folder, or ``owner/name``; an existing folder takes precedence.
        revision: branch, tag or commit of the repository; None for the newest.
        device: ``"cpu"``, ``"cuda"``, ...
        token: access token; None uses that of ``hf auth login`` or HF_TOKEN, if there is one.

    Raises:
        DataError: ``source`` is neither, or the model is damaged.
        MissingExtraError: a repository without the extra ``hub``.
        VplfaceError: the hub cannot be reached, or the repository or revision does not exist.
    """
    if kind_of(source) is not None:
        return Embedder.load(source, device)
    if not _NAME.fullmatch(str(source)):
        raise DataError(f"{source}: no such folder, and not OWNER/NAME of a model on the hub")
    return Embedder.load(pull_from_hub(str(source), revision=revision, token=token), device)


def _write_model(folder: Path, weights: bytes, card: bytes) -> None:
    """Write a model's files, each atomically, the card last; see :func:`vplface.stored_model.read_model`."""
    with replacing(folder / MODEL_FILES[1]) as card_path, replacing(folder / MODEL_FILES[0]) as weights_path:
        weights_path.write_bytes(weights)
        card_path.write_bytes(card)


def _read_measurements(path: Path, weights: str) -> list[Measured]:
    """Results for the weights with this SHA-256 in a file of ``vplface evaluate --out``."""
    try:
        stored = read_json(path)
        of_models = stored.get("models", [stored])
        mine = [entry for entry in of_models if weights in entry["files"].values()]
        measured = [Measured(entry["protocol"]["name"], entry["protocol"], entry["metrics"]) for entry in mine]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an output file of vplface evaluate --out: {error}") from error
    if not measured:
        raise DataError(
            f"{path}: was measured with other weights; measure again with: "
            f"vplface evaluate MODEL --out {argument(path)}"
        )
    return measured


def _as_mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _require_repo_name(repo: str) -> None:
    if not _NAME.fullmatch(repo):
        raise DataError(f"invalid model name {repo!r}; expected OWNER/NAME of letters, digits, '-', '_' and '.'")


@contextmanager
def _clear_errors(repo: str) -> Iterator[None]:
    """Convert errors of the hub's client to one-sentence VplfaceErrors."""
    errors = import_extra("huggingface_hub.errors", "hub")
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise VplfaceError(f"{repo}: no such revision on the hub") from error
    except errors.GatedRepoError as error:
        raise VplfaceError(f"{repo}: access is restricted; request it on the model's page on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise VplfaceError(f"{repo}: no such model on the hub, or it is private; to log in: hf auth login") from error
    except Exception as error:  # the client's errors share no base class
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise VplfaceError(
                f"{repo}: access denied by the hub ({status}); log in with a token that has write access: hf auth login"
            ) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise VplfaceError(f"{repo}: the hub cannot be used: {' '.join(lines[:3])}") from error
