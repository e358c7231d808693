"""Against two independent descriptions of the public network: a table of its parameters and a forward in functions."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from vplface.backbones import BACKBONES, ViT, build
from vplface.deploy.onnx import export
from vplface.errors import ConfigError
from vplface.stored_model import ModelCard, load_model, save_model

# insightface, recognition/arcface_torch/backbones: width, depth, drop path, tokens of 144 that stay in training
NETWORKS = {
    "vit_t": (256, 12, 0.1, 129),
    "vit_t_dp005_mask0": (256, 12, 0.05, 144),
    "vit_s": (512, 12, 0.1, 129),
    "vit_s_dp005_mask_0": (512, 12, 0.05, 144),
    "vit_b": (512, 24, 0.1, 129),
    "vit_b_dp005_mask_005": (512, 24, 0.05, 129),
    "vit_l_dp005_mask_005": (768, 24, 0.05, 129),
}


def weight_and_bias(prefix, *shape):
    yield f"{prefix}.weight", shape
    yield f"{prefix}.bias", shape[:1]


def bn(prefix, channels):
    yield from weight_and_bias(prefix, channels)
    yield f"{prefix}.running_mean", (channels,)
    yield f"{prefix}.running_var", (channels,)
    yield f"{prefix}.num_batches_tracked", ()


def published_state(width, depth, dim):
    """Every name and shape of a published file, in its order."""
    yield "pos_embed", (1, 144, width)
    yield "mask_token", (1, 1, width)
    yield from weight_and_bias("patch_embed.proj", width, 3, 9, 9)
    for block in range(depth):
        at = f"blocks.{block}"
        yield from weight_and_bias(f"{at}.norm1", width)
        yield from weight_and_bias(f"{at}.norm2", width)
        yield f"{at}.attn.qkv.weight", (3 * width, width)
        yield from weight_and_bias(f"{at}.attn.proj", width, width)
        yield from weight_and_bias(f"{at}.mlp.fc1", 4 * width, width)
        yield from weight_and_bias(f"{at}.mlp.fc2", width, 4 * width)
    yield from weight_and_bias("norm", width)
    yield "feature.0.weight", (width, 144 * width)
    yield from bn("feature.1", width)
    yield "feature.2.weight", (dim, width)
    yield from bn("feature.3", dim)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(state, name, x, heads=8):
    width = x.shape[2]
    query, key, value = linear(state, f"{name}.qkv", x).chunk(3, dim=2)
    parts = []
    for head in range(heads):
        own = slice(head * width // heads, (head + 1) * width // heads)
        cosines = torch.einsum("bqc,bkc->bqk", query[..., own], key[..., own]) / math.sqrt(width // heads)
        parts.append(cosines.softmax(dim=2) @ value[..., own])
    return linear(state, f"{name}.proj", torch.cat(parts, dim=2))


def blocks(state, depth, x):
    for block in range(depth):
        at = f"blocks.{block}"
        x = x + attention(state, f"{at}.attn", layer_norm(state, f"{at}.norm1", x))
        inner = linear(state, f"{at}.mlp.fc1", layer_norm(state, f"{at}.norm2", x)).clamp(0, 6)
        x = x + linear(state, f"{at}.mlp.fc2", inner)
    return layer_norm(state, "norm", x)


def tokens_of(state, x):
    width, patches = len(state["patch_embed.proj.weight"]), x[:, :, :108, :108].unfold(2, 9, 9).unfold(3, 9, 9)
    flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(x), 144, 3 * 9 * 9)
    kernel = state["patch_embed.proj.weight"].reshape(width, 3 * 9 * 9)
    return F.linear(flat, kernel, state["patch_embed.proj.bias"]) + state["pos_embed"]


def feature(state, tokens, training=False):
    x = tokens.reshape(len(tokens), -1)
    for layer, norm in (("feature.0", "feature.1"), ("feature.2", "feature.3")):
        x = linear(state, layer, x)
        mean, var = (
            (x.mean(0), x.var(0, correction=0))
            if training
            else (state[f"{norm}.running_mean"], state[f"{norm}.running_var"])
        )
        x = (x - mean) / (var + 2e-5).sqrt() * state[f"{norm}.weight"] + state[f"{norm}.bias"]
    return x


def functional_forward(state, depth, x):
    return feature(state, blocks(state, depth, tokens_of(state, x)))


def randomised(backbone, seed=0):
    """Weights and statistics under which every parameter matters and nothing overflows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in backbone.state_dict().items():
        if tensor.dtype == torch.int64:
            continue
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "1.weight", "3.weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.5, 0.5, generator=generator)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.ndim != 3 else 0.5, generator=generator)
    return backbone.eval()


def pictures(count=2, dtype=torch.float64, seed=1):
    return torch.rand(count, 3, 112, 112, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dim", [512, 37])
def test_ViT_has_the_published_parameters_and_settings(name, dim):
    with torch.device("meta"):
        backbone = build(name, dim)
    width, depth, drop_path, kept = NETWORKS[name]
    ours = [(key, tuple(tensor.shape)) for key, tensor in backbone.state_dict().items()]
    assert ours == list(published_state(width, depth, dim))
    assert backbone.blocks[0].drop_path == 0
    assert backbone.blocks[1].drop_path == pytest.approx(drop_path / (depth - 1))
    assert backbone.blocks[-1].drop_path == pytest.approx(drop_path)
    assert backbone.num_kept == kept
    assert backbone.mask_token.requires_grad == (kept < 144)
    assert backbone.recompute == (depth == 24)


@pytest.mark.parametrize("name", ["vit_t", "vit_t_dp005_mask0"])
def test_ViT_forward_equals_a_functional_reference(name):
    backbone = randomised(build(name, 64).double())
    with torch.inference_mode():
        ours = backbone(pictures())
        theirs = functional_forward(backbone.state_dict(), 12, pictures())
    assert ours.shape == (2, 64)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_ViT_gradients_equal_those_of_a_functional_reference():
    backbone = randomised(build("vit_t", 16).double())
    backbone(pictures(1)).square().sum().backward()
    leaves = {name: tensor.clone().requires_grad_(tensor.is_floating_point()) for name, tensor in named(backbone)}
    functional_forward(leaves, 12, pictures(1)).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        if name == "mask_token":  # not used in evaluation mode
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=1e-8, atol=1e-10, msg=name)


