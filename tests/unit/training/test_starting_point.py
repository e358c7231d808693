import pytest
import torch
from torch import nn

from helpers.small_runs import before_step, cut_off, journal, settings
from vplface.training.checkpoint import read_tensors
from vplface.training.checkpoint_manifest import COMMON, newest_checkpoint
from vplface.training.run_state import build_run
from vplface.training.starting_point import StartingPoint
from vplface.training.train import train


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def test_StartingPoint_adds_the_gradient_of_its_penalty():
    model, inputs = network(), torch.randn(5, 3, dtype=torch.float64)
    model[2].bias.requires_grad_(False)
    first = [parameter.detach().clone() for parameter in model.parameters()]
    start = StartingPoint(model, 0.3)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    loss = model(inputs).square().sum()
    pairs = [(now, then) for now, then in zip(model.parameters(), first, strict=True) if now.requires_grad]
    penalty = 0.15 * sum((now - then).square().sum() for now, then in pairs)
    expected = torch.autograd.grad(loss + penalty, [now for now, _ in pairs], retain_graph=True)
    loss.backward()
    start.pull(optimizer)
    for (parameter, _), gradient in zip(pairs, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert model[2].bias.grad is None


def test_StartingPoint_decays_apart_from_the_moments_of_AdamW():
    weight, start = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 4.0]])
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = start.clone()
    point = StartingPoint(layer, 0.3)
    layer.weight.data = weight.clone()
    layer.weight.grad = torch.ones(1, 2)
    optimizer = torch.optim.AdamW([{"params": [layer.weight], "lr": 0.1}], weight_decay=0.0)
    point.pull(optimizer)
    torch.testing.assert_close(layer.weight.data, weight - 0.1 * 0.3 * (weight - start))
    assert torch.equal(layer.weight.grad, torch.ones(1, 2))


def test_StartingPoint_leaves_weights_without_a_gradient():
    model = network()
    start = StartingPoint(model, 0.3)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    before = model[0].weight.detach().clone()
    start.pull(torch.optim.AdamW(model.parameters(), lr=0.1))
    assert torch.equal(model[0].weight, before)


@pytest.mark.slow
def test_train_with_l2_sp_resumes_bit_for_bit(faces, tmp_path, monkeypatch):
    changes = {"finetune": {"l2_sp": 0.5}, "schedule": {"length": 8, "warmup": 2}}
    whole = train(settings(faces, tmp_path / "whole", **changes))
    config = settings(faces, tmp_path / "torn", **changes)
    with monkeypatch.context() as patch:
        before_step(patch, 7, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(config, resume=True)
    assert journal(resumed.folder.path) == journal(whole.folder.path)
    for name, value in whole.backbone.state_dict().items():
        assert torch.equal(resumed.backbone.state_dict()[name], value), name
    first = build_run(config).backbone
    path, _ = newest_checkpoint(resumed.folder.checkpoints)
    stored = read_tensors(path / COMMON)
    assert all(torch.equal(stored[f"start.{name}"], value) for name, value in first.named_parameters())


def test_train_with_a_strong_l2_sp_stays_near_the_start(faces, tmp_path):
    away = {}
    for strength in (0.0, 20.0):
        changes = {"finetune": {"l2_sp": strength}, "schedule": {"length": 6, "warmup": 0}}
        config = settings(faces, tmp_path / str(strength), **changes)
        run, first = train(config), build_run(config).backbone
        pairs = zip(run.backbone.parameters(), first.parameters(), strict=True)
        away[strength] = sum(float((now - then).detach().square().sum()) for now, then in pairs)
    assert away[20.0] < 0.5 * away[0.0]


def test_train_with_l2_sp_starts_from_the_weights_of_another_run(faces, tmp_path):
    other = train(settings(faces, tmp_path / "other"))
    path = str(other.folder.path)
    run = train(
        settings(faces, tmp_path / "next", init_from=path, finetune={"l2_sp": 0.1}, schedule={"length": 2, "warmup": 0})
    )
    start = run.start.state_dict()
    assert all(torch.equal(start[name], value) for name, value in other.backbone.named_parameters())
