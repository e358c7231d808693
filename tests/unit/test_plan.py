import json
import math
import re
from collections import Counter, defaultdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from typer.testing import CliRunner

from helpers.paths import ROOT
from helpers.recorded_ranks import GROUP, recorded_ranks
from vplface import (
    EPL,
    UNPG,
    XBM,
    ArcFace,
    BorrowedSpread,
    BroadFace,
    FusedSGD,
    Gaussian,
    MagFace,
    NormSoftmax,
    PrototypeHead,
    SeveralFeatures,
    Variational,
    clip_grad_norm_,
)
from vplface.backbones import build
from vplface.cli.app import app
from vplface.config import build_config
from vplface.errors import ConfigError
from vplface.footprint import NetworkSize, RunSize, footprint, forecast, network_of
from vplface.plan import expected_first_loss, plan
from vplface.prototypes import expected_coverage
from vplface.softmax.losses import BOUNDED
from vplface.softmax.tiles import tile_bytes
from vplface.training.checkpoint import Checkpoints
from vplface.training.checkpoint_manifest import newest_checkpoint
from vplface.training.distributed import DistributedContext
from vplface.training.drift import DriftMonitor
from vplface.training.run_state import RunState

BLANK = NetworkSize(parameters=0, trained=0, buffer_bytes=0, activation_bytes=0)
DIM = 64


def test_expected_first_loss_matches_hand_computed_values():
    # s → 0: the loss is log N whatever the margin
    assert expected_first_loss(NormSoftmax(1e-9), 1000, 64) == pytest.approx(math.log(1000))
    # a margin of 90° turns cosθ = 0 into −1
    by_hand = 10 + math.log(99 * math.exp(100 / 1e9) + math.exp(-10))
    assert expected_first_loss(ArcFace(10.0, math.pi / 2), 100, 10**9 // 2) == pytest.approx(by_hand)


@pytest.mark.parametrize("margin", [ArcFace(32.0, 0.4), NormSoftmax(16.0)])
def test_expected_first_loss_matches_an_untrained_head(margin):
    torch.manual_seed(0)
    head = PrototypeHead(2000, 128, margin=margin).eval()
    loss = head(torch.randn(256, 128), torch.randint(2000, (256,))).item()
    assert loss == pytest.approx(expected_first_loss(margin, 2000, 128), rel=0.05)


def test_expected_first_loss_matches_an_untrained_head_with_sample_rate():
    torch.manual_seed(0)
    margin = ArcFace(16.0, 0.5)
    head = PrototypeHead(20_000, 128, margin=margin, sample_rate=0.1)
    loss = head(torch.randn(256, 128), torch.randint(20_000, (256,))).item()
    size = RunSize(classes=20_000, batch=256, dim=128, sample_rate=0.1)
    assert loss == pytest.approx(expected_first_loss(margin, size.compared, 128), rel=0.01)
    assert loss < expected_first_loss(margin, 20_000, 128) - 2


def test_plan_writes_no_generated_faces(tmp_path):
    synthetic = {"identities": 4, "pictures": 3}
    raw = {
        "name": "x",
        "data": {"train": {"path": str(tmp_path / "faces"), "synthetic": synthetic}},
        "backbone": {"name": "tiny", "embedding_dim": 8},
        "variational": {"momentum": 0.99},
        "schedule": {"length": 4, "warmup": 1},
        "batch_size": 4,
    }
    found = plan(build_config(raw, "test"))
    assert (found.identities, found.pictures) == (4, 12)
    assert found.footprint.checkpoint.encoder > 0
    assert list(tmp_path.iterdir()) == []


def planned(faces, **finetune):
    raw = {
        "name": "x",
        "data": {"train": str(faces)},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}},
        "optimizer": {"lr": 0.1},
        "schedule": {"length": 4, "warmup": 1},
        "batch_size": 8,
        "finetune": finetune,
    }
    return plan(build_config(raw, "test"))


