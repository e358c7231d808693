"""Names that programs import from version 0.1 still give the same objects."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("embedder:ModelCard", "stored_model:ModelCard"),
        ("embedder:load_model", "stored_model:load_model"),
        ("embedder:save_model", "stored_model:save_model"),
        ("training.loop:train", "training.train:train"),
        ("training.config:Config", "config:Config"),
        ("training.config:read_config", "config:read_config"),
        ("deploy.gallery:Maker", "deploy.gallery:EmbedderFingerprint"),
        ("demo.gate:Gate", "demo.middleware:AllowlistMiddleware"),
        ("demo.serve:hosts_of", "demo.serve:allowed_hosts"),
    ],
)
def test_import_module_gives_the_same_object_for_a_former_name(former, now):
    def found(place):
        module, name = place.split(":")
        return getattr(import_module(f"vplface.{module}"), name)

    assert found(former) is found(now)
