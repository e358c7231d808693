"""Models of timm as backbones, from their names to a run, its model and its ONNX file."""

from __future__ import annotations

import json
import socket
import sys

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from helpers.timm_alone import import_timm
from vplface.backbones import build, load_timm, load_weights
from vplface.backbones.timm import Timm
from vplface.cli.app import app
from vplface.deploy.onnx import export
from vplface.embedder import Embedder
from vplface.errors import ConfigError, DataError, MissingExtraError, VplfaceError
from vplface.footprint import network_of
from vplface.stored_model import ModelCard, load_model, save_model

SMALL = "timm:test_efficientnet"


@pytest.fixture(scope="module")
def timm():
    return import_timm()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv4_conv_small_050",
        "resnet18.a1_in1k",  # a tag: of no effect without weights
        "vit_tiny_patch16_224",  # position embeddings for 224×224 unless img_size is given
        "coat_lite_tiny",  # the same, but timm's metadata does not say so
        "edgenext_xx_small",
    ],
)
def test_Timm_embeds_pictures_of_112_pixels_in_float32_under_autocast(timm, name):
    backbone = build(f"timm:{name}", 24)
    assert backbone.training
    assert backbone.network.training
    with torch.autocast("cpu", torch.bfloat16):
        embedding = backbone(torch.rand(2, 3, 112, 112))
    assert embedding.shape == (2, 24)
    assert embedding.dtype == torch.float32
    embedding.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_Timm_embedding_is_a_normalised_linear_map_of_the_pooled_features(timm):
    torch.manual_seed(0)
    backbone = build(SMALL, 24).eval().double()
    x = torch.rand(3, 3, 112, 112, dtype=torch.float64)
    backbone.embedding_norm.running_mean.normal_()
    backbone.embedding_norm.running_var.uniform_(0.5, 2)
    theirs = timm.create_model("test_efficientnet", pretrained=False).double().eval()
    theirs.load_state_dict(backbone.network.state_dict(), strict=False)
    with torch.no_grad():
        features = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        norm = backbone.embedding_norm
        expected = (features @ backbone.embedding.weight.T - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        torch.testing.assert_close(backbone(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2)}),
        ("eva02_tiny_patch14_224", {"depth": 1, "embed_dim": 24, "num_heads": 2}),
    ],
)
def test_load_model_restores_buffers_that_a_timm_state_dict_omits(timm, tmp_path, name, options):
    backbone = build(f"timm:{name}", 8, **options).eval()
    assert {key for key, _ in backbone.named_buffers()} - backbone.state_dict().keys()
    save_model(tmp_path, backbone, ModelCard(f"timm:{name}", 8, options))
    again, _ = load_model(tmp_path)
    x = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(again(x), backbone(x), rtol=0, atol=0)
    assert Embedder.load(tmp_path).dim == 8


def test_Timm_passes_options_to_the_model(timm):
    assert build(SMALL, 8, drop_rate=0.25).network.drop_rate == 0.25


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mobilnetv4_conv_smal", {}, r"timm [\d.]+ has no model of this name; did you mean 'mobilenetv4_conv_small"),
        ("qqqq", {}, r"timm.list_models\(\) lists them"),
        ("hf-hub:timm/resnet18.a1_in1k", {}, "no model of this name"),  # would download its configuration
        ("local-dir:/tmp", {}, "no model of this name"),
        ("resnet18", {"drop_pathrate": 0.1}, "resnet18: .*unexpected keyword argument 'drop_pathrate'"),
        ("resnet18", {"pretrained": True}, "option 'pretrained' cannot be set"),
        ("resnet18", {"checkpoint_path": "x.pth"}, "option 'checkpoint_path' cannot be set"),
        ("resnet18", {"features_only": True}, "gives no feature vector"),
        ("hrnet_w18_small", {}, "does not take pictures of 112×112"),
    ],
)
def test_Timm_refuses_unusable_models_and_options(timm, name, options, words):
    with pytest.raises(ConfigError, match=words):
        build(f"timm:{name}", 8, **options)


def test_Timm_refuses_an_embedding_dim_below_1(timm):
    with pytest.raises(ConfigError, match="embedding_dim must be at least 1, got 0"):
        build(SMALL, 0)


