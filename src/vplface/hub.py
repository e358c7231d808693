"""Models on the Hugging Face Hub: weights, card and page go up in one commit, and come down again.

What comes down is JSON and safetensors, which are data: nothing in it is run, whoever made it.
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

from vplface.embedder import Embedder, read_model
from vplface.errors import DataError, VplfaceError, import_extra
from vplface.evaluation.operating_point import OperatingPoint, operating_point_path
from vplface.files import replacing
from vplface.paths import argument
from vplface.printable import printable
from vplface.reading import is_file, kind_of, read_json
from vplface.report.model_page import UNKNOWN_LICENCE, Measured, model_page
from vplface.report.record import read_run
from vplface.run_folder import ModelFolder

MODEL_FILES = (ModelFolder.weights.name, ModelFolder.card.name)
_POINT = ModelFolder.operating_point.name
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
    """Write what :func:`push_to_hub` pushes: ``model.safetensors``, ``model.json``, ``README.md``.

    ``operating_point.json`` goes along if the model has one, without the path of the pictures it was measured on.
    The page tells the figures that the run measured on its own evaluation sets and those of ``evaluations``.

    Args:
        model: a model folder (a run, or its ``best``).
        folder: where to write; the files are replaced, one by one.
        repo: ``owner/name``.
        licence: of the weights, as the hub abbreviates it: ``"mit"``, ``"cc-by-nc-4.0"``, ``"other"``.
        evaluations: files of ``vplface evaluate MODEL --out FILE.json``.

    Returns:
        The files.

    Raises:
        DataError: no model there, or a file of figures that is damaged or of other weights.
    """
    model, folder = Path(model), Path(folder)
    _require_name(repo)
    stored = read_model(model)
    stored.backbone()
    card = stored.card
    run = ModelFolder(model).run
    record = read_run(run.path if is_file(run.config) else model)
    measured = []
    if card.evaluation is not None:
        protocols = {name: entry.get("protocol") for name, entry in record.evaluations.items()}
        measured = [
            Measured(name, _mapping(protocols.get(name)), _mapping(metrics))
            for name, metrics in card.evaluation.items()
        ]
    assert card.weights is not None
    for path in evaluations:
        measured += _measured(Path(path), card.weights)
    point = OperatingPoint.load(model, card.weights) if is_file(operating_point_path(model)) else None
    page = printable(model_page(card, repo, licence, measured, record.config, point))

    _put(folder, stored.weights, card.to_json().encode("utf-8", "backslashreplace"))
    with replacing(folder / _PAGE) as path:
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    if point is None:
        (folder / _POINT).unlink(missing_ok=True)
        return [folder / name for name in (*MODEL_FILES, _PAGE)]
    replace(point, data=Path(point.data).name).save(folder)
    return [folder / name for name in (*MODEL_FILES, _PAGE, _POINT)]


def push_to_hub(
    model: str | Path,
    repo: str,
    *,
    private: bool = False,
    licence: str = UNKNOWN_LICENCE,
    evaluations: Sequence[str | Path] = (),
    token: str | None = None,
) -> str:
    """Push a model to the Hugging Face Hub in one commit; the repository is made if there is none.

    See :func:`write_hub_folder` for what is pushed. An ``operating_point.json`` of earlier weights is deleted there.

    Args:
        model: a model folder (a run, or its ``best``).
        repo: ``owner/name``.
        private: whether a new repository is private; one that exists stays as it is.
        licence: see :func:`write_hub_folder`.
        evaluations: see :func:`write_hub_folder`.
        token: for the hub; None for that of ``hf auth login`` or HF_TOKEN.

    Returns:
        The address of the commit.

    Raises:
        DataError: as :func:`write_hub_folder`.
        MissingExtraError: without the extra ``hub``.
        VplfaceError: the hub cannot be reached or refuses.
    """
    client = import_extra("huggingface_hub", "hub")
    with TemporaryDirectory(prefix="vplface-hub-") as scratch:
        files = write_hub_folder(model, scratch, repo, licence=licence, evaluations=evaluations)
        with _told(repo):
            api = client.HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=scratch,
                commit_message=f"Model of vplface: {', '.join(path.name for path in files)}",
                delete_patterns=[_POINT],
            )
    return str(commit.commit_url)


def pull_from_hub(
    repo: str, folder: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download a model that vplface pushed, and check that it can be loaded.

    Only the model's files are downloaded, whatever else the repository holds.

    Args:
        repo: ``owner/name``.
        folder: where to put the files; None for the hub's own cache, which must not be changed.
        revision: a branch, a tag or a commit; None for the newest.
        token: for the hub; None for that of ``hf auth login`` or HF_TOKEN, if there is one.

    Returns:
        A model folder.

    Raises:
        MissingExtraError: without the extra ``hub``.
        DataError: the repository is no model of vplface, or a file of it is damaged; ``folder`` is then unchanged.
        VplfaceError: the hub cannot be reached, or there is no such repository or revision.
    """
    client = import_extra("huggingface_hub", "hub")
    _require_name(repo)
    with _told(repo):
        cached = Path(
            client.HfApi(token=token).snapshot_download(
                repo, revision=revision, allow_patterns=[*MODEL_FILES, _PAGE, _POINT]
            )
        )
    if missing := [name for name in MODEL_FILES if not (cached / name).is_file()]:
        raise DataError(f"{repo}: holds no {missing[0]}; it is no model that vplface pushed")
    stored = read_model(cached)
    stored.backbone()
    if folder is None:
        return cached
    folder = Path(folder)
    _put(folder, stored.weights, (cached / MODEL_FILES[1]).read_bytes())
    for name in (_PAGE, _POINT):
        if (cached / name).is_file():
            with replacing(folder / name) as path:
                shutil.copyfile(cached / name, path)
        else:
            (folder / name).unlink(missing_ok=True)
    return folder