def test_plan_counts_what_trains(faces):
    whole, last = planned(faces), planned(faces, freeze="all but the last block")
    backbone = build("tiny", 8, width=8)
    after = [backbone.stages[5], backbone.stages[7], backbone.embedding, backbone.embedding_norm]
    moving = sum(p.numel() for part in after for p in part.parameters())
    assert (whole.trained.parameters, whole.trained.frozen, whole.trained.still_norms) == (whole.parameters, 0, 0)
    assert (last.trained.parameters, last.trained.frozen) == (moving, whole.parameters - moving)
    assert last.trained.still_norms == 1 + 2 + 1 + 2 + 2
    ours, others = last.footprint, whole.footprint
    assert ours.memory.activations < others.memory.activations / 3
    assert ours.memory.backbone == others.memory.backbone - 2 * 4 * last.trained.frozen
    assert ours.checkpoint.optimizer == 4 * moving


def test_plan_counts_the_start_of_l2_sp(faces):
    plain, pulled = planned(faces), planned(faces, l2_sp=0.1)
    copy_of_weights = 4 * plain.parameters
    assert pulled.footprint.memory.backbone - plain.footprint.memory.backbone == copy_of_weights
    assert pulled.footprint.checkpoint.start == copy_of_weights
    assert pulled.footprint.checkpoint.total - plain.footprint.checkpoint.total == copy_of_weights


@pytest.mark.slow
def test_plan_shows_what_waits_and_the_learning_rates_by_depth(faces):
    found = planned(faces, freeze="stem", until=3, layer_decay=0.5, batchnorm="freeze").trained
    assert (found.waiting, found.until) == (3 * 49 * 8, 3)
    assert found.rates == {depth: 0.1 * 0.5 ** (5 - depth) for depth in range(6)}
    changes = ["finetune.freeze=stem", "finetune.until=3", "finetune.layer_decay=0.5", "finetune.batchnorm=freeze"]
    result = CliRunner().invoke(app, ["plan", "quickstart", *changes], env={"COLUMNS": "200"})
    assert "2,352 of them from step 3; " in result.output
    assert "12 BatchNorm layers are frozen" in result.output
    assert "by depth 0: 0.0031, 1: 0.0063, 2: 0.013, 3: 0.025, 4: 0.05, 5: 0.1; prototypes 0.1" in result.output


@pytest.mark.slow
def test_plan_lists_learning_rates_where_weights_train_and_shortens_long_lists(faces):
    found = planned(faces, freeze="all but the last block", layer_decay=0.5).trained
    assert found.rates == {4: 0.05, 5: 0.1}
    changes = ["backbone={name: mobilefacenet}", "finetune.layer_decay=0.5"]
    result = CliRunner().invoke(app, ["plan", "quickstart", *changes], env={"COLUMNS": "200"})
    assert f"by depth 0: {0.1 * 0.5**17:.2g}, 1: {0.1 * 0.5**16:.2g}, …, 16: 0.05, 17: 0.1; " in result.output


def test_tile_bytes_grows_with_the_classes_up_to_a_limit():
    cpu = torch.device("cpu")
    head = PrototypeHead(4, 2, workspace_mb=3)
    assert head.workspace_bytes == 3 * 2**20
    assert tile_bytes(10, 16, cpu) == 10 * tile_bytes(1, 16, cpu)
    assert tile_bytes(10**7, 512, cpu) == tile_bytes(10**6, 512, cpu) < 32 * 2**20 * torch.get_num_threads()


def test_footprint_matches_hand_computed_values():
    network = NetworkSize(parameters=1000, trained=900, buffer_bytes=80, activation_bytes=7_000)
    size = RunSize(classes=1001, batch=8, gpus=4, dim=16, memory_dtype="bfloat16", fused=False, average=True)
    found = footprint(size, network)
    assert found.rows == 251
    memory = found.memory
    assert (memory.weight, memory.momentum, memory.gradient, memory.update) == (251 * 64,) * 4
    assert (memory.memory, memory.timer, memory.drawn) == (251 * 32, 251 * 4, 0)
    assert memory.workspace == 251 * 8 * 2
    assert memory.features == 8 * 16 * (4 * 4 + 2)
    # weights and statistics twice; gradients, momentum and what is sent
    assert memory.backbone == 2 * 4080 + 3 * 3600
    assert memory.activations == 7_000
    parts = vars(memory).values()
    assert memory.total == sum(parts) - (7_000 + 8 * 16 * 18)  # which are gone when W moves
    traffic = found.traffic
    assert (traffic.sizes, traffic.embeddings, traffic.labels, traffic.norms) == (3 * 128, 3 * 2 * 64, 3 * 2 * 8, 0)
    assert (traffic.targets, traffic.sums, traffic.gradients) == (48, 48, 3 * 2 * 64)
    assert (traffic.backbone, traffic.buffers, traffic.stop) == (5400, 80, 24)
    checkpoint = found.checkpoint
    assert (checkpoint.weight, checkpoint.momentum) == (1001 * 64,) * 2
    assert (checkpoint.memory, checkpoint.timer) == (1001 * 32, 1001 * 4)
    assert (checkpoint.backbone, checkpoint.optimizer, checkpoint.average) == (4080, 3600, 4080)
    assert found.host_bytes == 251 * (64 + 64 + 32 + 4) + 4080 + 3600 + 4080