def test_Timm_names_the_extra_if_timm_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vplface\[timm\]'"):
        build("timm:resnet18")


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        (
            "import of_another_package",
            MissingExtraError,
            r"timm needs the package 'of_another_package'.*vplface\[timm\]",
        ),
        (
            "raise RuntimeError('operator nms\\nmore')",
            VplfaceError,
            "cannot be imported: operator nms.* from one index",
        ),
    ],
)
def test_Timm_says_why_timm_cannot_be_imported(tmp_path, monkeypatch, content, expected, words):
    (tmp_path / "timm.py").write_text(content, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(expected, match=words):
        build("timm:resnet18")


def test_network_of_counts_a_timm_backbone(timm):
    network, backbone = network_of(SMALL, 24, 2, "bfloat16"), build(SMALL, 24)
    assert network.parameters == sum(p.numel() for p in backbone.parameters())
    assert network.activation_bytes > 0


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_load_weights_loads_timm_weights_without_their_classifier(timm, tmp_path, suffix):
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, num_classes=5, img_size=112)
    save = save_file if suffix == ".safetensors" else torch.save
    save(theirs.state_dict(), tmp_path / f"model{suffix}")
    backbone = build("timm:deit_tiny_distilled_patch16_224", 8)
    before = backbone.embedding.weight.clone()
    load_weights(backbone, tmp_path / f"model{suffix}")
    for name, tensor in backbone.network.state_dict().items():
        assert tensor.equal(theirs.state_dict()[name]), name
    assert backbone.embedding.weight.equal(before)


def test_load_timm_loads_the_weights_of_a_whole_backbone(timm, tmp_path):
    source, backbone = build(SMALL, 8), build(SMALL, 8)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_timm(backbone, tmp_path / "model.safetensors")
    assert backbone.embedding.weight.equal(source.embedding.weight)


def test_load_timm_refuses_weights_of_another_size_or_model(timm, tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(theirs.state_dict(), tmp_path / "large.pth")
    backbone = build("timm:vit_tiny_patch16_224", 8)
    before = backbone.network.patch_embed.proj.weight.clone()
    with pytest.raises(DataError, match=r"not for this model at 112×112 pixels: of another shape: pos_embed \(1, 197"):
        load_timm(backbone, tmp_path / "large.pth")
    with pytest.raises(DataError, match=r"missing in the file: conv_stem\.weight"):
        load_timm(build(SMALL, 8), tmp_path / "large.pth")
    assert backbone.network.patch_embed.proj.weight.equal(before)


@pytest.mark.slow
def test_Timm_is_saved_loaded_and_exported_to_ONNX(timm, tmp_path):
    torch.manual_seed(0)
    backbone = build(SMALL, 8, drop_rate=0.1)
    backbone(torch.rand(4, 3, 112, 112))  # moves the statistics
    save_model(tmp_path, backbone, ModelCard(SMALL, 8, {"drop_rate": 0.1}))
    again, card = load_model(tmp_path)
    assert isinstance(again, Timm)
    assert card.backbone == SMALL
    assert again.network.drop_rate == 0.1
    pictures = torch.randint(
        256, (2, 112, 112, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ).numpy()
    embeddings = Embedder.load(tmp_path)(pictures)
    assert embeddings == pytest.approx(Embedder.from_backbone(backbone, card)(pictures), abs=1e-6)
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    assert export(tmp_path, tmp_path / "model.onnx").parity < 1e-4


@pytest.mark.slow
def test_vplface_train_and_plan_accept_a_timm_backbone(timm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = [
        "quickstart",
        f"backbone.name={SMALL}",
        "backbone.embedding_dim=16",
        "backbone.options={drop_rate: 0.1}",
        "schedule.length=3",
        "schedule.warmup=1",
        "batch_size=8",
        "data.train.0.synthetic.identities=4",
        "data.train.0.synthetic.pictures=8",
        "data.train.0.path=faces",
        "evaluation.sets=[]",
        "evaluation.best=null",
        "sphere=false",
        "data.workers=0",
    ]
    for command in ("train", "plan"):
        result = CliRunner().invoke(app, [command, *recipe])
        assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "runs/quickstart/model.json").read_text("utf-8"))["backbone"] == SMALL
    assert Embedder.load(tmp_path / "runs/quickstart").dim == 16