def from_pretrained(
    source: str | Path, *, revision: str | None = None, device: str = "cpu", token: str | None = None
) -> Embedder:
    """The model in a folder, or of a repository of the Hugging Face Hub.

    Args:
        source: a model folder, or ``owner/name``; a folder of that name goes first.
        revision: of the repository: a branch, a tag or a commit; None for the newest.
        device: ``"cpu"``, ``"cuda"``, ...
        token: for the hub; None for that of ``hf auth login`` or HF_TOKEN, if there is one.

    Raises:
        DataError: neither, or a damaged model.
        MissingExtraError: a repository without the extra ``hub``.
        VplfaceError: the hub cannot be reached, or there is no such repository or revision.
    """
    if kind_of(source) is not None:
        return Embedder.load(source, device)
    if not _NAME.fullmatch(str(source)):
        raise DataError(f"{source}: no such folder, and not OWNER/NAME of a model on the hub")
    return Embedder.load(pull_from_hub(str(source), revision=revision, token=token), device)


def _put(folder: Path, weights: bytes, card: bytes) -> None:
    """Write a model's files, each atomically, the card last; see :func:`vplface.embedder.read_model`."""
    with replacing(folder / MODEL_FILES[1]) as card_path, replacing(folder / MODEL_FILES[0]) as weights_path:
        weights_path.write_bytes(weights)
        card_path.write_bytes(card)


def _measured(path: Path, weights: str) -> list[Measured]:
    """The figures in a file of ``vplface evaluate --out`` that are of the weights with this SHA-256."""
    try:
        stored = read_json(path)
        of_models = stored.get("models", [stored])
        mine = [each for each in of_models if weights in each["files"].values()]
        found = [Measured(each["protocol"]["name"], each["protocol"], each["metrics"]) for each in mine]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not what vplface evaluate --out writes: {error}") from error
    if not found:
        raise DataError(
            f"{path}: was measured with other weights; measure again with: "
            f"vplface evaluate MODEL --out {argument(path)}"
        )
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _require_name(repo: str) -> None:
    if not _NAME.fullmatch(repo):
        raise DataError(f"{repo!r} is no name of a model on the hub: OWNER/NAME, of letters, digits, '-', '_' and '.'")


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """What the hub's client raises, as one sentence."""
    errors = import_extra("huggingface_hub.errors", "hub")
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise VplfaceError(f"{repo}: no such revision on the hub") from error
    except errors.GatedRepoError as error:
        raise VplfaceError(f"{repo}: its owner has to let you in; ask on its page on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise VplfaceError(
            f"{repo}: no such model on the hub, or one that you may not see; to be known there: hf auth login"
        ) from error
    except Exception as error:  # the client's errors share no base class
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise VplfaceError(
                f"{repo}: the hub refuses ({status}); log in with a token that may write there: hf auth login"
            ) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise VplfaceError(f"{repo}: the hub cannot be used: {' '.join(lines[:3])}") from error
