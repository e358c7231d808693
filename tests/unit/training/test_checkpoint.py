import contextlib
import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vplface import (
    AdaFace,
    BorrowedSpread,
    CurricularFace,
    ElasticFace,
    Gaussian,
    LastFeature,
    PrototypeHead,
    SeveralFeatures,
    SphereFace2,
    Variational,
)
from vplface.errors import DataError
from vplface.training import checkpoint
from vplface.training.checkpoint import Checkpoints, load_checkpoint
from vplface.training.checkpoint_manifest import manifest_digest, newest_checkpoint, read_manifest, verify_checkpoint
from vplface.training.distributed import DistributedContext
from vplface.training.drift import DriftMonitor
from vplface.training.run_state import RunState

ALONE = DistributedContext()


def save(folder, run, keep=2):
    checkpoints = Checkpoints(folder, ALONE, keep)
    checkpoints.save(run)
    checkpoints.finish()
    found, faults = newest_checkpoint(folder)
    assert not faults
    return found


def made(seed, optimizer="sgd", average=True, classes=5, memory=LastFeature(), **loss):  # noqa: B008 - it is frozen
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
    head = PrototypeHead(classes, 4, variational=Variational(0.3, 2, 1, memory=memory), seed=seed, **loss)
    parameters = [*backbone.parameters(), *head.parameters()]
    kinds = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.01),
    }
    averaged = AveragedModel(backbone, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True) if average else None
    drift = DriftMonitor(head, torch.linspace(-1, 1, 60).reshape(10, 6), torch.arange(10) % 5, every=2)
    rest = dict.fromkeys(("config", "preprocessing", "pictures", "heldout", "batches", "rate", "ramps", "freezing"))
    return RunState(
        device=torch.device("cpu"),
        backbone=backbone,
        head=head,
        optimizer=kinds[optimizer](),
        average=averaged,
        drift=drift,
        **rest,
    )


def advance(run, steps):
    seen = []
    for _ in range(steps):
        g = torch.Generator().manual_seed(run.step)
        run.optimizer.zero_grad()
        loss = run.head(run.backbone(torch.randn(8, 6, generator=g)), torch.randint(5, (8,), generator=g))
        loss.backward()
        run.optimizer.step()
        if run.average is not None:
            run.average.update_parameters(run.backbone)
        run.step += 1
        seen.append((loss.item(), run.drift.step(run.backbone)))
    return seen


@pytest.mark.parametrize("memory", [SeveralFeatures(2), Gaussian(bank=8), BorrowedSpread(bank=8)], ids=str)
def test_load_checkpoint_restores_every_memory_bit_for_bit(tmp_path, memory):
    run = made(0, memory=memory)
    advance(run, 6)
    path = save(tmp_path, run)
    names = {name for file in ("common", "rows-00000-of-00001") for name in load_file(path / f"{file}.safetensors")}
    assert {f"head.{name}" for name in (*memory.per_class, *memory.shared, "memory_kind")} <= names
    expected = advance(run, 4)
    other = made(0, memory=memory)
    load_checkpoint(path, other, ALONE)
    assert advance(other, 4) == expected
    with pytest.raises(DataError, match=f"memory of the kind {type(memory).__name__}, this module has .*LastFeature"):
        load_checkpoint(path, made(5), ALONE)


@pytest.mark.parametrize(
    "loss",
    [
        {"margin": AdaFace(t_alpha=0.2)},
        {"margin": CurricularFace(16.0, t_alpha=0.2), "subcenters": 2},
        {"margin": ElasticFace(16.0, plus=True)},
        {"margin": SphereFace2()},
    ],
    ids=str,
)
def test_load_checkpoint_restores_the_state_of_every_margin_bit_for_bit(tmp_path, loss):
    run = made(0, **loss)
    advance(run, 6)
    path = save(tmp_path, run)
    expected = advance(run, 4)
    other = made(0, **loss)
    load_checkpoint(path, other, ALONE)
    assert advance(other, 4) == expected
    if not isinstance(loss["margin"], ElasticFace):
        with pytest.raises(DataError, match="does not fit this configuration"):
            load_checkpoint(path, made(5), ALONE)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("average", [True, False])
