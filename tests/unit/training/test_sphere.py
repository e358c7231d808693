import numpy as np

from vplface.data.formats.image_folder import ImageFolder
from vplface.data.pictures import Preprocessing
from vplface.report.record import read_run
from vplface.training import sphere


def test_embed_on_sphere_mixes_prototypes_and_memory_and_is_reproducible(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(sphere, "STEPS", 12)
    monkeypatch.setattr(sphere, "BATCH", 8)
    sphere.embed_on_sphere(ImageFolder(faces), tmp_path / "sphere.npz", lam=0.3, seed=0, preprocessing=Preprocessing())
    shown = read_run(tmp_path).sphere
    assert shown is not None
    assert shown.prototypes.shape == (8, 3)
    mixed = (1 - shown.lam) * shown.prototypes + shown.lam * shown.memory
    expected = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    alive = shown.timer > 0
    assert alive.any()
    np.testing.assert_allclose(shown.variational[alive], expected[alive], atol=1e-6)
    np.testing.assert_allclose(shown.variational[~alive], shown.prototypes[~alive], atol=1e-6)
    again = tmp_path / "again"
    sphere.embed_on_sphere(ImageFolder(faces), again / "sphere.npz", lam=0.3, seed=0, preprocessing=Preprocessing())
    assert (again / "sphere.npz").read_bytes() == (tmp_path / "sphere.npz").read_bytes()
