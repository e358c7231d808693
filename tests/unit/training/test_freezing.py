"""What a recipe freezes stands still bit for bit, and has no gradient."""

import copy
import itertools

import pytest
import torch

from helpers.small_runs import before_step, cut_off, journal, settings
from vplface.backbones import build
from vplface.config import FinetuneConfig
from vplface.data.batches import Batch
from vplface.errors import ConfigError
from vplface.training.distributed import DistributedContext
from vplface.training.freezing import Freezing, frozen_names
from vplface.training.networks import learning_rates
from vplface.training.run_state import build_run
from vplface.training.train import train
from vplface.training.trainer import Trainer

TINY = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}}
AFTER_BLOCKS = ("embedding", "embedding_norm")


def batches(run):
    generator = torch.Generator().manual_seed(1)
    while True:
        pictures = torch.randint(256, (16, 112, 112, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(run.head.num_classes, (16,), generator=generator)
        yield Batch(pictures, labels, [])


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before, network):
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def take(trainer, steps):
    for batch in itertools.islice(batches(trainer.run), steps):
        trainer.train_step(batch)
        trainer.run.step += 1


@pytest.mark.parametrize(
    ("freeze", "moving"),
    [
        ("backbone", ()),
        ("all but the last block", ("stages.5", "stages.7", *AFTER_BLOCKS)),
        ("all but the last 4 blocks", ("stages", *AFTER_BLOCKS)),
        (["stem", "stages.?.branch"], ("stages.1", "stages.5", "embedding", "embedding_norm")),
        ("*.bias", None),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_Freezing_keeps_what_is_named_bit_for_bit(faces, tmp_path, freeze, moving, optimizer):
    options = {"name": optimizer, "lr": 0.02, "weight_decay": 0.1}
    run = build_run(settings(faces, tmp_path, backbone=TINY, optimizer=options, finetune={"freeze": freeze}))
    before = state(run.backbone)
    trainer = Trainer(run, DistributedContext())
    take(trainer, 3)
    if moving is None:
        assert not any(name.endswith(".bias") for name in changed(before, run.backbone))
    else:
        expected = {name for name in before if name.startswith(tuple(f"{each}." for each in moving))}
        assert changed(before, run.backbone) == expected
        assert changed(before, run.average.module) == expected
    for name, parameter in run.backbone.named_parameters():
        assert (parameter.grad is None) == (name not in changed(before, run.backbone)), name
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held.isdisjoint(id(p) for p in run.backbone.parameters() if p.grad is None)


def test_Freezing_computes_a_frozen_trunk_without_autograd(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, finetune={"freeze": "all but the last block"}))
    outputs = {}
    for name, module in run.backbone.named_modules():
        module.register_forward_hook(lambda module, given, output, name=name: outputs.update({name: output}))
    take(Trainer(run, DistributedContext()), 1)
    recorded = {name for name, output in outputs.items() if output.grad_fn is not None}
    after = ("stages.5", "stages.6", "stages.7", "dropout", "embedding")
    assert recorded == {"", "stages", *(name for name in outputs if name.startswith(after))}
    assert outputs["stages.4"].grad_fn is None


def test_Freezing_of_the_whole_backbone_leaves_no_graph_and_the_prototypes_train(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, finetune={"freeze": "backbone"}, variational=None))
    weight = run.head.weight.detach().clone()
    graphs = []
    run.head.register_forward_pre_hook(lambda module, given: graphs.append(given[0].requires_grad))
    take(Trainer(run, DistributedContext()), 2)
    assert graphs == [False, False]
    assert not torch.equal(weight, run.head.weight)


@pytest.mark.parametrize(
    "changes", [{}, {"variational": {"lam": 0.3, "delta_t": 3, "start": 1, "momentum": 0.9}}], ids=str
)
def test_Freezing_until_a_step_thaws_the_network_then(faces, tmp_path, changes):
    finetune = {"freeze": "backbone", "until": 2}
    run = build_run(settings(faces, tmp_path, backbone=TINY, finetune=finetune, **changes))
    before = state(run.backbone)
    trainer = Trainer(run, DistributedContext())
    take(trainer, 2)
    assert not changed(before, run.backbone)
    for average in (run.average, run.encoder):
        assert average is None or not changed(before, average.module)
    assert not any(run.optimizer.state[p] for p in run.backbone.parameters())
    take(trainer, 1)
    trained = {name for name, _ in run.backbone.named_parameters()}
    statistics = {name for name, _ in run.backbone.named_buffers()}
    assert changed(before, run.backbone) == trained | statistics


@pytest.mark.slow
def test_Freezing_resumes_before_and_after_it_ends_bit_for_bit(faces, tmp_path, monkeypatch):
    finetune = {"freeze": "backbone", "until": 7, "layer_decay": 0.5}
    whole = train(settings(faces, tmp_path / "whole", finetune=finetune))
    config = settings(faces, tmp_path / "torn", finetune=finetune)
    for stopped in (6, 11):  # after the checkpoints of steps 5 and 10
        with monkeypatch.context() as patch:
            before_step(patch, stopped + 1, cut_off)
            with pytest.raises(KeyboardInterrupt):
                train(config, resume=stopped > 6)
    resumed = train(config, resume=True)
    assert journal(resumed.folder.path) == journal(whole.folder.path)
    for name, value in whole.backbone.state_dict().items():
        assert torch.equal(resumed.backbone.state_dict()[name], value), name
    assert torch.equal(resumed.head.weight, whole.head.weight)


def test_Freezing_batchnorm_freeze_keeps_statistics_scales_and_shifts(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, backbone=TINY, finetune={"batchnorm": "freeze"}))
    before = state(run.backbone)
    norms = {
        name
        for name, module in run.backbone.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    }
    take(Trainer(run, DistributedContext()), 2)
    still = set(before) - changed(before, run.backbone)
    assert still == {name for name in before if name.rpartition(".")[0] in norms}


