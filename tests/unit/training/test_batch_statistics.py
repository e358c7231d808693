import numpy as np
import pytest
import torch

from helpers.small_runs import settings
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError
from vplface.training.batch_statistics import reestimate
from vplface.training.run_state import build_run
from vplface.training.train import train

TINY = {"name": "tiny", "embedding_dim": 8, "options": {"width": 8, "dropout": 0.5}}
AGAIN = {"batchnorm": "reestimate"}


def test_reestimate_takes_mean_and_variance_of_the_training_pictures(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, backbone=TINY, finetune=AGAIN))
    first = run.backbone.stem[0]
    parameters = [parameter.clone() for parameter in run.backbone.parameters()]
    reestimate(run)
    chosen = np.linspace(0, len(run.pictures) - 1, len(run.pictures)).astype(np.int64)
    pictures = torch.stack([torch.from_numpy(run.pictures.picture(int(index))) for index in chosen])
    with torch.no_grad():
        maps = first[0](run.preprocessing(pictures))
    assert len(pictures) <= 128  # a single batch
    torch.testing.assert_close(first[1].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[1].running_var, maps.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert first[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(parameters, run.backbone.parameters(), strict=True))
    for name, value in run.backbone.state_dict().items():
        assert torch.equal(run.average.module.state_dict()[name], value)


def test_train_with_reestimate_keeps_the_statistics_and_trains_scales(faces, tmp_path):
    start = build_run(settings(faces, tmp_path, backbone=TINY, finetune=AGAIN))
    reestimate(start)
    run = train(settings(faces, tmp_path, backbone=TINY, finetune=AGAIN, schedule={"length": 2, "warmup": 0}))
    for (name, then), now in zip(start.backbone.named_buffers(), run.backbone.buffers(), strict=True):
        assert torch.equal(then, now), name
    assert not torch.equal(start.backbone.stem[0][1].weight, run.backbone.stem[0][1].weight)


def test_reestimate_leaves_out_unreadable_pictures(faces, tmp_path, monkeypatch):
    run = build_run(settings(faces, tmp_path, backbone=TINY, finetune=AGAIN))
    picture = type(run.pictures).picture

    def damaged(pictures, index):
        if index == 0:
            raise UnreadablePictureError("p0/0.png", "torn")
        return picture(pictures, index)

    monkeypatch.setattr(type(run.pictures), "picture", damaged)
    reestimate(run)
    assert run.unreadable == {"p0/0.png: torn"}
    assert run.backbone.stem[0][1].running_mean.isfinite().all()


def test_reestimate_needs_a_readable_picture(faces, tmp_path, monkeypatch):
    run = build_run(settings(faces, tmp_path, backbone=TINY, finetune=AGAIN))

    def torn(pictures, index):
        raise UnreadablePictureError(f"{index}.png", "torn")

    monkeypatch.setattr(type(run.pictures), "picture", torn)
    with pytest.raises(DataError, match="no training picture can be read"):
        reestimate(run)
