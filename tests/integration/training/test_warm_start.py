"""Runs that start from another run: classes are matched by name."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn.functional import normalize

from vplface.config import build_config
from vplface.data.pictures import Preprocessing
from vplface.errors import ConfigError, DataError
from vplface.training.run_state import build_run
from vplface.training.train import train
from vplface.training.warm_start import init_from_run, whole_checkpoint


def settings(faces, output, **changes):
    raw = {
        "name": "run",
        "output": str(output),
        "data": {"train": str(faces), "workers": 0},
        "backbone": {"name": "tiny", "embedding_dim": 8, "options": {"width": 8}},
        "margin": {"name": "arcface", "scale": 16, "margin": 0.2},
        "variational": {"lam": 0.3, "delta_t": 6, "start": 2},
        "optimizer": {"lr": 0.02},
        "schedule": {"length": 8, "warmup": 2},
        "batch_size": 16,
        "evaluation": {"bootstrap": 20},
    }
    return build_config({**raw, **changes}, "test")


@pytest.fixture
def before(faces, tmp_path):
    """A finished run on everybody but p3."""
    some = tmp_path / "some"
    shutil.copytree(faces, some)
    shutil.rmtree(some / "p3")
    return train(settings(some, tmp_path / "before"))


@pytest.fixture
def others(faces, tmp_path):
    """Faces without p0 and p7, with p3."""
    folder = tmp_path / "others"
    shutil.copytree(faces, folder)
    for gone in ("p0", "p7"):
        shutil.rmtree(folder / gone)
    (folder / "p3" / "0.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize(
    "optimizer",
    [{"lr": 0.02, "fused": False}, {"lr": 0.02, "fused": True}, {"name": "adamw", "lr": 0.001}],
    ids=["sgd", "fused", "adamw"],
)
def test_init_from_run_copies_prototypes_momentum_and_memory_by_name(faces, others, tmp_path, optimizer):
    some = tmp_path / "some"
    shutil.copytree(faces, some)
    shutil.rmtree(some / "p3")
    before = train(settings(some, tmp_path / "before", optimizer=optimizer))
    run = build_run(settings(others, tmp_path, optimizer=optimizer))
    init_from_run(whole_checkpoint(tmp_path / "before" / "run"), run)
    old = {name: row for row, name in enumerate(before.pictures.identities)}
    new = {name: row for row, name in enumerate(run.pictures.identities)}
    shared = sorted(old.keys() & new.keys())
    assert len(shared) == 9
    state = "exp_avg" if optimizer.get("name") == "adamw" else "momentum_buffer"
    momentum = [(r.head.optimizer or r.optimizer).state[r.head.weight][state] for r in (before, run)]
    for name in shared:
        a, b = old[name], new[name]
        assert torch.equal(run.head.weight[b], before.head.weight[a])
        assert torch.equal(run.head.memory[b], before.head.memory[a])
        assert run.head.timer[b] == before.head.timer[a]
        assert torch.equal(momentum[1][b], momentum[0][a])
    assert run.head.timer[new["p3"]] == 0
    assert not momentum[1][new["p3"]].any()
    for a, b in zip(before.backbone.parameters(), run.backbone.parameters(), strict=True):
        assert torch.equal(a, b)
    assert run.step == run.head.step_count == 0


def test_init_from_run_copies_any_memory_by_name_and_refuses_another_kind(faces, others, tmp_path):
    variational = {"lam": 0.3, "delta_t": 6, "start": 2, "memory": {"name": "borrowed", "bank": 64}}
    before = train(settings(faces, tmp_path / "before", variational=variational))
    path = whole_checkpoint(tmp_path / "before" / "run")
    run = build_run(settings(others, tmp_path, variational=variational))
    init_from_run(path, run)
    old = {name: row for row, name in enumerate(before.pictures.identities)}
    for row, name in enumerate(run.pictures.identities):
        for held in ("memory", "timer", "memory_variance", "memory_count"):
            assert torch.equal(getattr(run.head, held)[row], getattr(before.head, held)[old[name]])
    assert torch.equal(run.head.memory_bank, before.head.memory_bank)
    assert int(run.head.memory_residuals) == int(before.head.memory_residuals) > 0
    assert run.head.step_count == 0
    with pytest.raises(ConfigError, match=r"of the kind BorrowedSpread, this module has .*memory=LastFeature"):
        init_from_run(path, build_run(settings(others, tmp_path)))


def test_init_from_run_with_a_start_rule_takes_no_memory(before, others, tmp_path):
    rule = {"lam": 0.3, "delta_t": 6, "start": "auto", "momentum": 0.9}
    run = build_run(settings(others, tmp_path, variational=rule, drift_every=2))
    init_from_run(whole_checkpoint(before.config.run_folder), run)
    assert run.head.memory is None
    assert run.head.begun_at is None
    for key, value in before.backbone.state_dict().items():
        assert torch.equal(value, run.encoder.module.state_dict()[key]), key


def test_train_init_from_a_run_continues_its_memory_with_the_new_delta_t(before, others, tmp_path):
    changes = {"variational": {"lam": 0.3, "delta_t": 2, "start": 5}, "drift_every": 1}
    run = train(settings(others, tmp_path, **changes, init_from=str(before.config.run_folder)))
    assert (run.head.begun_at, run.head.delta_t) == (5, 2)
    assert run.head.timer.max() == 2


def test_init_from_run_starts_a_new_class_at_the_mean_of_its_readable_pictures(before, others, tmp_path):
    run = build_run(settings(others, tmp_path))
    init_from_run(whole_checkpoint(before.config.run_folder), run)
    new = {name: row for row, name in enumerate(run.pictures.identities)}
    pictures = [i for i, label in enumerate(run.pictures.labels) if label == new["p3"]][1:]
    inputs = Preprocessing()(torch.stack([torch.from_numpy(run.pictures.picture(i)) for i in pictures]))
    run.backbone.eval()
    with torch.no_grad():
        mean = normalize(normalize(run.backbone(inputs), dim=1).mean(0), dim=0)
    row = run.head.weight[new["p3"]].detach()
    torch.testing.assert_close(normalize(row, dim=0), mean, atol=1e-5, rtol=0)
    kept = [row for name, row in new.items() if name != "p3"]
    assert row.norm().item() == pytest.approx(run.head.weight[kept].norm(dim=1).mean().item(), rel=1e-5)
    assert len(run.unreadable) == 1


def test_init_from_run_keeps_the_random_prototype_of_a_new_class_if_asked(before, others, tmp_path):
    config = settings(others, tmp_path, init_new_classes="random")
    drawn, run = build_run(config), build_run(config)
    init_from_run(whole_checkpoint(before.config.run_folder), run)
    row = list(run.pictures.identities).index("p3")
    assert torch.equal(run.head.weight[row], drawn.head.weight[row])


def test_train_init_from_a_run_completes_with_other_identities(before, others, tmp_path):
    run = train(settings(others, tmp_path / "second", init_from=str(before.config.run_folder)))
    assert run.step == 8
    assert run.head.num_classes == 10


def test_train_init_from_a_run_refuses_another_backbone_and_damaged_files(before, others, tmp_path):
    folder = before.config.run_folder
    with pytest.raises(ConfigError, match=r"embeddings of 8 dimensions, this run of 16; set backbone\.embedding_dim=8"):
        train(settings(others, tmp_path / "a", backbone={"name": "tiny", "embedding_dim": 16}, init_from=str(folder)))
    wide = {"name": "tiny", "embedding_dim": 8, "options": {"width": 16}}
    with pytest.raises(ConfigError, match="has another backbone"):
        train(settings(others, tmp_path / "b", backbone=wide, init_from=str(folder)))
    with pytest.raises(DataError, match="nowhere holds no whole checkpoint to start from"):
        train(settings(others, tmp_path / "c", init_from=str(tmp_path / "nowhere")))
    (folder / "identities.json").write_text("[1, 2", encoding="utf-8")
    with pytest.raises(DataError, match=r"identities\.json"):
        train(settings(others, tmp_path / "d", init_from=str(folder)))


def test_train_resume_refuses_other_identities(before, faces):
    shutil.copytree(faces / "p3", before.config.data.train[0].path / "p3")
    with pytest.raises(DataError, match=r"12 instead of 11: with p3.*--init-from"):
        train(before.config, resume=True)


@pytest.mark.parametrize("terms", [[{"name": "xbm", "size": 16, "start": 0}], [{"name": "xbm", "size": 32}], []])
def test_init_from_run_leaves_terms_in_their_initial_state(faces, others, tmp_path, terms):
    """The queue of XBM holds class numbers, which mean other identities in another set."""
    before = train(settings(faces, tmp_path / "before", terms=[{"name": "xbm", "size": 16, "start": 0}]))
    assert before.head.terms["xbm"].queue.classes.unique().numel() > 1
    run = build_run(settings(others, tmp_path, terms=terms))
    fresh = [each.clone() for each in run.head.terms.buffers()]
    init_from_run(whole_checkpoint(tmp_path / "before" / "run"), run)
    for untouched, now in zip(fresh, run.head.terms.buffers(), strict=True):
        torch.testing.assert_close(now, untouched, equal_nan=True)
    assert run.head.memory is not None