def test_load_checkpoint_resumes_a_run_bit_for_bit(tmp_path, optimizer, average):
    run = made(0, optimizer, average)
    advance(run, 4)
    run.best, run.unreadable = 0.5, {"a.jpg: torn"}
    path = save(tmp_path, run)
    assert path.name == "step-00000004"
    expected = advance(run, 4)
    other = made(1, optimizer, average)
    load_checkpoint(path, other, ALONE)
    assert (other.step, other.best, other.unreadable) == (4, 0.5, {"a.jpg: torn"})
    assert advance(other, 4) == expected
    for a, b in zip(run.backbone.state_dict().values(), other.backbone.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_Checkpoints_save_writes_the_state_at_the_time_of_the_call(tmp_path, monkeypatch):
    import vplface.training.checkpoint as checkpoint

    run = made(0)
    advance(run, 3)
    real = checkpoint._write_file

    def slow(path, tensors):
        advanced.wait()
        return real(path, tensors)

    import threading

    advanced = threading.Event()
    monkeypatch.setattr(checkpoint, "_write_file", slow)
    checkpoints = Checkpoints(tmp_path, ALONE, 2)
    before = run.head.weight.detach().clone()
    checkpoints.save(run)
    advance(run, 3)
    advanced.set()
    checkpoints.finish()
    other = made(1)
    load_checkpoint(newest_checkpoint(tmp_path)[0], other, ALONE)
    assert other.step == 3
    assert torch.equal(other.head.weight, before)


def test_Checkpoints_save_keeps_the_newest_and_can_repeat_a_step(tmp_path):
    run = made(0)
    for _ in range(4):
        advance(run, 1)
        save(tmp_path, run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    assert save(tmp_path, run).name == "step-00000004.1"


def test_Checkpoints_removes_what_a_killed_writer_left(tmp_path):
    save(tmp_path, made(0))
    shutil.copytree(tmp_path / "step-00000000", tmp_path / ".step-00000007.12-34")
    assert newest_checkpoint(tmp_path)[0].name == "step-00000000"
    Checkpoints(tmp_path, ALONE, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"]


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "hostile": lambda file: file.write_bytes(b"\x80\x04cposix\nsystem\n(Vtouch /tmp/owned\ntR."),
}


@pytest.mark.parametrize("name", ["manifest.json", "common.safetensors", "rows-00000-of-00001.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_newest_checkpoint_names_a_damaged_one_and_returns_the_one_before(tmp_path, name, damage):
    run = made(0)
    save(tmp_path, run)
    advance(run, 1)
    file = save(tmp_path, run) / name
    DAMAGES[damage](file)
    found, faults = newest_checkpoint(tmp_path)
    assert found.name == "step-00000000"
    ((path, fault),) = faults
    assert path.name == "step-00000001"
    assert name in fault
    assert "step-00000001" in fault


@given(st.data())
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_verify_checkpoint_detects_any_flipped_bit(tmp_path, data):
    folder = tmp_path / "flips"
    if not folder.exists():
        save(folder, made(0))
    path = folder / "step-00000000"
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    whole = file.read_bytes()
    position, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    try:
        file.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
        with pytest.raises(DataError, match=f"{file.name} (is damaged|cannot be read|has )|is not a checkpoint"):
            verify_checkpoint(path)
    finally:
        file.write_bytes(whole)
    verify_checkpoint(path)


MANGLED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
)


@given(st.sampled_from(["format", "notes", "classes", "dim", "world", "files"]), MANGLED)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_verify_checkpoint_raises_nothing_but_DataError_for_a_changed_manifest(tmp_path, key, value):
    folder = tmp_path / "mangled"
    if not folder.exists():
        save(folder, made(0))
    file = folder / "step-00000000" / "manifest.json"
    whole = file.read_text()
    try:
        manifest = json.loads(whole) | {key: value}
        del manifest["sha256"]
        file.write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))  # with a valid digest
        with contextlib.suppress(DataError):
            verify_checkpoint(file.parent)
    finally:
        file.write_text(whole)


def test_read_manifest_refuses_a_file_outside_the_checkpoint(tmp_path):
    path = save(tmp_path, made(0))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": "", "first": 0, "stop": 0}
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    with pytest.raises(DataError, match=r"names a file outside the checkpoint: '../../etc/passwd'"):
        read_manifest(path)


def test_load_checkpoint_refuses_another_configuration(tmp_path):
    path = save(tmp_path, made(0))
    with pytest.raises(DataError, match="5 classes of 4 dimensions, this configuration 6 of 4"):
        load_checkpoint(path, made(0, classes=6), ALONE)
    with pytest.raises(DataError, match="does not fit this configuration"):
        load_checkpoint(path, _another_network(), ALONE)


def _another_network():
    run = made(0)
    run.backbone = nn.Linear(6, 4)
    return run


def test_Checkpoints_save_keeps_the_checkpoint_before_if_the_disk_is_full(tmp_path, monkeypatch):
    run = made(0)
    save(tmp_path, run)

    def full(tensors, name):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    checkpoints = Checkpoints(tmp_path, ALONE, 2)
    checkpoints.save(run)
    with pytest.raises(DataError, match=r"No space left on device.*the checkpoints before it are unharmed"):
        checkpoints.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"]
    assert newest_checkpoint(tmp_path) == (tmp_path / "step-00000000", [])