def test_footprint_counts_the_gradient_that_is_held_for_clipping():
    def memory(**changes):
        return footprint(
            RunSize(classes=1000, batch=8, dim=16, device="cpu", in_backward=False, **changes), BLANK
        ).memory

    held, parts = memory(), memory(accumulate=2)
    assert held.gradient == parts.gradient == held.weight
    assert held.update == held.weight  # smaller than a piece
    assert footprint(RunSize(10**6, 8, dim=16, device="cpu", in_backward=False), BLANK).memory.update == 4 * 2**18
    drawn = memory(sample_rate=0.5)
    assert held.gradient // 2 < drawn.gradient < held.gradient
    assert memory(sample_rate=0.5, accumulate=2).gradient == 3 * drawn.gradient


def test_footprint_counts_a_momentum_encoder_as_one_more_network():
    network = NetworkSize(parameters=1000, trained=900, buffer_bytes=80, activation_bytes=7_000)
    plain, encoded = (
        footprint(RunSize(classes=100, batch=8, gpus=4, dim=16, encoder=each), network) for each in (False, True)
    )
    assert encoded.memory.backbone - plain.memory.backbone == 4080
    assert (plain.checkpoint.encoder, encoded.checkpoint.encoder) == (0, 4080)
    assert encoded.checkpoint.total - plain.checkpoint.total == encoded.host_bytes - plain.host_bytes == 4080
    assert encoded.traffic.embeddings == 2 * plain.traffic.embeddings


def test_footprint_counts_the_lengths_of_embeddings_in_both_directions():
    plain, norms = (footprint(RunSize(classes=100, batch=16, gpus=4, dim=16, norms=each), BLANK) for each in (0, 1))
    assert (plain.traffic.norms, norms.traffic.norms) == (0, 3 * 16)
    assert norms.traffic.gradients - plain.traffic.gradients == 3 * 4 * 4


def test_footprint_of_one_gpu_has_no_traffic_and_of_plain_prototypes_no_memory():
    found = footprint(RunSize(classes=100, batch=8, variational=False), network_of("tiny", 16, 2, "float32"))
    assert found.traffic.total == 0
    assert found.memory.memory == found.memory.timer == found.checkpoint.memory == 0


def test_footprint_of_large_logits_has_no_workspace_and_one_more_exchange():
    most = math.floor(math.exp(BOUNDED - 64))
    small, large = (footprint(RunSize(classes=n, batch=512, gpus=8, fused=False), BLANK) for n in (most, most + 1))
    assert small.memory.workspace > 0
    assert large.memory.workspace == 0
    assert large.traffic.sums == 2 * small.traffic.sums


