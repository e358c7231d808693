import pytest
import torch
from torch.nn.functional import normalize

from helpers.small_runs import before_step, cut_off, settings
from vplface.data.pictures import UnreadablePictureError
from vplface.training.class_means import init_from_means
from vplface.training.run_state import build_run
from vplface.training.train import train

MEANS = {"prototypes": "means"}


def means_by_hand(run):
    """The sum over each class of unit embeddings, a picture at a time."""
    run.backbone.eval()
    sums = torch.zeros(len(run.pictures.identities), 8)
    with torch.no_grad():
        for index, label in enumerate(run.pictures.labels.tolist()):
            picture = torch.from_numpy(run.pictures.picture(index))[None]
            sums[label] += normalize(run.backbone(run.preprocessing(picture)), dim=1)[0]
    return sums


def test_init_from_means_turns_each_prototype_to_the_mean_of_its_class(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, **MEANS))
    before = run.head.weight.detach().clone()
    sums = means_by_hand(run)
    init_from_means(run)
    expected = normalize(sums, dim=1) * before.norm(dim=1, keepdim=True)
    torch.testing.assert_close(run.head.weight.detach(), expected, rtol=1e-4, atol=1e-7)
    assert run.backbone.training


def test_init_from_means_leaves_other_subcenters_as_drawn(faces, tmp_path):
    run = build_run(settings(faces, tmp_path, subcenters=3, **MEANS))
    before = run.head.weight.detach().clone().view(12, 3, 8)
    init_from_means(run)
    after = run.head.weight.detach().view(12, 3, 8)
    assert torch.equal(after[:, 1:], before[:, 1:])
    turned = normalize(means_by_hand(run), dim=1)
    torch.testing.assert_close(normalize(after[:, 0], dim=1), turned, rtol=1e-4, atol=1e-5)


def test_init_from_means_keeps_the_prototype_of_a_class_without_a_readable_picture(faces, tmp_path, monkeypatch):
    run = build_run(settings(faces, tmp_path, **MEANS))
    before = run.head.weight.detach().clone()
    picture = type(run.pictures).picture

    def damaged(pictures, index):
        if pictures.labels[index] == 5:
            raise UnreadablePictureError(pictures.name(index), "torn")
        return picture(pictures, index)

    monkeypatch.setattr(type(run.pictures), "picture", damaged)
    init_from_means(run)
    kept = (run.head.weight.detach() == before).all(1)
    assert kept.tolist() == [label == 5 for label in range(12)]
    assert len(run.unreadable) == 4


@pytest.mark.slow
def test_train_starts_from_class_means_and_resumes_without_them(faces, tmp_path, monkeypatch):
    whole = train(settings(faces, tmp_path / "a", loggers=[], **MEANS))
    drawn = train(settings(faces, tmp_path / "b", loggers=[]))
    assert not torch.equal(whole.head.weight, drawn.head.weight)
    config = settings(faces, tmp_path / "c", loggers=[], **MEANS)
    with monkeypatch.context() as patch:
        before_step(patch, 7, cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    monkeypatch.setattr("vplface.training.train.init_from_means", lambda run: cut_off())
    resumed = train(config, resume=True)
    assert torch.equal(resumed.head.weight, whole.head.weight)
