from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from vplface.backbones import build, load_insightface, load_weights, pretrained
from vplface.errors import DataError


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(3)
    return build("iresnet18", 4)


def target():
    torch.manual_seed(4)
    return build("iresnet18", 4)


def assert_loaded(backbone, source):
    for name, tensor in source.state_dict().items():
        assert backbone.state_dict()[name].equal(tensor), name


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "_orig_mod.module."])
def test_load_insightface_accepts_a_state_dict_with_any_known_prefix(tmp_path, source, prefix):
    path = tmp_path / "backbone.pth"
    torch.save({prefix + name: tensor for name, tensor in source.state_dict().items()}, path)
    backbone = target()
    assert not backbone.fc.weight.equal(source.fc.weight)
    load_insightface(backbone, path)
    assert_loaded(backbone, source)
    assert not backbone.features.weight.requires_grad


def test_load_insightface_reads_a_training_checkpoint(tmp_path, source):
    path = tmp_path / "checkpoint_gpu_0.pt"
    torch.save({"epoch": 3, "global_step": 9, "state_dict_backbone": source.state_dict()}, path)
    backbone = target()
    load_insightface(backbone, str(path))
    assert_loaded(backbone, source)


def test_load_insightface_reads_safetensors(tmp_path, source):
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    backbone = target()
    load_insightface(backbone, tmp_path / "model.safetensors")
    assert_loaded(backbone, source)


def test_load_insightface_names_another_depth_and_changes_nothing(tmp_path):
    path = tmp_path / "r34.pth"
    torch.save(build("iresnet34", 4).state_dict(), path)
    backbone = target()
    before = backbone.fc.weight.clone()
    with pytest.raises(DataError) as raised:
        load_insightface(backbone, path)
    message = str(raised.value)
    assert "r34.pth" in message
    assert "unexpected in the file: layer1.2.bn1.weight" in message
    assert "fits backbone iresnet34 with embedding_dim 4" in message
    assert backbone.fc.weight.equal(before)


def test_load_insightface_names_another_embedding_dim(tmp_path):
    path = tmp_path / "wide.pth"
    torch.save(build("iresnet18", 6).state_dict(), path)
    with pytest.raises(DataError, match=r"fc.weight \(6, 25088\) instead of \(4, 25088\).*embedding_dim 6"):
        load_insightface(target(), path)


@pytest.mark.parametrize("name", ["mobilefacenet", "mbf", "mbf_large", "vit_t", "vit_s", "vit_b"])
def test_load_insightface_names_the_backbone_that_fits(tmp_path, name):
    with torch.device("meta"):
        state = build(name, 5).state_dict()
    torch.save(
        {key: torch.zeros((), dtype=each.dtype).expand(each.shape) for key, each in state.items()}, tmp_path / "x.pt"
    )
    with pytest.raises(DataError, match=f"fits backbone {name} with embedding_dim 5"):
        load_insightface(target(), tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["mbf", "vit_t"])
def test_load_weights_loads_mbf_and_vit(tmp_path, name):
    source, backbone = build(name, 4), build(name, 4)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    load_weights(backbone, tmp_path / "model.pt")
    assert_loaded(backbone, source)