@pytest.mark.parametrize(("fused", "in_backward"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("memory_dtype", ["float32", "bfloat16", None])
def test_footprint_matches_the_state_of_a_head(fused, in_backward, memory_dtype):
    head = PrototypeHead(
        20_000,
        DIM,
        variational=None if memory_dtype is None else Variational(0.1, 5, 0),
        memory_dtype=None if memory_dtype is None else getattr(torch, memory_dtype),
        optimizer=FusedSGD(0.1, in_backward=in_backward) if fused else None,
    )
    optimizer = head.optimizer or torch.optim.SGD(head.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        head(torch.randn(32, DIM), torch.randint(20_000, (32,))).backward()
        optimizer.step()
    there = [head.weight, optimizer.state[head.weight]["momentum_buffer"], head.memory, head.timer]
    if not in_backward:
        there.append(head.optimizer._held.total()[1] if fused else head.weight.grad)
    size = RunSize(
        classes=20_000,
        batch=32,
        dim=DIM,
        fused=fused,
        in_backward=in_backward,
        variational=memory_dtype is not None,
        memory_dtype=memory_dtype or "float32",
    )
    memory = footprint(size, BLANK).memory
    planned = memory.weight + memory.momentum + memory.gradient + memory.memory + memory.timer
    assert sum(tensor.nbytes for tensor in there if tensor is not None) == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize("kind", [SeveralFeatures(3), Gaussian(), BorrowedSpread(bank=100)], ids=str)
def test_footprint_matches_every_kind_of_memory(kind):
    head = PrototypeHead(5_000, DIM, variational=Variational(0.1, 5, 0, memory=kind))
    head(torch.randn(32, DIM), torch.randint(5_000, (32,))).backward()
    memory = footprint(RunSize(classes=5_000, batch=32, dim=DIM, kind=kind), BLANK).memory
    assert (head.memory.nbytes, head.timer.nbytes) == (memory.memory, memory.timer)
    others = [getattr(head, name).nbytes for name in (*kind.per_class, *kind.shared) if name.startswith("memory_")]
    assert sum(others) == memory.statistics
    one, two = (
        footprint(RunSize(classes=5_000, batch=32, gpus=2, dim=DIM, kind=each), BLANK) for each in (kind, type(kind)())
    )
    assert one.traffic.residuals == two.traffic.residuals == 32 * 4 * kind.exchanged(DIM)


@pytest.mark.parametrize("term", [EPL(start=0), XBM(size=300, start=0), BroadFace(size=70, start=0), UNPG()], ids=str)
def test_footprint_matches_the_state_of_every_term(term):
    head = PrototypeHead(5_000, DIM, terms=(term,))
    head(torch.randn(32, DIM), torch.randint(5_000, (32,))).backward()
    found = footprint(RunSize(classes=5_000, batch=32, dim=DIM, terms=(term,)), BLANK)
    held = sum(tensor.nbytes for tensor in head.terms.state_dict().values() if tensor.ndim)
    assert held == found.memory.terms == found.checkpoint.terms


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("classes", "batch", "workspace_mb", "scale"),
    [(20_000, 48, 256, 32.0), (50_000, 300, 7, 32.0), (20_000, 48, 0, 32.0), (20_000, 48, 256, 100.0)],
)
def test_footprint_matches_the_workspace_of_the_softmax(precision, classes, batch, workspace_mb, scale):
    head = PrototypeHead(classes, DIM, margin=ArcFace(scale), optimizer=FusedSGD(0.1), workspace_mb=workspace_mb)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss = head(torch.randn(batch, DIM), torch.randint(classes, (batch,)))
    loss.backward()
    buffers = {name: buffer.nbytes for name, buffer in head._softmax.workspace._buffers.items()}
    size = RunSize(classes, batch, dim=DIM, precision=precision, workspace_mb=workspace_mb, scale=scale, device="cpu")
    memory = footprint(size, BLANK).memory
    assert buffers["kept"] == pytest.approx(memory.workspace, rel=0.1)
    assert sum(buffers.values()) <= memory.workspace + memory.tiles


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("classes", "batch", "options"),
    [
        (10_000_000, 128, {}),
        (10_000_000, 1024, {"variational": False}),
        (10_001, 1001, {"in_backward": False}),
        (10_001, 70, {"accumulate": 2, "in_backward": False}),
        (10_001, 2048, {"encoder": True, "dim": 128}),
        (10_000_000, 1024, {"gpus": 8}),
        (10_004, 1021, {"gpus": 8, "accumulate": 2, "in_backward": False, "encoder": True}),
    ],
)
def test_footprint_matches_the_buffers_and_traffic_of_a_fused_step(monkeypatch, precision, classes, batch, options):
    size = RunSize(classes, batch, precision=precision, **options)
    kernels = pytest.importorskip("vplface.softmax.fused.kernels", reason="needs vplface[triton]")
    for name in [name for name, each in vars(kernels).items() if isinstance(each, kernels.triton.KernelInterface)]:
        monkeypatch.setattr(kernels, name, defaultdict(lambda: lambda *arguments, **settings: None))
    monkeypatch.setattr("vplface.softmax.fused.step.operand_type", lambda weight: getattr(torch, precision))
    variational = Variational(0.1, 5, 0) if size.variational else None
    optimizer = FusedSGD(0.1, in_backward=size.in_backward)
    sent = Counter()
    with recorded_ranks(3, size.gpus, sent):
        head = PrototypeHead(
            classes,
            size.dim,
            variational=variational,
            optimizer=optimizer,
            backend="triton",
            device="meta",
            process_group=GROUP if size.gpus > 1 else None,
        )
        assert head.takes_fused_step
        assert size.takes_fused_step
        with head.micro_batches():
            for _ in range(size.accumulate):
                embeddings = torch.empty(size.pictures_a_pass, size.dim, device="meta", requires_grad=True)
                labels = torch.empty(size.pictures_a_pass, dtype=torch.int64, device="meta")
                head(embeddings, labels, embeddings.detach() if size.encoder else None).backward()
        if not size.in_backward:
            clip_grad_norm_([], 1.0, head=head)
    head.finish_step()
    buffers = {name: buffer.nbytes for name, buffer in head._fused_step._workspace._buffers.items()}
    memory, traffic = footprint(size, BLANK).memory, footprint(size, BLANK).traffic
    assert (buffers["mixture"], buffers["kept"]) == (memory.mixture, memory.workspace)
    assert sum(buffers.values()) == memory.mixture + memory.workspace + memory.tiles
    assert memory.update == 0
    gathered = traffic.sizes + traffic.embeddings + traffic.labels + traffic.tile_norms
    assert sent["all_gather"] == gathered
    assert sent["add_"] == traffic.targets + traffic.sums
    assert sent["reduce_scatter"] == traffic.gradients


def test_footprint_of_a_fused_step_matches_hand_computed_values():
    memory = footprint(RunSize(10_000_000, 1024), BLANK).memory
    assert (memory.mixture, memory.workspace) == (2 * 10**7 * 512, 2 * 10**7 * 1024)
    assert memory.features == 2 * 4 * 1024 * 512
    memory = footprint(RunSize(1000, 33, precision="float32"), BLANK).memory
    assert (memory.mixture, memory.workspace) == (4 * 1000 * 512, 4 * 1000 * 48)


@pytest.mark.parametrize(
    ("takes", "options"),
    [
        (True, {}),
        (True, {"in_backward": False, "variational": False, "accumulate": 2, "dim": 64, "scale": 70.0}),
        (True, {"gpus": 64}),
        (False, {"device": "cpu"}),
        (False, {"fused_step": False}),
        (False, {"fused": False}),
        (False, {"state": 0}),
        (False, {"dim": 100}),
        (False, {"scale": 73.0}),
        (False, {"subcenters": 3}),
        (False, {"sample_rate": 0.5}),
        (False, {"kind": Gaussian()}),
        (False, {"terms": (UNPG(),)}),
    ],
)
def test_RunSize_takes_the_fused_step_where_a_head_does(takes, options):
    size = RunSize(100_000, 128, **options)
    assert size.takes_fused_step == takes
    assert (footprint(size, BLANK).memory.mixture > 0) == takes


def test_footprint_matches_the_classes_drawn_in_a_step():
    classes, batch = 20_000, 3_000
    head = PrototypeHead(classes, DIM, margin=ArcFace(32.0), sample_rate=0.2, variational=Variational(0.1, 5, 0))
    rows, *_ = head._softmax._drawn(torch.randint(classes, (batch,)), step=1)
    copies = head.weight[rows].nbytes + torch.zeros(len(rows), DIM).nbytes  # of W and of M
    planned = footprint(RunSize(classes, batch, dim=DIM, sample_rate=0.2), BLANK).memory.drawn
    assert copies == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    ["tiny", "mobilefacenet", "vit_t", pytest.param("vit_b", marks=pytest.mark.slow)],  # vit_b recomputes
)
def test_network_of_matches_the_size_and_activations_of_a_backbone(name, precision):
    backbone = build(name, DIM).train()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        embeddings = backbone(torch.randn(2, 3, 112, 112))
    assert len(embeddings) == 2
    weights = {p.untyped_storage()._cdata for p in backbone.parameters()}
    found = network_of(name, DIM, 2, precision)
    assert found.activation_bytes == pytest.approx(sum(b for at, b in kept.items() if at not in weights), rel=0.01)
    assert found.parameters == sum(p.numel() for p in backbone.parameters())
    assert found.buffer_bytes == sum(b.nbytes for b in backbone.buffers())


