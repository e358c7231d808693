"""Variational prototypes inside somebody else's classifier: ``plug`` and the handle that it returns.

The weight W of the classifier is read through a parametrisation (``torch.nn.utils.parametrize``) that injects the
memory. Forward, optimiser and checkpoints of the classifier stay as they are.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from vplface.bounds import require_whole
from vplface.classifier_inspection import Layout, forward_arguments, infer_layout, parameter_owner
from vplface.compile_disabled import compile_disabled
from vplface.prototypes import Variational
from vplface.prototypes.batch import check_own_batch
from vplface.prototypes.memory import number_type
from vplface.prototypes.owner import MemoryOwner
from vplface.prototypes.prototype_memory import PrototypeMemory
from vplface.prototypes.step import StepPart
from vplface.ranks import Ranks

FORGOTTEN = 100
"""Forward passes in training without ``remember`` after which a warning is given."""


# size: the options of the memory and of the classifier, most of which are seldom given
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
) -> VariationalWeight:
    """Make the weight of a classifier variational, in place.

    In a step (training mode, gradients enabled) the module finds, instead of its weight W,

        W̃_j = ‖W_j‖·u_j    where T_j > 0, u_j the variational prototype of v_j = W_j/‖W_j‖;    W̃_j = W_j elsewhere

    so that the length of each class's weight stays what its owner made it. Otherwise it finds W itself. A class whose
    weight is zero has no direction and stays plain.

    A module whose forward takes ``embeddings`` and ``labels`` (all losses of pytorch-metric-learning) is remembered by
    itself: each such forward is a step. For any other call ``remember`` once a step, after the loss is formed; a
    missing call gives a warning.

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
        ValueError: if there is no such parameter, it is no classifier's weight, its layout does not show, or it is
            parametrised already.

    Examples:
        >>> loss_func = ArcFaceLoss(1000, 512)  # of pytorch-metric-learning
        >>> handle = plug(loss_func, "W", Variational(lam=0.15, delta_t=100, start=2000))
        >>> loss_func(embeddings, labels).backward()

        >>> handle = plug(classifier, "weight", Variational(lam=0.15, delta_t=100, start=2000))  # an nn.Linear
        >>> loss = cross_entropy(classifier(embeddings), labels)
        >>> handle.remember(embeddings, labels)
    """
    owner, leaf = parameter_owner(module, name)
    weight = getattr(owner, leaf)
    kind = type(owner).__name__
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"{name} of {kind} is {list(weight.shape)} {weight.dtype}; a classifier's weight is a matrix")
    if sub_centers is None:
        sub_centers = int(getattr(owner, "sub_centers", 1))
    require_whole(sub_centers=sub_centers)
    layout = infer_layout(owner, leaf, weight.shape, sub_centers) if layout is None else layout
    if layout not in ("rows", "columns"):
        raise ValueError(f"layout must be 'rows' or 'columns', got {layout!r}")
    rows, dim = weight.shape if layout == "rows" else weight.shape[::-1]
    num_classes, rest = divmod(rows, sub_centers) if sub_centers >= 1 else (0, 1)
    if rest or num_classes < 2:
        raise ValueError(f"{rows} {layout} of {name} are not 2 or more classes of sub_centers={sub_centers}")
    memory = PrototypeMemory(
        Variational() if variational is None else variational, num_classes, dim, dtype=memory_dtype, seed=seed
    )
    ranks = None if process_group is None else Ranks(process_group, num_classes)
    handle = VariationalWeight(memory, layout=layout, sub_centers=sub_centers, ranks=ranks)
    handle._enter(owner, leaf, module, forward_arguments(module, remember))
    return handle


class VariationalWeight(MemoryOwner):
    """The handle that ``plug`` returns; as a module, the parametrisation of the weight.

    Attributes:
        num_classes: N.
        embedding_dim: d.
        by_itself: whether ``module.forward`` is given what is remembered, so that ``remember`` is not to be called.
        ranks: the ranks that remember together, if any. Each has the memory of all classes.
    """

    def __init__(self, memory: PrototypeMemory, *, layout: Layout, sub_centers: int, ranks: Ranks | None) -> None:
        super().__init__()
        # Not a submodule: DistributedDataParallel would overwrite its buffers with those of the first rank, and the
        # handle may be an attribute of a second module.
        self.__dict__["prototype_memory"] = memory
        self.num_classes = memory.num_classes
        self.embedding_dim = memory.embedding_dim
        self.layout = layout
        self.sub_centers = sub_centers
        self.ranks = ranks
        self.by_itself = False
        self._unremembered = 0  # forward passes
        # Where the weight is; in a tuple, so that the owner is not taken for a part of its own part.
        self._place: tuple[nn.Module, str] | None = None
        self._given: StepPart | None = None

    @compile_disabled
    def forward(self, weight: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
        """Compute W̃ from W."""
        if not self._takes_step:
            return weight
        if not (self.by_itself or self.step_count or self.prototype_memory.gathering):
            self._remind()
        injection = self.injection
        if injection is None:
            return weight
        exact = (weight if self.layout == "rows" else weight.t()).to(number_type(weight.dtype))
        rows: Tensor | slice = slice(None)
        if self.sub_centers > 1:
            rows = torch.arange(self.num_classes, device=exact.device).repeat_interleave(self.sub_centers)
        length = exact.norm(dim=1, keepdim=True)
        drawn = length * injection(normalize(exact, dim=1), rows)
        injected = (injection.timer[rows] > 0).unsqueeze(1) & (length > 0)
        mixed = torch.where(injected, drawn, exact).to(weight.dtype)
        return mixed if self.layout == "rows" else mixed.t()

    def _remind(self) -> None:
        self._unremembered += 1
        if self._unremembered == FORGOTTEN:
            warnings.warn(
                f"{FORGOTTEN} forwards in training and not one remember(): nothing will be remembered or injected;"
                " call handle.remember(embeddings, labels) once a step",
                stacklevel=2,
            )

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A tensor that is assigned to the module's weight becomes W."""
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
            self._remember(self._part(embeddings, labels))

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]  # the owner of the parameter is another module
        """W itself, the parameter that optimisers move."""
        owner, leaf = self._require_plugged()
        original = _parametrized(owner, leaf).original
        assert isinstance(original, nn.Parameter)
        return original

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
                self._given = self._part(embeddings, labels)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._given is not None:
            self._remember(self._given)
            self._given = None

    @property
    def _takes_step(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _require_plugged(self) -> tuple[nn.Module, str]:
        if self._place is None:
            raise RuntimeError("this handle was removed; plug the module again")
        return self._place

    def _part(self, embeddings: Tensor, labels: Tensor) -> StepPart:
        """A forward pass of all ranks that remember together."""
        device = self.weight.device
        check_own_batch(self.ranks, labels, self.num_classes, self.embedding_dim, device, embeddings=embeddings)
        features = normalize(embeddings.detach().to(device, number_type(embeddings.dtype)), dim=1)
        labels, counts = labels.to(device), [len(labels)]
        if self.ranks is not None:
            (features, labels), counts = self.ranks.gather(features, labels)
        return StepPart(features, labels, features, counts)

    def _remember(self, part: StepPart) -> None:
        self.prototype_memory.create_if_due(self.weight)
        self.prototype_memory.add(part)
        self.finish_step()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VariationalWeight:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.prototype_memory._apply(fn)
        return self


def _parametrized(owner: nn.Module, leaf: str) -> parametrize.ParametrizationList:
    found = owner.parametrizations[leaf]  # type: ignore[index]
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _handle(owner: nn.Module, leaf: str) -> VariationalWeight:
    found = _parametrized(owner, leaf)[0]
    assert isinstance(found, VariationalWeight)
    return found


def _save(leaf: str, owner: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """W under the key it had before, and beside it what is remembered."""
    handle, key = _handle(owner, leaf), prefix + leaf
    state[key] = state.pop(f"{prefix}parametrizations.{leaf}.original")
    handle.prototype_memory.save(state, f"{key}_")


# size: the signature of a load hook of torch, and the name of the parameter
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
    """Load hook. A state without the memory and a step count is one from before the first step."""
    handle, key = _handle(owner, leaf), prefix + leaf
    original = handle.weight
    if not any(name == key or name.startswith(f"{key}_") for name in state):  # a state of other modules
        missing_keys.append(key)
        state[f"{prefix}parametrizations.{leaf}.original"] = original
        return
    if key not in state:
        missing_keys.append(key)
    state[f"{prefix}parametrizations.{leaf}.original"] = state.pop(key, original)
    if f"{key}_memory" not in state:
        state.setdefault(f"{key}_step_count", torch.tensor(0))
    handle.step_count = 0
    handle.prototype_memory.load(state, f"{key}_", original, metadata, missing_keys, error_msgs)