def test_load_insightface_says_that_no_backbone_fits(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"stem.weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=r"missing in the file: conv1.weight.* more; unexpected.*fits none of"):
        load_insightface(target(), path)


def test_load_insightface_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent.pth: no such file"):
        load_insightface(nn.Linear(1, 1), tmp_path / "absent.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"not weights at all", b"PK\x03\x04" + bytes(100)])
def test_load_insightface_refuses_a_damaged_file(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        load_insightface(nn.Linear(1, 1), path)


def test_load_insightface_refuses_a_folder(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(DataError, match="no such file"):
        load_insightface(nn.Linear(1, 1), tmp_path / "folder.pth")


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_load_insightface_raises_only_DataError_for_random_damage(tmp_path_factory, seed, bytes_changed, legacy):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("damage") / "small.pth"
    torch.save({"a": torch.ones(3), "b": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[rng.integers(0, len(content), bytes_changed)] = rng.integers(0, 256, bytes_changed)
    path.write_bytes(content.tobytes())
    with pytest.raises(DataError):  # at the latest because these two tensors are no IResNet
        load_insightface(nn.Linear(1, 1), path)


def test_load_insightface_refuses_a_truncated_file(tmp_path):
    path = tmp_path / "backbone.pth"
    torch.save({"conv1.weight": torch.ones(64, 3, 3, 3)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="damaged"):
        load_insightface(nn.Linear(1, 1), path)


def small():
    return build("tiny", 4, width=8)


def changed(change):
    return {name: change(value) if value.is_floating_point() else value for name, value in small().state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * float("nan"), r"stem.0.0.weight holds values that are not finite in float32"),
        (lambda value: value.double() + 1e300, r"stem.0.0.weight holds values that are not finite in float32"),
        (lambda value: value.int(), r"stem.0.0.weight has type int32; expected dense float32"),
        (lambda value: value.to(torch.complex64), r"stem.0.0.weight has type complex64"),
        (lambda value: value.to("meta"), r"stem.0.0.weight has type float32, sparse, quantised or without data"),
        (lambda value: value.to_sparse(), r"stem.0.0.weight has type float32, sparse, quantised or without data"),
    ],
)
def test_load_insightface_refuses_weights_that_are_not_finite_dense_floats(tmp_path, change, message):
    backbone = small()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.save(changed(change), tmp_path / "odd.pth")
    with pytest.raises(DataError, match=rf"odd\.pth: {message}"):
        load_insightface(backbone, tmp_path / "odd.pth")
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_load_insightface_strips_any_number_of_prefixes(tmp_path):
    state = small().state_dict()
    torch.save({"module." * 1500 + name: value for name, value in state.items()}, tmp_path / "deep.pth")
    backbone = small()
    load_insightface(backbone, tmp_path / "deep.pth")
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


def test_load_insightface_refuses_compressed_torchscript_and_oversized_archives(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", 8) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    with pytest.raises(DataError, match=r"packed\.pth: its entries are compressed or overlap"):
        load_insightface(nn.Linear(1, 1), tmp_path / "packed.pth")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as program:
        program.writestr("program/constants.pkl", b"")
    with pytest.raises(DataError, match=r"program\.pt: a TorchScript archive"):
        load_insightface(nn.Linear(1, 1), tmp_path / "program.pt")
    monkeypatch.setattr(pretrained, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(DataError, match=r"plain\.pth: its tensor names exceed"):
        load_insightface(nn.Linear(1, 1), tmp_path / "plain.pth")
    monkeypatch.setattr(pretrained, "MAX_FILE_BYTES", 10**6)
    with pytest.raises(DataError, match=r"plain\.pth.*larger than 0 MiB"):
        load_insightface(nn.Linear(1, 1), tmp_path / "plain.pth")


def test_load_weights_refuses_special_files_long_names_and_damaged_onnx(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "endless.safetensors").symlink_to("/dev/zero")
    (tmp_path / "m.onnx").write_bytes(b"")
    for name, message in {
        "pipe.pth": "not a regular file",
        "endless.safetensors": "not a regular file",
        "n" * 300: "too long",
        "m.onnx": "not an ONNX file",
    }.items():
        with pytest.raises(DataError, match=rf"{name}\b.*{message}"):
            load_weights(small(), tmp_path / name)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"fc.weight": 3.0}, {0: torch.zeros(2)}])
def test_load_insightface_refuses_anything_but_a_dictionary_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(DataError, match="dictionary of tensors"):
        load_insightface(nn.Linear(1, 1), tmp_path / "odd.pth")


def test_load_insightface_refuses_safetensors_without_tensors(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(DataError, match="dictionary of tensors"):
        load_insightface(nn.Linear(1, 1), tmp_path / "empty.safetensors")


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_load_insightface_runs_no_code_of_a_hostile_pickle(tmp_path, save):
    path, marker = tmp_path / "hostile.pth", tmp_path / "ran"
    save({"conv1.weight": Hostile(marker)}, path)
    with pytest.raises(DataError) as raised:
        load_insightface(nn.Linear(1, 1), path)
    assert not marker.exists()
    assert "weights_only" not in str(raised.value)
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert marker.exists()  # the pickle would have run