def exchange(group, classes, sizes, margin):
    """What a rank sends in the second step of a run, by collective; those of DistributedDataParallel apart."""
    torch.manual_seed(0)
    rank, world = group.rank(), group.size()
    head = PrototypeHead(classes, DIM, margin=margin, optimizer=FusedSGD(0.1), process_group=group)
    network = DistributedDataParallel(build("tiny", DIM), process_group=group)
    network.register_comm_hook(group, allreduce_hook)
    sent = Counter()

    def counted(function, name, size):
        def call(*args, **options):
            sent["backbone" if options.get("async_op") else name] += size(*args)
            return function(*args, **options)

        return patch.object(dist, function.__name__, call)

    def step():
        loss = head(network(torch.randn(sizes[rank], 3, 112, 112)), torch.randint(classes, (sizes[rank],)))
        loss.backward()
        DistributedContext(rank, world, group=group).sum([0, 0])  # who is to stop

    step()
    head.optimizer.zero_grad()
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    with (
        counted(all_gather, "all_gather", lambda every, own: every.nbytes - own.nbytes),
        counted(reduce_scatter, "reduce_scatter", lambda own, every: every.nbytes - own.nbytes),
        counted(dist.all_reduce, "all_reduce", lambda part, *_: 2 * (world - 1) * part.nbytes // world),
        counted(dist._broadcast_coalesced, "broadcast", lambda _, tensors, *__: sum(t.nbytes for t in tensors)),
    ):
        step()
    return sent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sizes", "margin"),
    [(2, [3, 3], ArcFace(32.0)), (2, [3, 3], ArcFace(100.0)), (3, [3, 3, 2], ArcFace(32.0)), (2, [3, 3], MagFace())],
    ids=str,
)
def test_footprint_matches_the_traffic_between_ranks(processes, world, sizes, margin):
    classes, norms = 2000, isinstance(margin, MagFace)
    size = RunSize(classes, sum(sizes), world, DIM, precision="float32", scale=margin.scale, norms=norms, device="cpu")
    traffic = footprint(size, network_of("tiny", DIM, size.pictures_a_pass, size.precision)).traffic
    for sent in processes.run(exchange, world, classes, sizes, margin):
        assert sent["all_gather"] == traffic.sizes + traffic.embeddings + traffic.labels + traffic.norms
        assert sent["all_reduce"] == pytest.approx(traffic.targets + traffic.sums + traffic.stop, abs=3)
        assert sent["reduce_scatter"] == traffic.gradients
        assert sent["backbone"] == pytest.approx(traffic.backbone, rel=1e-3)
        assert sent["broadcast"] == traffic.buffers


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_footprint_matches_the_size_of_a_checkpoint(tmp_path, fused, average):
    backbone = build("tiny", DIM)
    head = PrototypeHead(
        20_000, DIM, variational=Variational(0.1, 5, 0), optimizer=FusedSGD(0.1, 0.9) if fused else None
    )
    parameters = [p for p in backbone.parameters() if p.requires_grad] + ([] if fused else [head.weight])
    run = RunState(
        device=torch.device("cpu"),
        backbone=backbone,
        head=head,
        optimizer=torch.optim.SGD(parameters, 0.1, momentum=0.9),
        average=AveragedModel(backbone, use_buffers=True) if average else None,
        drift=DriftMonitor(head, torch.zeros(2, 3, 112, 112)),
        **dict.fromkeys(("config", "preprocessing", "pictures", "heldout", "batches", "rate", "ramps", "freezing")),
    )
    head(backbone(torch.randn(4, 3, 112, 112)), torch.arange(4)).backward()
    run.optimizer.step()
    checkpoints = Checkpoints(tmp_path, DistributedContext(), keep=1)
    checkpoints.save(run)
    checkpoints.finish()
    path, _ = newest_checkpoint(tmp_path)
    on_disk = sum(file.stat().st_size for file in path.iterdir())
    size = RunSize(20_000, 4, dim=DIM, fused=fused, average=average)
    found = footprint(size, network_of("tiny", DIM, 4, "float32"))
    assert on_disk == pytest.approx(found.checkpoint.total, rel=0.1)
    assert on_disk == pytest.approx(found.host_bytes, rel=0.1)


