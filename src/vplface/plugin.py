"""``plug``: variational prototypes inside somebody else's classifier.

Its weight W is read through a parametrisation (``torch.nn.utils.parametrize``) that injects the memory. Their forward,
their optimiser and their checkpoints stay as they are. The prototypes, the memory and what a step is are those of
``PrototypeHead``; here is only what it takes to live in a module that knows nothing of them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from vplface.bounds import require_whole
from vplface.prototypes import (
    Draw,
    Injection,
    Variational,
    check_batch,
    coverage,
    last_samples,
    require_memory_dtype,
)
from vplface.prototypes.kind import other_kind, told_kind
from vplface.prototypes.memory import State, number_type
from vplface.prototypes.missing import missing_memory
from vplface.ranks import Ranks
from vplface.uncompiled import uncompiled

Layout = Literal["rows", "columns"]

FORGOTTEN = 100
"""Looks at a weight in training after which somebody is reminded of ``remember``."""


class _Batch(NamedTuple):
    """The part of a step that this process has seen."""

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    counts: list[int]  # of each rank


def plug(
    module: nn.Module,
    name: str,
    variational: Variational | None = None,
    *,
    layout: Layout | None = None,
    sub_centers: int | None = None,
    remember: tuple[str, str] | Literal["auto", "call"] = "auto",
    process_group: dist.ProcessGroup | None = None,
    memory_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Plugged:
    """Make the weight of a classifier variational, in place.

    In a step (training mode, gradients enabled) the module finds, instead of its weight W,

        W̃_j = ‖W_j‖·u_j    where T_j > 0, u_j the variational prototype of v_j = W_j/‖W_j‖;    W̃_j = W_j elsewhere

    so that the length of each class's weight stays what its owner made it. Otherwise it finds W itself. A class whose
    weight is zero has no direction and stays plain.

    A module whose forward takes ``embeddings`` and ``labels`` (all losses of pytorch-metric-learning) is remembered by
    itself: each such forward is a step. For any other call ``remember`` once a step, after the loss is formed; whoever
    forgets it is warned.

    Args:
        module: which holds the weight, somewhere.
        name: of the parameter, as ``module.named_parameters()`` has it: ``"W"``, ``"weight"``, ``"head.fc.weight"``.
        variational: λ, Δt, start, and what is remembered; ``Variational()`` unless given.
        layout: ``"rows"`` for W of [N, d], ``"columns"`` for [d, N]. None: known for ``nn.Linear`` and for W of
            pytorch-metric-learning, else inferred from the attributes ``embedding_dim``, ``embedding_size``,
            ``in_features``, ``num_classes`` and ``out_features`` of the module that has the parameter.
        sub_centers: K, where class j has the K successive rows (columns) j·K … j·K + K − 1; the memory of a class is
            injected into all of them. None: the attribute ``sub_centers`` of the module, or 1.
        remember: ``"auto"``, as said above; ``"call"`` to call ``remember`` in any case; or the names of the two
            arguments of ``module.forward`` that are embeddings and labels.
        process_group: ranks of data-parallel training, each with all of W and its part of the batch: what all of them
            see is remembered, so that M and T are the same everywhere. All have to take the same steps. None: each
            process remembers what it sees.
        memory_dtype: type of the memory, kept whatever the module is cast to; None: that of W.
        seed: of kinds of memory that draw.

    Returns:
        The handle: what is remembered, how to remember, and how to undo.

    Raises:
        ValueError: if there is no such parameter, it is no classifier's weight, its layout cannot be told, or it is
            parametrised already.

    Examples:
        >>> loss_func = ArcFaceLoss(1000, 512)  # of pytorch-metric-learning
        >>> handle = plug(loss_func, "W", Variational(lam=0.15, delta_t=100, start=2000))
        >>> loss_func(embeddings, labels).backward()

        >>> handle = plug(classifier, "weight", Variational(lam=0.15, delta_t=100, start=2000))  # an nn.Linear
        >>> loss = cross_entropy(classifier(embeddings), labels)
        >>> handle.remember(embeddings, labels)
    """
    path, _, leaf = name.rpartition(".")
    owner = _owner(module, path, leaf)
    weight = getattr(owner, leaf)
    kind = type(owner).__name__
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"{name} of {kind} is {list(weight.shape)} {weight.dtype}; a classifier's weight is a matrix")
    if sub_centers is None:
        sub_centers = int(getattr(owner, "sub_centers", 1))
    require_whole(sub_centers=sub_centers)
    require_memory_dtype(memory_dtype)
    layout = _layout(owner, leaf, weight.shape, sub_centers) if layout is None else layout
    if layout not in ("rows", "columns"):
        raise ValueError(f"layout must be 'rows' or 'columns', got {layout!r}")
    rows, dim = weight.shape if layout == "rows" else weight.shape[::-1]
    num_classes, rest = divmod(rows, sub_centers) if sub_centers >= 1 else (0, 1)
    if rest or num_classes < 2:
        raise ValueError(f"{rows} {layout} of {name} are not 2 or more classes of sub_centers={sub_centers}")
    handle = Plugged(
        Variational() if variational is None else variational,
        num_classes,
        dim,
        layout=layout,
        sub_centers=sub_centers,
        ranks=None if process_group is None else Ranks(process_group, num_classes),
        memory_dtype=memory_dtype,
        seed=seed,
    )
    handle._enter(owner, leaf, module, _arguments(module, remember))
    return handle


class Plugged(nn.Module):
    """The handle that ``plug`` returns; as a module, the parametrisation of the weight.

    Attributes:
        num_classes: N.
        embedding_dim: d.
        variational: λ, Δt, start, and what is remembered.
        step_count: steps taken.
        begun_at: the step whose features are the first to be remembered; None while ``start="auto"`` waits.
        delta_t: Δt; None while it is not decided.
        by_itself: whether ``module.forward`` tells what to remember, so that ``remember`` is not to be called.
        ranks: the ranks that remember together, if any.
    """

    begun_at: int | None
    delta_t: int | None

    def __init__(
        self,
        variational: Variational,
        num_classes: int,
        embedding_dim: int,
        *,
        layout: Layout,
        sub_centers: int,
        ranks: Ranks | None,
        memory_dtype: torch.dtype | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.variational = variational
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.layout = layout
        self.sub_centers = sub_centers
        self.ranks = ranks
        self.memory_dtype = memory_dtype
        self.seed = seed
        self.by_itself = False
        self._start_anew()
        # Not buffers: DistributedDataParallel would overwrite them with those of the first rank, and the handle may be
        # an attribute of a second module.
        self._state: State = {}
        self._reserved = False  # whether the memory has only been given a place
        self._pending: list[_Batch] = []
        self._gathering = False
        self._looks = 0
        # Where the weight is; in a tuple, so that the owner is not taken for a part of its own part.
        self._place: tuple[nn.Module, str] | None = None
        self._given: _Batch | None = None

    def _start_anew(self) -> None:
        self.step_count = 0
        self.delta_t = self.variational.delta_t
        self.begun_at = None if self.variational.start == "auto" else self.variational.start

    @uncompiled
    def forward(self, weight: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
        """What the module finds in place of its weight."""
        if not self._takes_step:
            return weight
        if not (self.by_itself or self.step_count or self._gathering):
            self._remind()
        if not self._state:
            return weight
        exact = (weight if self.layout == "rows" else weight.t()).to(number_type(weight.dtype))
        injection = self._injection()
        rows: Tensor | slice = slice(None)
        if self.sub_centers > 1:
            rows = torch.arange(self.num_classes, device=exact.device).repeat_interleave(self.sub_centers)
        length = exact.norm(dim=1, keepdim=True)
        drawn = length * injection(normalize(exact, dim=1), rows)
        injected = (injection.timer[rows] > 0).unsqueeze(1) & (length > 0)
        mixed = torch.where(injected, drawn, exact).to(weight.dtype)
        return mixed if self.layout == "rows" else mixed.t()

    def _remind(self) -> None:
        self._looks += 1
        if self._looks == FORGOTTEN:
            warnings.warn(
                f"{FORGOTTEN} forwards in training and not one remember(): nothing will be remembered or injected;"
                " call handle.remember(embeddings, labels) once a step",
                stacklevel=2,
            )

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned to the module's weight becomes W."""
        return weight

    def remember(self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> None:
        """End a step: M_y ← x and T_y ← Δt for its samples, T ← max(T − 1, 0) for the classes not seen.

        To be called once a step, after the loss is formed, before or after ``backward()``. In eval mode and under
        ``no_grad`` there is no step, and this does nothing.

        Args:
            embeddings: of the step's batch, of any length; normalised here. They may be those of a momentum encoder.
            labels: int64 class ids in [0, N).

        Raises:
            TypeError: for a wrong dtype.
            ValueError: for a wrong shape, a label out of range, and NaN, infinite or zero embeddings.
            RuntimeError: if the module's forward is remembered by itself, or the handle was removed.
        """
        if self.by_itself:
            raise RuntimeError(
                "the forward of this module is given embeddings and labels, and remembered by itself; plug it with"
                " remember='call' to call remember() instead"
            )
        if self._takes_step:
            self._take(self._batch(embeddings, labels))

    @contextmanager
    def micro_batches(self) -> Iterator[None]:
        """Make all that is seen inside one step: the same memory for all, which is written and aged once, at the end.

        Raises:
            RuntimeError: if nested.
        """
        if self._gathering:
            raise RuntimeError("micro_batches() is already active; it cannot be nested")
        self._gathering = True
        try:
            yield
        except BaseException:
            self._pending.clear()
            raise
        finally:
            self._gathering = False
        self._finish_step()

    def begin(self, delta_t: int | None = None) -> None:
        """Let memory come into being with the next step, as ``PrototypeHead.begin`` does.

        Args:
            delta_t: Δt; None takes that of ``variational``.

        Raises:
            ValueError: if neither says Δt, or it is less than a step.
            RuntimeError: inside ``micro_batches()``, or if injection has begun before.
        """
        if self._gathering:
            raise RuntimeError("begin() was called inside micro_batches(), in the middle of a step; call it after")
        if self._state and not self._reserved:
            raise RuntimeError(f"injection has begun at step {self.begun_at} already")
        self.begun_at, self.delta_t = self.step_count, self.variational.lifetime(delta_t)

    def create_memory(self) -> None:
        """Make the memory, empty, before it begins, as ``PrototypeHead.create_memory`` does.

        Raises:
            RuntimeError: if the handle was removed.
        """
        if not self._state:
            self._state = self._empty()
            self._reserved = True

    @property
    def weight(self) -> nn.Parameter:
        """W itself, the parameter that optimisers move."""
        owner, leaf = self._require_plugged()
        original = _parametrized(owner, leaf).original
        assert isinstance(original, nn.Parameter)
        return original

    @property
    def memory(self) -> Float[Tensor, "classes ... dim"] | None:
        """M, [N, d], unit rows where the timer is positive; None until the first step that is remembered."""
        return self._state.get("memory")

    @property
    def timer(self) -> Int[Tensor, "classes ..."] | None:
        """T, [N] int32: for how many steps a class will still be injected; None until then."""
        return self._state.get("timer")

    def coverage(self) -> float:
        """The share of classes whose memory is alive."""
        return coverage(self.timer)

    def remove(self) -> None:
        """Give the module its parameter back, the very same object, with the values it has now.

        Raises:
            RuntimeError: if the handle was removed before.
        """
        owner, leaf = self._require_plugged()
        kind = type(owner)  # copies of the module share it, and torch is about to take the weight away from it
        owner.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        parametrize.remove_parametrizations(owner, leaf, leave_parametrized=False)
        for hook in self._hooks:
            hook.remove()
        self._place = None
        for name in self._order:  # optimisers number parameters in the order of their module
            if name in owner._parameters:
                owner._parameters[name] = owner._parameters.pop(name)

    def extra_repr(self) -> str:
        """Sizes and parts, for ``print(module)``."""
        centers = f", sub_centers={self.sub_centers}" if self.sub_centers > 1 else ""
        return f"{self.num_classes}, {self.embedding_dim}{centers}, variational={self.variational}"

    def _enter(self, owner: nn.Module, leaf: str, seen: nn.Module, arguments: tuple[str, str] | None) -> None:
        self._order = tuple(owner._parameters)
        self._place = (owner, leaf)
        parametrize.register_parametrization(owner, leaf, self)
        self._hooks: list[RemovableHandle] = [
            # Functions that look the handle up, so that copies of the owner find their own.
            owner.register_state_dict_post_hook(partial(_save, leaf)),  # type: ignore[no-untyped-call]
            owner.register_load_state_dict_pre_hook(partial(_load, leaf)),  # type: ignore[no-untyped-call]
        ]
        if arguments is not None:
            self.by_itself = True
            self._arguments = arguments
            self._hooks += [
                seen.register_forward_pre_hook(self._before, with_kwargs=True),
                seen.register_forward_hook(self._after),
            ]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given = None
        if self._takes_step:
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            embeddings, labels = (given.get(name) for name in self._arguments)
            if embeddings is not None and labels is not None:  # without labels it is no step
                self._given = self._batch(embeddings, labels)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._given is not None:
            self._take(self._given)
            self._given = None

    @property
    def _takes_step(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _require_plugged(self) -> tuple[nn.Module, str]:
        if self._place is None:
            raise RuntimeError("this handle was removed; plug the module again")
        return self._place

    def _batch(self, embeddings: Tensor, labels: Tensor) -> _Batch:
        fault: Exception | None = None
        try:
            check_batch(labels, self.num_classes, self.embedding_dim, embeddings=embeddings)
        except (TypeError, ValueError) as error:
            if self.ranks is None:
                raise
            fault = error
        counts = [len(labels)] if self.ranks is None else self.ranks.agree(len(labels), fault, self.weight.device)
        features = normalize(embeddings.detach().to(self.weight.device, number_type(embeddings.dtype)), dim=1)
        return _Batch(features, labels.to(features.device), counts)

    def _take(self, batch: _Batch) -> None:
        self._pending.append(batch)
        if not self._gathering:
            self._finish_step()

    def _finish_step(self) -> None:
        if not self._pending:
            return
        features, labels = (torch.cat(parts) for parts in list(zip(*self._pending, strict=True))[:2])
        if self.ranks is not None:  # in the order of the whole batch: of each rank all its micro-batches
            counts = [sum(of_rank) for of_rank in zip(*(batch.counts for batch in self._pending), strict=True)]
            features, labels = (self.ranks.gather(part, counts) for part in (features, labels))
        self._pending.clear()
        if self.begun_at is not None and self.step_count >= self.begun_at:
            self._reserved = False
            self._state = self._state or self._empty()
        self.step_count += 1
        if self._state and not self._reserved:
            assert self.delta_t is not None
            kind = self.variational.memory
            seen, last = last_samples(labels)
            rows = kind.home(seen, self.num_classes, self.seed)
            kind.remember(self._state, features[last], rows, self.delta_t, lambda part: part)

    def _injection(self) -> Injection:
        chosen = self.variational
        recall = chosen.memory.recall(self._state, Draw(range(self.num_classes), self.seed, self.step_count))
        return Injection(self._state["memory"], self._state["timer"], chosen.lam, chosen.renormalise, recall)

    def _empty(self) -> State:
        weight = self.weight
        dtype = self.memory_dtype or weight.dtype
        return self.variational.memory.empty(self.num_classes, self.embedding_dim, dtype, weight.device, self.seed)

    def __getstate__(self) -> dict[str, Any]:
        if self._gathering:
            raise RuntimeError(
                "a plugged module cannot be copied inside micro_batches(), in the middle of a step; do it after"
            )
        return self.__dict__.copy()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Plugged:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self._state.items():
            moved = fn(tensor)
            follows = name == "memory" and self.memory_dtype is None
            self._state[name] = moved if follows else tensor.to(moved.device)
        return self


def _parametrized(owner: nn.Module, leaf: str) -> parametrize.ParametrizationList:
    found = owner.parametrizations[leaf]  # type: ignore[index]
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _handle(owner: nn.Module, leaf: str) -> Plugged:
    found = _parametrized(owner, leaf)[0]
    assert isinstance(found, Plugged)
    return found


def _save(leaf: str, owner: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """W under the key it had before, and beside it what is remembered."""
    handle, key = _handle(owner, leaf), prefix + leaf
    state[key] = state.pop(f"{prefix}parametrizations.{leaf}.original")
    for name, tensor in handle._state.items():
        state[f"{key}_{name}"] = tensor
    state[f"{key}_step_count"] = torch.tensor(handle.step_count)
    chosen = handle.variational
    if (handle.begun_at, handle.delta_t) != (chosen.start, chosen.delta_t):
        state[f"{key}_begun_at"] = torch.tensor(-1 if handle.begun_at is None else handle.begun_at)
        state[f"{key}_delta_t"] = torch.tensor(-1 if handle.delta_t is None else handle.delta_t)
    told = told_kind(chosen.memory)
    if handle._state and told is not None:
        state[f"{key}_memory_kind"] = told


def _load(
    leaf: str,
    owner: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """The other way; a state without what is remembered is one from before the first step."""
    handle, key = _handle(owner, leaf), prefix + leaf
    original = handle.weight
    if not any(name == key or name.startswith(f"{key}_") for name in state):  # a state of other modules
        missing_keys.append(key)
        state[f"{prefix}parametrizations.{leaf}.original"] = original
        return
    if key not in state:
        missing_keys.append(key)
    state[f"{prefix}parametrizations.{leaf}.original"] = state.pop(key, original)
    handle._pending.clear()
    handle._state, handle._reserved = {}, False
    handle._start_anew()
    if f"{key}_step_count" not in state and f"{key}_memory" in state:
        missing_keys.append(f"{key}_step_count")
    handle.step_count = int(state.pop(f"{key}_step_count", 0))
    begun_at, delta_t = (state.pop(f"{key}_{name}", None) for name in ("begun_at", "delta_t"))
    has_begin = begun_at is not None and delta_t is not None
    if has_begin and int(begun_at) >= 0:  # else it waits
        handle.begun_at, handle.delta_t = int(begun_at), int(delta_t)
    told = state.pop(f"{key}_memory_kind", None)
    kind = handle.variational.memory
    if f"{key}_memory" not in state:
        if handle.begun_at is not None and handle.step_count > handle.begun_at:
            missing_keys.extend(missing_memory([f"{key}_{name}" for name in (*kind.per_class, *kind.shared)]))
        return
    stored = other_kind(kind, told)
    empty = handle._empty()
    found = {name: state.pop(f"{key}_{name}") for name in empty if f"{key}_{name}" in state}
    if stored is not None:
        error_msgs.append(f"{key}: the state holds a memory of the kind {stored}, the plug has {type(kind).__name__}()")
    elif wrong := [name for name in empty if name not in found or found[name].shape != empty[name].shape]:
        error_msgs.append(
            f"{key}_{wrong[0]}: {list(empty[wrong[0]].shape)} is needed,"
            f" the state has {list(found[wrong[0]].shape) if wrong[0] in found else 'none'}"
        )
    else:
        handle._state = {name: empty[name].copy_(found[name]) for name in empty}
        handle._reserved = has_begin and int(begun_at) < 0
        if handle._reserved:
            return
        handle.begun_at = handle.step_count if handle.begun_at is None else handle.begun_at
        if handle.delta_t is None:
            error_msgs.append(f"{key}: the state has a memory and does not say Δt: give variational one")


def _owner(module: nn.Module, path: str, leaf: str) -> nn.Module:
    """The module that has the parameter."""
    name = f"{path}.{leaf}" if path else leaf
    try:
        owner = module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"{type(module).__name__} has no part {path!r}, so no parameter {name!r}") from error
    if parametrize.is_parametrized(owner, leaf):
        first = _parametrized(owner, leaf)[0]
        how = "plugged; remove() that handle first" if isinstance(first, Plugged) else f"parametrised, by {first}"
        raise ValueError(f"{name} of {type(owner).__name__} is already {how}")
    if owner._parameters.get(leaf) is None:
        there = ", ".join(each for each, _ in module.named_parameters()) or "none"
        raise ValueError(f"{type(module).__name__} has no parameter {name!r}; its parameters: {there}")
    return owner


def _layout(owner: nn.Module, leaf: str, shape: torch.Size, sub_centers: int) -> Layout:
    """Which side of W the classes are on."""
    if isinstance(owner, nn.Linear):
        return "rows"
    if leaf == "W" and any(base.__module__.startswith("pytorch_metric_learning.") for base in type(owner).__mro__):
        return "columns"
    told = {
        "dim": [getattr(owner, name, None) for name in ("embedding_dim", "embedding_size", "in_features")],
        "classes": [getattr(owner, name, None) for name in ("num_classes", "out_features")],
    }
    dims = [size for size in told["dim"] if isinstance(size, int) and size > 0]
    classes = [size * sub_centers for size in told["classes"] if isinstance(size, int) and size > 0]
    fitting: Mapping[Layout, bool] = {
        "rows": set(dims) <= {shape[1]} and set(classes) <= {shape[0]},
        "columns": set(dims) <= {shape[0]} and set(classes) <= {shape[1]},
    }
    possible = [layout for layout, fits in fitting.items() if fits]
    if len(possible) == 1:
        return possible[0]
    raise ValueError(
        f"{leaf} of {type(owner).__name__} is {list(shape)}, and which side the classes are on cannot be told from it;"
        " say layout='rows' for [classes, dim] or layout='columns' for [dim, classes]"
    )


def _arguments(module: nn.Module, remember: tuple[str, str] | Literal["auto", "call"]) -> tuple[str, str] | None:
    """The arguments of its forward that are remembered; None if ``remember`` is to be called."""
    if remember == "call":
        return None
    names = ("embeddings", "labels") if remember == "auto" else remember
    if not (isinstance(names, tuple) and len(names) == 2):
        raise ValueError(f"remember must be 'auto', 'call' or the names of two arguments of forward, got {remember!r}")
    known = inspect.signature(module.forward).parameters
    if set(names) <= set(known):
        return names
    if remember == "auto":
        return None
    raise ValueError(f"forward of {type(module).__name__} has {', '.join(known)}, and not both of {names}")
