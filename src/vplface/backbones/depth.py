"""Depth of the parameters of a backbone: the order of its blocks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from vplface.backbones.timm import Timm


def depths(backbone: nn.Module) -> dict[str, int]:
    """Depth of each parameter and buffer: 0 before the first of L blocks, k in block k, L + 1 after the last.

    Of IResNet, MobileFaceNet, ViT and Tiny the residual units, bottlenecks and transformer blocks count, which are
    their ``blocks``; what lies between two blocks belongs to the later one. Of a timm model the groups of its
    ``group_matcher`` count, where it has one. Of any other network each layer with a matrix or a convolution is a
    block, with the layers without one that follow it; the first of them has depth 0, and the last L + 1.

    Args:
        backbone: its modules are registered in the order of the forward pass.

    Returns:
        The depth by name, in the order of the modules.
    """
    if isinstance(backbone, Timm) and hasattr(backbone.network, "group_matcher"):
        return _of_timm(backbone)
    blocks = getattr(backbone, "blocks", None)
    return _by_layers(backbone) if blocks is None else _by_blocks(backbone, list(blocks))


def last_depth(depth: Mapping[str, int]) -> int:
    """L + 1, the depth of what comes after the last block."""
    return max(depth.values(), default=0)


def _tensors(module: nn.Module, prefix: str) -> list[str]:
    """The names of the parameters and buffers of a module itself."""
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return [f"{prefix}.{name}" if prefix else name for name, _ in own]


def _by_blocks(backbone: nn.Module, blocks: list[nn.Module]) -> dict[str, int]:
    number_of = {id(part): number for number, block in enumerate(blocks, 1) for part in block.modules()}
    depth, passed = dict[str, int](), 0
    for prefix, module in backbone.named_modules():
        passed = max(passed, number_of.get(id(module), 0))
        outside = 0 if passed == 0 else passed + 1
        depth |= dict.fromkeys(_tensors(module, prefix), number_of.get(id(module), outside))
    return depth


def _by_layers(network: nn.Module) -> dict[str, int]:
    depth, passed = dict[str, int](), -1
    for prefix, module in network.named_modules():
        passed += any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        depth |= dict.fromkeys(_tensors(module, prefix), max(passed, 0))
    return depth


def _of_timm(backbone: Timm) -> dict[str, int]:
    from timm.models._manipulate import group_with_matcher

    network = backbone.network
    names = {name: None for prefix, module in network.named_modules() for name in _tensors(module, prefix)}
    matcher = network.group_matcher(coarse=False)  # type: ignore[operator]  # torch takes it for a tensor
    found: dict[str, int] = group_with_matcher(iter(names.items()), matcher, reverse=True)
    own = [name for prefix, module in backbone.named_modules() for name in _tensors(module, prefix)]
    last = max(found.values()) + 1
    return {name: found.get(name.removeprefix("network."), last) for name in own}