def test_Freezing_a_frozen_BatchNorm_layer_normalises_by_its_statistics():
    backbone = build("tiny", 8, width=8).train()
    freezing = Freezing(backbone, FinetuneConfig(freeze="stem", until=5), 5)
    assert freezing.still_norms(4) == {"stem.0.1"}
    assert freezing.still_norms(5) == set()
    assert freezing.apply(0)
    assert not freezing.apply(4)
    assert freezing.at_first == sum(p.numel() for p in backbone.stem.parameters())
    assert not backbone.stem[0][0].weight.requires_grad
    assert freezing.apply(5)
    assert backbone.stem[0][0].weight.requires_grad


def test_Freezing_leaves_what_a_backbone_never_trains(faces):
    backbone = build("iresnet18", 8)
    freezing = Freezing(backbone, FinetuneConfig(freeze="features", until=1), 1)
    freezing.apply(0)
    freezing.apply(1)
    assert not backbone.features.weight.requires_grad
    assert backbone.features.bias.requires_grad


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("stages.0.brnch", "no parameter 'stages.0.brnch'; did you mean 'stages.0.branch'"),
        ("backbon", "no parameter 'backbon'; did you mean 'backbone'"),
        (["stem", "qqqq"], "no parameter 'qqqq'; its parts are stem, stages"),
        ("all but the last 5 blocks", "the backbone has 4 blocks"),
    ],
)
def test_frozen_names_refuses_names_that_fit_nothing(freeze, message):
    with pytest.raises(ConfigError, match=f"finetune.freeze: .*{message}"):
        frozen_names(build("tiny", 8, width=8), FinetuneConfig(freeze=freeze))


def test_Freezing_refuses_to_reestimate_BatchNorm_where_there_is_none():
    plain = build("tiny", 8, width=8, norm="none")
    with pytest.raises(ConfigError, match=r"finetune\.batchnorm: reestimate, but the backbone has no BatchNorm"):
        Freezing(plain, FinetuneConfig(batchnorm="reestimate"), None)


def test_Freezing_of_BatchNorm_changes_nothing_where_there_is_none():
    plain = build("tiny", 8, width=8, norm="none")
    freezing = Freezing(plain, FinetuneConfig(batchnorm="freeze"), None)
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert freezing.still_norms(0) == set()


def test_learning_rates_fall_towards_the_first_layer(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, backbone=TINY, finetune={"layer_decay": 0.5}))
    assert learning_rates(run.config, run.backbone) == {depth: 0.02 * 0.5 ** (5 - depth) for depth in range(6)}
    rate = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in run.optimizer.param_groups for p in group["params"]}
    assert rate[id(run.backbone.stem[0][0].weight)] == 0.02 / 32
    assert rate[id(run.backbone.stages[0].branch[0][0].weight)] == 0.02 / 16
    assert rate[id(run.backbone.embedding.weight)] == 0.02
    assert decay[id(run.backbone.stem[0][1].weight)] == 0.0
    assert decay[id(run.backbone.stem[0][0].weight)] == 5e-4
    assert len(rate) == len(list(run.backbone.parameters()))


def test_layer_decay_scales_the_first_step_of_each_depth(faces, tmp_path):
    moved = {}
    for decay in (1.0, 0.5):
        options = {"lr": 0.02, "clip": None}
        run = build_run(settings(faces, tmp_path, backbone=TINY, optimizer=options, finetune={"layer_decay": decay}))
        before = copy.deepcopy(run.backbone)
        take(Trainer(run, DistributedContext()), 1)
        pairs = zip(run.backbone.named_parameters(), before.parameters(), strict=True)
        moved[decay] = {name: now.detach() - then.detach() for (name, now), then in pairs}
    for name, factor in (("stem.0.0.weight", 1 / 32), ("stages.7.branch.0.0.weight", 0.5), ("embedding.weight", 1.0)):
        torch.testing.assert_close(moved[0.5][name], factor * moved[1.0][name], rtol=1e-2, atol=1e-7)
