import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vplface import PrototypeHead, Variational
from vplface.errors import DataError
from vplface.training.checkpoint import load_checkpoint, save_checkpoint
from vplface.training.drift import FeatureDrift
from vplface.training.state import Training


def made(seed, optimizer="sgd", average=True, classes=5):
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
    head = PrototypeHead(classes, 4, variational=Variational(0.3, 2, 1), seed=seed)
    parameters = [*backbone.parameters(), *head.parameters()]
    kinds = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.01),
    }
    averaged = AveragedModel(backbone, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True) if average else None
    drift = FeatureDrift(torch.linspace(-1, 1, 60).reshape(10, 6))
    rest = dict.fromkeys(("config", "pictures", "heldout", "batches", "rate"))
    return Training(
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
        seen.append((loss.item(), run.drift.measure(run.backbone)))
    return seen


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("average", [True, False])
def test_a_restored_run_goes_on_bit_for_bit(tmp_path, optimizer, average):
    run = made(0, optimizer, average)
    advance(run, 4)
    run.best, run.unreadable = 0.5, {"a.jpg: torn"}
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, run)
    expected = advance(run, 4)
    other = made(1, optimizer, average)
    load_checkpoint(path, other)
    assert (other.step, other.best, other.unreadable) == (4, 0.5, {"a.jpg: torn"})
    assert advance(other, 4) == expected
    for a, b in zip(run.backbone.state_dict().values(), other.backbone.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    run = made(0)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, run)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x04c__builtin__\neval\n", b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"last\.safetensors cannot be read"):
            load_checkpoint(path, run)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="not a checkpoint"):
        load_checkpoint(path, run)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, made(0))
    with pytest.raises(DataError, match="does not fit this configuration"):
        load_checkpoint(path, made(0, classes=6))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    run = made(0)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, run)
    before = path.read_bytes()

    def full(tensors, name, metadata):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vplface.training.checkpoint.save_file", full)
    with pytest.raises(DataError, match="No space left"):
        save_checkpoint(path, run)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]