def named(backbone):
    return [(name, tensor.detach()) for name, tensor in backbone.state_dict().items()]


def test_ViT_ignores_the_last_four_rows_and_columns():
    backbone, x = randomised(build("vit_t", 8)), pictures(1, torch.float32)
    hidden = x.clone()
    hidden[:, :, 108:], hidden[:, :, :, 108:] = 5, 5
    with torch.inference_mode():
        assert backbone(x).equal(backbone(hidden))
        hidden[:, :, 107, 107] = 5
        assert not backbone(x).equal(backbone(hidden))


@pytest.mark.slow
def test_ViT_masked_tokens_skip_the_blocks_and_become_the_mask_token(monkeypatch):
    """The same draw in functions: 129 of 144 tokens, different ones for each picture, pass through the blocks."""
    backbone = randomised(build("vit_t", 16, drop_path=0.0).double()).train()
    x, noise = pictures(3), torch.rand(3, 144, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch, "rand", lambda *_args, **_options: noise)
    state = {name: tensor.clone() for name, tensor in named(backbone)}
    ours = backbone(x)
    kept = noise.argsort(dim=1)[:, :129]
    assert kept[0].tolist() != kept[1].tolist()
    all_tokens, rows = tokens_of(state, x), []
    for tokens, places in zip(all_tokens, kept, strict=True):
        row = state["mask_token"][0].repeat(144, 1)
        row[places] = blocks(state, 12, tokens[None, places])[0]
        rows.append(row)
    torch.testing.assert_close(ours, feature(state, torch.stack(rows), training=True), rtol=1e-8, atol=1e-8)
    ours.square().sum().backward()
    assert backbone.mask_token.grad.abs().max() > 0


def test_ViT_without_masking_gives_every_trained_parameter_a_gradient():
    backbone = build("vit_t_dp005_mask0", 8)  # DistributedDataParallel asks for it
    backbone(pictures(2, torch.float32)).square().sum().backward()
    without = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("options", [{"drop_path": 0.5, "mask_ratio": 0.0}, {"drop_path": 0.0, "mask_ratio": 0.3}])
def test_ViT_drop_path_and_mask_ratio_act_only_in_training(options):
    backbone, x = randomised(build("vit_t", 8, **options)), pictures(2, torch.float32)
    with torch.no_grad():
        assert backbone(x).equal(backbone(x))
        backbone.train()
        torch.manual_seed(0)
        first = backbone(x)
        assert not first.equal(backbone(x))
        torch.manual_seed(0)
        assert first.equal(backbone(x))


def test_ViT_drop_path_keeps_the_mean_of_a_branch():
    """A branch of ones is 0 or 1/(1 − p), with probability p and 1 − p, for a whole picture."""
    torch.manual_seed(0)
    block = build("vit_t", 8, drop_path=0.3).blocks[-1]
    dropped = block._drop_path(torch.ones(20_000, 2, 3))
    values = dropped[:, :1, :1].expand_as(dropped)
    assert dropped.equal(values)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (dropped > 0).float().mean() == pytest.approx(0.7, abs=0.015)  # over four standard errors


@pytest.mark.slow
def test_ViT_recompute_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        backbone = build("vit_t", 8, drop_path=0.4, recompute=recompute)
        backbone(pictures(2, torch.float32)).square().sum().backward()
        gradients.append([p.grad for p in backbone.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


def test_ViT_under_bf16_autocast_keeps_residual_stream_and_embedding_in_float32():
    backbone, x = randomised(build("vit_t", 32)), pictures(2, torch.float32)
    seen = []
    backbone.blocks[3].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    backbone.blocks[3].mlp.fc1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.no_grad():
        plain = backbone(x)
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            low = backbone(x)
    assert seen == [torch.bfloat16, torch.float32]
    assert low.dtype == torch.float32
    assert torch.cosine_similarity(low, plain).min() > 0.99


@pytest.mark.slow
def test_ViT_is_saved_loaded_and_exported_to_ONNX(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    monkeypatch.setitem(BACKBONES, "vit_x", partial(ViT, 32, 2))
    options = {"drop_path": 0.2, "mask_ratio": 0.5}
    save_model(tmp_path, randomised(build("vit_x", 8, **options)), ModelCard("vit_x", 8, options))
    backbone, _card = load_model(tmp_path)
    assert backbone.num_kept == 72
    assert export(tmp_path, tmp_path / "model.onnx").parity < 1e-4


def test_ViT_keeps_at_least_one_token():
    backbone = build("vit_t", 8, mask_ratio=0.999)
    assert backbone.num_kept == 1
    assert backbone(pictures(2, torch.float32)).isfinite().all()


@pytest.mark.parametrize("option", ["drop_path", "mask_ratio"])
def test_ViT_refuses_drop_path_and_mask_ratio_out_of_range(option):
    for value in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=rf"{option} must lie in \[0, 1\), got {value}"):
            build("vit_t", 8, **{option: value})