def test_forecast_matches_hand_computed_values():
    size = RunSize(classes=1000, batch=64, gpus=2)
    found = forecast(size, BLANK, 20, pictures=6500, epochs=2.5)
    assert (found.steps_per_epoch, found.steps) == (101, 252)
    assert found.coverage.keys() == {5, 10, 20, 40, 80}
    for delta_t, share in found.coverage.items():
        assert share == pytest.approx(expected_coverage(np.full(1000, 7), 64, delta_t))
    assert size.coverage(found.half_covered - 1) < 0.5 <= size.coverage(found.half_covered)
    assert forecast(size, BLANK, 20).steps is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"gpus": 0}, "gpus must be at least 1"),
        ({"gpus": 9}, "a batch of 8 cannot be shared by 9 GPUs"),
        ({"gpus": 3, "accumulate": 3}, "by 3 GPUs in 3 parts each"),
        ({"sample_rate": 0.0}, "sample_rate must lie in"),
        ({"workspace_mb": math.nan}, "workspace_mb must be"),
    ],
)
def test_RunSize_refuses_invalid_values(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RunSize(**{"classes": 10, "batch": 8, **changes})


def test_network_of_suggests_a_backbone_for_an_unknown_name():
    with pytest.raises(ConfigError, match="iresnet50"):
        network_of("iresnet51", 64, 2, "float32")


def vplface(*words):
    return CliRunner().invoke(app, ["plan", *(str(word) for word in words)])


@pytest.mark.parametrize("text", ["2000000", "2e6", "2M", "2m", "2000k", "2,000,000", "2_000_000", "0.002b", "2.0e+6"])
def test_vplface_plan_reads_numbers_with_suffixes_and_separators(text):
    result = vplface("--classes", text, "--backbone", "tiny", "--gpus", "8", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["schema"] == 1
    assert told["job"]["classes"] == 2_000_000
    assert told["job"]["batch"] == 1024
    found = told["plan"]["footprint"]
    assert found["rows"] == 250_000
    assert found["memory"]["weight"] == 250_000 * 512 * 4
    assert found["traffic"]["total"] == sum(size for name, size in found["traffic"].items() if name != "total")


def test_vplface_plan_counts_the_gradient_for_clip():
    memories = [
        json.loads(vplface("--classes", "1M", "--gpus", "4", *clip, "--json").stdout)["plan"]["footprint"]["memory"]
        for clip in ([], ["--clip"])
    ]
    assert [memory["gradient"] for memory in memories] == [0, memories[1]["weight"]]


def test_vplface_plan_counts_what_a_fused_step_keeps():
    words = ["--classes", "10M", "--batch", "1024"]
    told = json.loads(vplface(*words, "--json").stdout)
    memory = told["plan"]["footprint"]["memory"]
    assert told["job"]["fused_step"]
    assert (memory["mixture"], memory["workspace"]) == (2 * 10**7 * 512, 2 * 10**7 * 1024)
    shown = " ".join(vplface(*words).stdout.split())
    for text in ("softmax fused step", "memory, Z 9.54 GiB", "exponentials 19.07 GiB"):
        assert text in shown
    assert "softmax tiles of classes" in " ".join(vplface(*words, "--sample-rate", "0.5").stdout.split())


def test_vplface_plan_applies_every_option():
    words = ["--classes", "1M", "--gpus", "4", "--batch", "256", "--dim", "256", "--backbone", "ir18", "--no-fused"]
    words += ["--precision", "float32", "--memory-dtype", "bfloat16", "--sample-rate", "0.5", "--workspace-mb", "64"]
    words += ["--delta-t", "1k", "--pictures", "10M", "--epochs", "1.5"]
    told = json.loads(vplface(*words, "--json").stdout)
    assert told["job"]["backbone"] == "iresnet18"
    memory = told["plan"]["footprint"]["memory"]
    assert memory["memory"] * 2 == memory["gradient"] == memory["weight"] == 250_000 * 256 * 4
    assert memory["workspace"] <= 64 * 2**20
    assert told["plan"]["steps"] == round(1.5 * told["plan"]["steps_per_epoch"]) == round(1.5 * (10**7 // 256))
    shown = " ".join(vplface(*words).stdout.split())
    for text in ("1,000,000 (250,000 a GPU), 0.5 of them a step", "39,062 an epoch", "copies of drawn classes"):
        assert text in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give CONFIG, as in vplface plan quickstart"),
        (("quickstart", "--classes", "5"), "not both"),
        (("--classes", "1e5", "batch_size=3"), "'batch_size=3' was read as CONFIG"),
        (("--classes", "2x"), "--classes takes a whole number from 2"),
        (("--classes", "-5"), "--classes takes"),
        (("--classes", "1"), "--classes takes"),
        (("--classes", "2.5"), "--classes takes"),
        (("--classes", "1,5"), "--classes takes"),
        (("--classes", "1e99"), "--classes takes"),
        (("--classes", "1e5", "--gpus", "0"), "--gpus takes"),
        (("--classes", "1e5", "--gpus", "8", "--batch", "4"), "cannot be shared by 8 GPUs"),
        (("--classes", "1e5", "--backbone", "ir51"), "did you mean 'iresnet50'"),
        (("--classes", "1e5", "--epochs", "3"), "epochs need a number of pictures"),
        (("--classes", "1e5", "--pictures", "1M", "--epochs", "nan"), "epochs must be positive"),
        (("--classes", "1e5", "--pictures", "1M", "--epochs", "1e308"), "epochs must be positive, and at most"),
        (("--classes", "1e5", "--pictures", "10k"), "10,000 pictures are too few for 100,000 classes"),
        (("--classes", "1e5", "--sample-rate", "2"), "sample_rate must lie in"),
        (("quickstart", "--batch", "5"), "--batch goes with --classes"),
        (("quickstart", "--no-fused"), "--fused goes with --classes"),
        (("--classes", "1e5", "--clases", "3"), "--clases"),
        (("--classes", "1e5", "--precision", "bf16"), "bf16"),
    ],
)
def test_vplface_plan_refuses_faulty_arguments(words, message):
    result = vplface(*words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_vplface_plan_of_a_recipe_divides_the_classes_among_gpus(faces):
    small = ("folder", f"data.train={faces}", "data.holdout=0")
    small += ("backbone={name: tiny, embedding_dim: 8, options: {width: 8}}",)
    one, four = (json.loads(vplface(*small, "--gpus", gpus, "--json").stdout)["plan"] for gpus in (1, 4))
    assert one["footprint"]["checkpoint"] == four["footprint"]["checkpoint"]
    assert one["footprint"]["rows"] == one["identities"]
    assert four["footprint"]["rows"] == math.ceil(one["identities"] / 4)
    assert one["footprint"]["traffic"]["total"] == 0 < four["footprint"]["traffic"]["total"]
    assert "embeddings, all-gather" in vplface(*small, "--gpus", 4).stdout
    refused = vplface(*small, "--gpus", 4, "accumulate=10", "batch_size=32")
    assert refused.exit_code == 1
    assert "cannot be shared by 4 GPUs in 10 parts each; raise batch_size" in refused.stderr


def test_footprint_matches_the_table_in_docs_scaling():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| 10(\S) \| (\d+) \| (\S+) \| (\S+) \| (\S+) % \| (\S+) \|", text, flags=re.MULTILINE)
    assert len(rows) == 16
    network = network_of("iresnet50", 512, 128, "bfloat16")
    for power, gpus, *said in rows:
        size = RunSize(10 ** "⁰¹²³⁴⁵⁶⁷⁸⁹".index(power), 128 * int(gpus), gpus=int(gpus))
        found = footprint(size, network)
        right = [
            found.memory.total / 2**30,
            found.traffic.total / 2**20,
            100 * size.coverage(200),
            found.checkpoint.total / 2**30,
        ]
        assert [float(figure.replace(",", "")) for figure in said] == pytest.approx(right, rel=0.05)


@pytest.mark.slow
def test_footprint_matches_the_table_by_batch_in_docs_scaling():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", text, flags=re.MULTILINE)
    assert len(rows) == 4
    for written, *said in rows:
        batch, right = int(written.replace(",", "")), []
        for precision in ("bfloat16", "float32"):
            network = network_of("iresnet50", 512, batch, precision)
            sizes = (RunSize(10**7, batch, precision=precision, in_backward=each) for each in (True, False))
            right += [footprint(size, network).memory.total / 2**30 for size in sizes]
        assert [float(figure) for figure in said] == pytest.approx(right, rel=0.01)
