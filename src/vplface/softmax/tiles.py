"""Tiles of classes, and the operations inside a tile, by torch.

In the notation of ``reference``, Z_j is any multiple of u_j, and ρ_j = u_j/Z_j. With S_j = 1 − λ where the memory of
class j is alive and 1 elsewhere, Z_j = W_j + (1/S_j − 1)·‖W_j‖·M_j.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from vplface.optim import Momentum
from vplface.softmax.own import OwnPlaces

TILE = {"cpu": 3 * 2**18}
"""Elements of a tile of W, by kind of device: on a CPU a tile of each core should fit the cache that they share."""
LARGE_TILE = 2**25
"""The same on every other device, which has to be kept busy."""
SHORTEST = 1e-12
"""The length below which a vector has no direction (the ε of torch's normalize)."""
_FEWEST, _SHARE = 256, 16
_TILE_BUFFERS = 6

Scratch: TypeAlias = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Gives a buffer by name, shape and type; its contents are whatever was left there."""


def tile_bytes(classes: int, width: int, device: torch.device) -> int:
    """Approximate bytes of the temporary tensors of the tiles at work; ``width`` is the larger of d and B."""
    at_once = torch.get_num_threads() if device.type == "cpu" else 1
    return _TILE_BUFFERS * 4 * width * min(at_once * tile_size(classes, width, device), classes)


def tile_size(classes: int, width: int, device: torch.device) -> int:
    """Number of classes in a tile; ``width`` is the larger of d and B.

    On a CPU few classes are divided too, so that every core has some.
    """
    largest = max(TILE.get(device.type, LARGE_TILE) // width, 1)
    return min(largest, max(-(-classes // _SHARE), _FEWEST)) if device.type in TILE else largest


@dataclass(frozen=True)
class Tile:
    """Classes side by side.

    Attributes:
        rows: of W.
        weight: W of these rows.
        length: ‖W_j‖, written by the first ``mix``.
        ratio: ρ_j, likewise.
        share: S_j; None without memory.
        memory: M of these rows; None where none of them is alive.
        renormalise: whether u has unit length.
        scratch: buffers that the next tile overwrites.
    """

    rows: slice
    weight: Float[Tensor, "tile dim"]
    length: Float[Tensor, "tile 1"]
    ratio: Float[Tensor, "tile 1"]
    share: Float[Tensor, "tile 1"] | None
    memory: Float[Tensor, "tile dim"] | None
    renormalise: bool
    scratch: Scratch

    @property
    def memory_and_share(self) -> tuple[Tensor, Tensor]:
        """M and S for a kernel; in the place of one that is None a tensor of the same type that is not read."""
        memory = self.weight if self.memory is None else self.memory
        return memory, self.length if self.share is None else self.share


class Mixture(NamedTuple):
    """Z of a tile, in buffers that the next tile overwrites.

    Attributes:
        exact: Z in the type of the computation; None where an implementation does not need it.
        operand: Z in the type of products.
    """

    exact: Float[Tensor, "tile dim"] | None
    operand: Float[Tensor, "tile dim"]


class TileOperations(Protocol):
    """The operations inside a tile, apart from its products. An implementation keeps nothing between calls.

    Attributes:
        name: the library that computes them.
        parallel: whether several threads of a CPU may each compute a tile at once.
    """

    name: ClassVar[str]
    parallel: ClassVar[bool]

    def mix(self, tile: Tile, dtype: torch.dtype, *, first: bool) -> Mixture:
        """Z of a tile, in type ``dtype`` for products; the first call of a step also writes ‖W‖ and ρ."""

    def exponentials(
        self, tile: Tile, cosines: Tensor, own: OwnPlaces, scale: float, kept: Tensor | None
    ) -> Float[Tensor, " batch"]:
        """Σ_j e_ji, with e_ji = exp(s·ρ_j·Z_j·x_i), and 0 where j = y_i; ρ_j·e_ji goes to ``kept``.

        Args:
            tile: of classes.
            cosines: Z·xᵀ, which may be overwritten.
            own: where j = y_i.
            scale: s.
            kept: takes ρ_j·e_ji, in its own type.
        """

    def project(
        self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"]
    ) -> Float[Tensor, "tile dim"]:
        """dL/dW from h = dL/dZ: h less its component along Z, if u has unit length, and then along W."""

    def move(self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"], rule: Momentum) -> bool:
        """Move W and its momentum with dL/dW in the same pass; False where the implementation cannot."""


class TorchTiles:
    """The operations inside a tile by torch's own."""

    name: ClassVar[str] = "torch"
    parallel: ClassVar[bool] = True

    def mix(self, tile: Tile, dtype: torch.dtype, *, first: bool) -> Mixture:
        """Z of a tile; see ``TileOperations``."""
        kind, length, ratio = tile.ratio.dtype, tile.length, tile.ratio
        weight = tile.weight.to(kind)
        if first:
            vector_norm(weight, dim=1, keepdim=True, out=length).clamp_min_(SHORTEST)
            torch.reciprocal(length, out=ratio)
        mixture = weight
        if tile.memory is not None and tile.share is not None:
            factor = (tile.share.reciprocal() - 1.0) * length
            buffer = tile.scratch("mixture", tuple(weight.shape), kind)
            mixture = torch.addcmul(weight, tile.memory.to(kind), factor, out=buffer)
            if first and tile.renormalise:
                vector_norm(mixture, dim=1, keepdim=True, out=ratio).clamp_min_(SHORTEST).reciprocal_()
            elif first:
                ratio *= tile.share
        if mixture.dtype == dtype:
            return Mixture(mixture, mixture)
        return Mixture(mixture, tile.scratch("operand", tuple(mixture.shape), dtype).copy_(mixture))

    def exponentials(
        self, tile: Tile, cosines: Tensor, own: OwnPlaces, scale: float, kept: Tensor | None
    ) -> Float[Tensor, " batch"]:
        """Σ_j e_ji; see ``TileOperations``."""
        logits = cosines.to(tile.ratio.dtype).mul_(scale * tile.ratio)
        own.fill(logits, tile.rows, -torch.inf)
        logits.exp_()
        if kept is not None:
            torch.mul(logits, tile.ratio, out=kept)
        return logits.sum(0)

    def project(
        self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"]
    ) -> Float[Tensor, "tile dim"]:
        """dL/dW from h; see ``TileOperations``."""
        gradient = grad_mixture.to(tile.ratio.dtype)
        if tile.memory is not None and tile.renormalise:
            assert mixture.exact is not None
            _remove(mixture.exact, gradient, -tile.ratio.square())
        _remove(tile.weight.to(gradient.dtype), gradient, -tile.length.square().reciprocal())
        return gradient

    def move(self, tile: Tile, mixture: Mixture, grad_mixture: Float[Tensor, "tile dim"], rule: Momentum) -> bool:
        """Leave the move to the optimiser."""
        return False


def _remove(direction: Tensor, vectors: Tensor, coefficient: Tensor) -> None:
    """Take from each vector, in place, its component along a direction; the coefficient is −1/‖direction‖²."""
    vectors.addcmul_(direction, vecdot(vectors, direction).unsqueeze(1).mul_(coefficient))
