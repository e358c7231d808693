"""PrototypeHead: prototypes, margin and softmax behind one ``nn.Module``, with the memory of variational prototypes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from vplface.bounds import require_whole
from vplface.gradient_hooks import before_backward, scale_gradient
from vplface.guards import DataParallelGuard, FusedBackwardGuard
from vplface.margins import ArcFace, Margin, Samples
from vplface.margins.sample import sample_margin
from vplface.margins.state import (
    SampleMargins,
    margin_keys,
    margin_state,
    register_margin,
    sample_margins,
    set_margin_state,
)
from vplface.optim import FusedSGD, PrototypeSGD, hand_over_gradient
from vplface.prototypes import (
    CosineByAge,
    Draw,
    Injection,
    LastFeature,
    Memory,
    Variational,
    check_batch,
    coverage,
    last_samples,
    living,
    require_memory_dtype,
)
from vplface.prototypes.age import MeanCosine, cosine_by_age
from vplface.prototypes.init import initial_weight
from vplface.prototypes.kind import other_kind, told_kind
from vplface.prototypes.missing import missing_memory
from vplface.ranks import Ranks
from vplface.softmax import (
    BACKENDS,
    Backend,
    Filter,
    Workspace,
    binary,
    class_prototypes,
    drawn_classes,
    fastest_backend,
    reference,
    tiled,
    walk_of,
)
from vplface.terms import Batch, Term
from vplface.terms.apply import TermSet
from vplface.terms.fit import require_fit
from vplface.uncompiled import uncompiled

_NOISE = 2**32
"""The stream of random numbers of samples; classes have those below."""


class _Batch(NamedTuple):
    """What the ranks of a head have brought together."""

    features: Float[Tensor, "batch dim"]
    labels: Int[Tensor, " batch"]
    remembered: Float[Tensor, "batch dim"]
    counts: list[int]  # of each rank
    norms: Float[Tensor, " batch"] | None  # of the embeddings, for a margin that uses them
    observed: Float[Tensor, " batch"] | None = None  # what the state of the margin follows


class PrototypeHead(nn.Module):
    """Classifier over N classes that trains an embedding: margin softmax over (variational) prototypes.

    A *step* is a forward in training mode with gradients enabled, or all the forwards inside one ``micro_batches()``.
    The features of a step are remembered after its loss is formed and are to be seen after ``backward()``; they are
    injected in the Δt steps that follow, so a sample never meets its own feature. In eval mode and under ``no_grad``
    the prototypes are plain, and nothing is written or aged.

    Args:
        num_classes: N ≥ 2.
        embedding_dim: d ≥ 1.
        margin: cosine → logit; ArcFace(64, .5) unless given.
        variational: how prototypes become distributions; None for plain prototypes.
        terms: what else takes part in the steps, one of a kind: ``UniTSFace()``, ``UNPG()``, ``BroadFace()``,
            ``XBM()``, ``EPL()``. Evaluation is without them.
        backend: how the softmax is computed. ``"reference"``, the definition, in plain autograd; ``"tiled"``, a tile of
            classes at a time without ever forming B×N logits, on any device; ``"triton"``, the same with Triton kernels
            inside a tile; ``"auto"`` takes the fastest for the device that the head is on.
        optimizer: ``FusedSGD`` moves W during ``backward()``, so that its gradient never exists as a whole;
            ``head.optimizer`` is then the optimiser that schedules drive. None leaves an ordinary gradient.
        workspace_mb: MiB that may be held from step to step to keep exponentials from forward to backward; what does
            not fit is computed again.
        filter_bound: ε in [0, 1). Classes to which no sample of a batch gives more than ε/N of its probability are
            left out of the gradients, so that each sample loses at most ε; see ``skipped_mass``. None leaves out none.
        sample_rate: share of the classes, in (0, 1], that a step compares with: those of its batch, and of the others
            each with this probability. The draw follows from ``seed`` and the step alone. Classes that are not drawn
            get no gradient, and ``FusedSGD`` leaves their rows, momentum and decay alone; their memory ages.
        interclass_threshold: cosine in (−1, 1]; other classes that are nearer to a sample than this are left out of its
            softmax, value and gradient. In a set with label noise two classes may be one person, and a sample should
            not be driven from its own likeness. It is the ``interclass_filtering_threshold`` of arcface_torch (An et
            al., Partial FC, CVPR 2022), which sets such a cosine to 0, so that the class stays with the weight e⁰. It
            holds for the classification loss in eval mode too, not for terms. None leaves out none.
        subcenters: K ≥ 1 prototypes of each class, of which a sample is compared with the nearest: cosθ_ij is the
            largest of K. Clean pictures gather at one of them and noisy ones at others (Deng et al., "Sub-center
            ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", ECCV 2020, who take K = 3). W is then
            [N, K, d]. M_j is injected into the sub-centre of class j that is nearest to it. ``EPL`` and ``BroadFace``,
            which ask for the one prototype of a class, are refused.
        process_group: the ranks that share the classes, contiguous in rank order, the first N mod world ranks one
            more. Every rank calls the head with its part of the batch and with global class ids.  The loss is the mean
            over the whole batch; the gradient of a rank's embeddings is world times that of the loss, so that
            DistributedDataParallel's average over ranks is exact. None: all classes are here.
        memory_dtype: type of the memory, kept whatever the module is cast to; None: that of the weight.
        device: where to put the state.
        dtype: type of the weight.
        seed: W is drawn from it by class id, so a class starts the same however many classes there are.

    Raises:
        ValueError: for sizes, a backend or values that make no sense.

    Examples:
        >>> head = PrototypeHead(1000, 512, variational=Variational(lam=0.15, delta_t=100, start=2000))
        >>> loss = head(backbone(pictures), labels)
        >>> loss.backward()

    Attributes:
        weight: W, [N, d], or [N, K, d] with K sub-centres; with a process group the rows of this rank, as in memory
            and timer.
        memory: M, [N, d], unit rows where the timer is positive; None until the step ``variational.start``. A kind of
            memory with K slots has [N, K, d]; what kinds hold beside is in attributes whose names begin with memory_.
        timer: T, [N] int32, or [N, K]; None until then.
        step_count: steps taken.
        begun_at: the step whose features are the first to be remembered; None while ``start="auto"`` waits.
        delta_t: Δt; None while it is not decided.
        by_age: agreement of memories with what comes next, counted if set; see ``CosineByAge``.
        classes: the class ids of the rows.
        optimizer: of W, where ``FusedSGD`` was asked for.
        terms: the state of the terms, by name: the name of the class in small letters.
    """

    weight: nn.Parameter
    margin_bias: nn.Parameter  # of a margin that changes the loss
    memory: Float[Tensor, "classes ... dim"] | None
    timer: Int[Tensor, "classes ..."] | None
    begun_at: int | None
    delta_t: int | None

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: Margin | None = None,
        variational: Variational | None = None,
        terms: Iterable[Term] = (),
        backend: Literal["auto"] | Backend = "auto",
        optimizer: FusedSGD | None = None,
        workspace_mb: float = 256,
        filter_bound: float | None = None,
        sample_rate: float = 1.0,
        interclass_threshold: float | None = None,
        subcenters: int = 1,
        process_group: dist.ProcessGroup | None = None,
        memory_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_whole(num_classes=num_classes, embedding_dim=embedding_dim, subcenters=subcenters, seed=seed)
        if num_classes < 2:
            raise ValueError(f"a softmax needs at least 2 classes, got num_classes={num_classes}")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend must be one of 'auto', {', '.join(map(repr, BACKENDS))}, got {backend!r}")
        if not 0 <= workspace_mb < math.inf:
            raise ValueError(f"workspace_mb must not be negative or infinite, got {workspace_mb}")
        require_memory_dtype(memory_dtype)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        if filter_bound is not None and not 0.0 <= filter_bound < 1.0:
            raise ValueError(f"filter_bound must lie in [0, 1), got {filter_bound}")
        if filter_bound is not None and backend == "reference":
            raise ValueError("filter_bound needs another backend than 'reference', which leaves nothing out")
        if interclass_threshold is not None and not -1.0 < interclass_threshold <= 1.0:
            raise ValueError(f"interclass_threshold must be a cosine in (-1, 1], got {interclass_threshold}")
        if subcenters < 1:
            raise ValueError(f"subcenters must be at least 1, got {subcenters}")
        if not 0.0 < sample_rate <= 1.0:
            raise ValueError(f"sample_rate must lie in (0, 1], got {sample_rate}")
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin: Margin = ArcFace() if margin is None else margin
        self.variational = variational
        self.backend = backend
        self.memory_dtype = memory_dtype
        self.sample_rate = sample_rate
        self.interclass_threshold = interclass_threshold
        self.subcenters = subcenters
        self.seed = seed
        self.step_count = 0
        self.by_age: CosineByAge | None = None
        self._forget_begin()
        self.ranks = None if process_group is None else Ranks(process_group, num_classes)
        self.classes = range(num_classes) if self.ranks is None else self.ranks.own
        weight = initial_weight(self.classes, subcenters * embedding_dim, seed).to(device=device, dtype=dtype)
        self.weight = nn.Parameter(weight if subcenters == 1 else weight.view(-1, subcenters, embedding_dim))
        for name in (*self._memory_kind.per_class, *self._memory_kind.shared):
            self.register_buffer(name, None)
        register_margin(self, self.margin, num_classes, device=device, dtype=dtype)
        self.optimizer: PrototypeSGD | None = None if optimizer is None else optimizer.bind(self.weight)
        self.terms = TermSet(terms, len(self.classes), embedding_dim)
        self.terms.to(self.weight.device, dtype)
        require_fit(
            self.margin,
            self.terms.by_title(),
            sample_rate=sample_rate,
            subcenters=subcenters,
            filter_bound=filter_bound,
            variational=variational is not None,
        )
        self._workspace, self._scratch = Workspace(workspace_mb), Workspace(0.0)
        self._filter = None if filter_bound is None else Filter(filter_bound)
        self._pending: list[_Batch] = []
        self._gathering = False
        self._reserved = False  # whether the memory has only been given a place
        self._met: Injection | None = None  # what the step under way is compared with
        self._injections: weakref.WeakSet[Injection] = weakref.WeakSet()
        self._data_parallel, self._fused_backward = DataParallelGuard(), FusedBackwardGuard()

    @uncompiled
    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        memory_embeddings: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean margin-softmax loss of a batch.

        Args:
            embeddings: of any length; normalised here.
            labels: int64 class ids in [0, N).
            memory_embeddings: what to remember instead of ``embeddings`` (those of a momentum encoder).

        Raises:
            TypeError: for a wrong dtype.
            OtherRankError: a RuntimeError that names another rank, if its batch is at fault.
            ValueError: for a wrong shape, a label out of range, and NaN, infinite or zero embeddings.
            RuntimeError: for a second micro-batch with ``FusedSGD``, which moves W in the backward pass of the first;
                in a module that DistributedDataParallel wraps, if that would harm the head; and from ``backward()``, if
                W has moved since the loss was formed, or with ``FusedSGD`` if a GradScaler has scaled the loss.
        """
        if torch.is_inference_mode_enabled():  # the slope of a margin is asked of autograd
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(embeddings, labels, memory_embeddings)
        batch = self._batch(embeddings, labels, memory_embeddings)
        if not (self.training and torch.is_grad_enabled()):
            weight = self.weight if self.optimizer is None else self.weight.detach()
            margins = self._sample_margins(batch, None, in_step=False)
            rows = self._rows(batch.labels)
            return margins.add_penalty(self._loss(batch.features, rows, weight, strength=margins.strength))
        self._data_parallel.check(
            self.weight,
            sharded=self.ranks is not None,
            fused=self.optimizer is not None,
            variational=self.variational is not None,
        )
        if self._gathering and self._pending and self.optimizer is not None:
            raise RuntimeError(
                "FusedSGD moves the prototypes in every backward pass, so a step cannot be taken in several"
                " micro-batches; take the batch whole, or build the head with optimizer=None"
            )
        if not self._gathering:
            self._finish_step()
        self._met = self._injection()
        margins = self._sample_margins(batch, self._met, in_step=True)
        loss = self._loss_with_terms(batch.features, batch.labels, self._met, margins.strength)
        loss = before_backward(margins.add_penalty(loss), partial(self._begin_backward, self.weight._version))
        self._pending.append(batch._replace(features=batch.features.detach(), norms=None, observed=margins.observed))
        return loss

    @contextmanager
    def micro_batches(self) -> Iterator[None]:
        """Make the forwards inside one step: all see the same memory, which is written and aged once, at the end.

        Raises:
            RuntimeError: if nested.
        """
        if self._gathering:
            raise RuntimeError("micro_batches() is already active; it cannot be nested")
        self._finish_step()
        self._gathering = True
        try:
            yield
        except BaseException:
            self._pending.clear()
            self._met = None
            raise
        finally:
            self._gathering = False
        self._finish_step()

    def begin(self, delta_t: int | None = None) -> None:
        """Let memory come into being with the next step; with a process group all ranks have to say so together.

        The step and Δt are part of ``state_dict`` where ``variational`` does not say them.

        Args:
            delta_t: Δt; None takes that of ``variational``.

        Raises:
            ValueError: if neither says Δt, or it is less than a step.
            RuntimeError: for plain prototypes, inside ``micro_batches()``, or if injection has begun before.
        """
        if self.variational is None:
            raise RuntimeError("plain prototypes have no memory; build the head with variational=Variational(...)")
        if self._gathering:
            raise RuntimeError("begin() was called inside micro_batches(), in the middle of a step; call it after")
        self._finish_step()
        if self.memory is not None and not self._reserved:
            raise RuntimeError(f"injection has begun at step {self.begun_at} already")
        self.begun_at, self.delta_t = self.step_count, self.variational.lifetime(delta_t)

    def create_memory(self) -> None:
        """Make the memory, empty, before it begins: ``state_dict()`` then has a place for one that is to be loaded.

        For loaders that fill the tensors they find, such as ``torch.distributed.checkpoint``, where the checkpoint was
        saved after injection began. It does not begin by this, and an empty memory changes no prototype.

        Raises:
            RuntimeError: for plain prototypes.
        """
        if self.variational is None:
            raise RuntimeError("plain prototypes have no memory; build the head with variational=Variational(...)")
        if self.memory is None:
            self._create_memory()
            self._reserved = True

    @property
    def remembers(self) -> bool:
        """Whether the features of the step under way, or of the next, are remembered."""
        loaded = self.memory is not None and not self._reserved
        return loaded or (self.begun_at is not None and self.step_count >= self.begun_at)

    def variational_prototypes(self) -> Float[Tensor, "classes ... dim"]:
        """u of the rows here, the prototypes of the step to come; v where no memory is alive. [N, d] or [N, K, d]"""
        self._finish_step()
        return class_prototypes(self.weight, self._injection(create=False))

    def coverage(self) -> float:
        """The share of classes whose memory is alive, over all ranks, who have to ask together."""
        self._finish_step()
        if self.ranks is None:
            return coverage(self.timer)
        alive = self.weight.new_tensor(0, dtype=torch.int64) if self.timer is None else (living(self.timer) > 0).sum()
        return int(self.ranks.sum(alive)) / self.num_classes

    @torch.no_grad()
    def own_cosines(
        self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]
    ) -> tuple[float, float | None]:
        """Mean cosines of samples to the prototype and to what is injected into their class, over all ranks.

        Args:
            embeddings: as in ``forward``.
            labels: as in ``forward``.

        Returns:
            The mean over samples, and that over samples whose class has a memory that is alive; None without such.
        """
        self._finish_step()
        batch = self._batch(embeddings, labels, None)
        rows = self._rows(batch.labels)
        features, rows = batch.features[rows >= 0], rows[rows >= 0]
        to_prototype = _cosines(features, class_prototypes(self.weight[rows], None)).sum()
        figures = [to_prototype, to_prototype.new_tensor(len(rows))]
        injection = self._injection(create=False)
        if injection is not None:
            alive = injection.timer[rows] > 0
            figures += [(features[alive] * injection.recalled(rows[alive]).to(features.dtype)).sum(), alive.sum()]
        else:
            figures += [to_prototype.new_tensor(0.0)] * 2
        summed = torch.stack([figure.double() for figure in figures])
        prototype, samples, memory, remembered = (summed if self.ranks is None else self.ranks.sum(summed)).tolist()
        return prototype / samples, memory / remembered if remembered else None

    def term_values(self) -> dict[str, float]:
        """The ``value`` of each term in the last step it took part in; a term that has not started is left out."""
        return self.terms.last_values()

    @property
    def shared_state(self) -> tuple[str, ...]:
        """Keys that ``state_dict()`` may have for what is no row of a class and is equal on all ranks."""
        of_terms = (f"terms.{key}" for key in self.terms.shared_keys())
        of_margin = margin_keys(self.margin, self.num_classes)
        return "step_count", "begun_at", "delta_t", "memory_kind", *self._memory_kind.shared, *of_margin, *of_terms

    def cosine_by_age(self) -> dict[int, MeanCosine]:
        """What ``by_age`` has counted since the last call, over all ranks, who have to ask together."""
        self._finish_step()
        if self.by_age is None or self.delta_t is None:
            return {}
        sums, counts = self.by_age_total()
        self.by_age.clear()
        return cosine_by_age(sums, counts, self.delta_t)

    def by_age_total(self) -> tuple[Int[Tensor, " bins"], Int[Tensor, " bins"]]:
        """Sums and counts of ``by_age`` over all ranks."""
        assert self.by_age is not None
        both = torch.stack([self.by_age.sums, self.by_age.counts]).to(self.weight.device)
        sums, counts = both if self.ranks is None else self.ranks.sum(both)
        return sums, counts

    @property
    def injection(self) -> Injection | None:
        """M, T and λ as the step under way sees them, or the step to come; None without memory."""
        return self._injection(create=False)

    @property
    def memory_kind(self) -> Tensor | None:
        """How states say the kind of memory: its name in bytes; None for the last feature."""
        return told_kind(self._memory_kind)

    @property
    def workspace_bytes(self) -> int:
        """What ``workspace_mb`` allows."""
        return self._workspace.limit

    @property
    def skipped_mass(self) -> float:
        """The largest share of a sample's probability that the last backward pass left out; 0 without a filter."""
        return 0.0 if self._filter is None else self._filter.skipped

    def extra_repr(self) -> str:
        """Sizes and parts, for ``print(head)``."""
        return f"{self.num_classes}, {self.embedding_dim}, margin={self.margin}, variational={self.variational}"

    def _batch(self, embeddings: Tensor, labels: Tensor, memory_embeddings: Tensor | None) -> _Batch:
        """The batch of all ranks."""
        if self.ranks is None:
            self._check(embeddings, labels, memory_embeddings)
            features = self._unit(embeddings)
            remembered = features if memory_embeddings is None else self._unit(memory_embeddings)
            return _Batch(features, labels, remembered.detach(), [len(labels)], self._norms(embeddings))
        fault: Exception | None = None
        try:
            self._check(embeddings, labels, memory_embeddings)
        except (TypeError, ValueError) as error:
            fault = error
        counts = self.ranks.agree(len(embeddings), fault, self.weight.device)
        norms = self._norms(embeddings)
        norms = None if norms is None else self.ranks.gather(norms, counts)
        features = self.ranks.gather(self._unit(embeddings), counts)
        labels = self.ranks.gather(labels, counts)
        remembered = features.detach()
        if memory_embeddings is not None:
            remembered = self.ranks.gather(self._unit(memory_embeddings.detach()), counts)
        return _Batch(features, labels, remembered, counts, norms)

    def _norms(self, embeddings: Tensor) -> Tensor | None:
        if not sample_margin(self.margin).uses_norms:
            return None
        norms: Tensor = vector_norm(embeddings.to(torch.promote_types(self.weight.dtype, torch.float32)), dim=1)
        return norms

    def _sample_margins(self, batch: _Batch, injection: Injection | None, in_step: bool) -> SampleMargins:
        """What the margin makes of the samples; outside of a step without noise."""
        ones = batch.features.new_ones(len(batch.labels), dtype=torch.promote_types(self.weight.dtype, torch.float32))
        samples = Samples(
            norms=ones if batch.norms is None else batch.norms,
            cosines=partial(self._cosines_to_own, batch, injection),
            noise=partial(self._noise if in_step else torch.zeros_like, ones),
        )
        world = 1 if self.ranks is None else self.ranks.world
        return sample_margins(self.margin, margin_state(self, self.margin), samples, in_step=in_step, world=world)

    @torch.no_grad()
    def _cosines_to_own(self, batch: _Batch, injection: Injection | None) -> Float[Tensor, " batch"]:
        """Cosines of all samples with the prototypes of their classes, whichever rank has them."""
        rows = self._rows(batch.labels)
        here = (rows >= 0).nonzero().squeeze(1)
        rows, kind = rows[here], torch.promote_types(self.weight.dtype, torch.float32)
        prototypes = class_prototypes(self.weight[rows].to(kind), None if injection is None else injection.of(rows))
        features = batch.features.to(kind)
        part = features.new_zeros(len(features)).index_put((here,), _cosines(features[here], prototypes))
        return part if self.ranks is None else self.ranks.sum(part)

    def _noise(self, like: Tensor) -> Float[Tensor, " batch"]:
        """Normal numbers, of every part of a step others; the same whatever the number of ranks."""
        uniform = Draw(range(len(like)), self.seed, self.step_count).uniform(_NOISE + len(self._pending))
        noise: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-54)).to(like)
        return noise

    def _rows(self, labels: Tensor) -> Tensor:
        """Row numbers from class ids, −1 for rows of other ranks."""
        return labels if self.ranks is None else self.ranks.local(labels)

    def _loss_with_terms(
        self, features: Tensor, labels: Tensor, injection: Injection | None, strength: Tensor | None
    ) -> Float[Tensor, ""]:
        """The loss of a step, with all that the terms contribute."""
        main = partial(self._loss_of_step, injection=injection, strength=strength)
        if not self.terms:
            return main(features, labels)
        # What every rank computes from all features reaches each of them once from every rank.
        world = 1 if self.ranks is None else self.ranks.world
        batch = Batch(
            features=scale_gradient(features, 1.0 / world),
            labels=labels,
            scale=self.margin.scale,
            step=self.step_count,
            prototypes=self._prototypes_of,
            softmax=partial(self._loss_over, features, labels),
        )
        return self.terms.loss(batch, features, main, is_part=self._gathering and bool(self._pending))

    @torch.no_grad()
    def _prototypes_of(self, labels: Tensor) -> Float[Tensor, "batch dim"]:
        """v of the classes with the given ids, whichever rank has them."""
        rows = self._rows(labels)
        prototypes = normalize(self.weight[rows.clamp_min(0)], dim=1) if len(self.weight) else None
        if self.ranks is None and prototypes is not None:
            return prototypes
        assert self.ranks is not None
        part = self.weight.new_zeros(len(labels), self.embedding_dim)
        return self.ranks.sum(part if prototypes is None else torch.where((rows >= 0).unsqueeze(1), prototypes, part))

    def _loss_over(self, features: Tensor, labels: Tensor, injection: Injection, margin: Margin) -> Float[Tensor, ""]:
        """The loss over constant prototypes of the classes that this step draws."""
        rows, places = self._drawn(labels)
        weight = self.weight.detach()
        return self._loss(
            features,
            places,
            weight if rows is None else weight[rows],
            injection if rows is None else injection.of(rows),
            margin=margin,
        )

    def _loss_of_step(
        self,
        features: Tensor,
        labels: Tensor,
        negatives: Tensor | None = None,
        *,
        injection: Injection | None,
        strength: Tensor | None,
    ) -> Float[Tensor, ""]:
        """The loss over the classes that this step draws."""
        rows, places = self._drawn(labels)
        if rows is None:
            return self._loss(features, places, self.weight, injection, strength=strength, negatives=negatives)
        weight = self.weight[rows]
        if self.optimizer is not None:
            weight = weight.detach().requires_grad_(self.weight.requires_grad)
        drawn = None if injection is None else injection.of(rows)
        return self._loss(features, places, weight, drawn, rows, negatives, strength=strength)

    def _drawn(self, labels: Tensor) -> tuple[Tensor | None, Tensor]:
        """The rows that a step compares with, None for all, and the places of class ids among them."""
        own = self._rows(labels)
        if self.sample_rate == 1.0:
            return None, own
        drawn = drawn_classes(self.classes, self.sample_rate, self.seed, self.step_count).to(own.device)
        drawn[own[own >= 0]] = True
        rows = drawn.nonzero().squeeze(1)
        return rows, torch.where(own >= 0, torch.searchsorted(rows, own), -1)

    def _loss(
        self,
        features: Tensor,
        labels: Tensor,
        weight: Tensor,
        injection: Injection | None = None,
        rows: Tensor | None = None,
        negatives: Tensor | None = None,
        strength: Tensor | None = None,
        margin: Margin | None = None,
    ) -> Float[Tensor, ""]:
        """The loss over rows of W, all unless ``rows`` are given; ``labels`` are positions among them.

        With a ``margin`` of its own it is another loss, over a constant ``weight``: it moves nothing, leaves out
        nothing, and keeps nothing in the workspace of the first.
        """
        first = margin is None
        margin = self.margin if margin is None else margin
        threshold = self.interclass_threshold if first else None
        fused = self.optimizer if first else None
        update = None if fused is None else partial(fused.update, among=rows)
        backend = fastest_backend(weight.device) if self.backend == "auto" else self.backend
        walk = None if backend == "reference" else walk_of(backend, weight.device)
        changes_loss = sample_margin(margin).changes_loss
        if changes_loss:
            walk = binary.BinaryWalk
            bias = self.margin_bias if self.ranks is None else self.ranks.spread(self.margin_bias)
            strength = bias.expand(len(features))
        if backend == "reference":
            moving = weight if update is None else hand_over_gradient(weight, update)
            if changes_loss and strength is not None:
                return binary.binary_loss(
                    features,
                    labels,
                    moving,
                    margin,
                    injection,
                    strength=strength,
                    threshold=threshold,
                    ranks=self.ranks,
                )
            return reference.margin_softmax(
                features,
                labels,
                moving,
                margin,
                injection,
                strength=strength,
                threshold=threshold,
                negatives=negatives,
                ranks=self.ranks,
            )
        return tiled.margin_softmax(
            features,
            labels,
            weight,
            margin,
            injection,
            strength=strength,
            threshold=threshold,
            negatives=negatives,
            workspace=self._workspace if first else self._scratch,
            update=update,
            momentum=None if fused is None or rows is not None else fused.rule,
            filtering=self._filter if first else None,
            ranks=self.ranks,
            walk=walk,
        )

    def _begin_backward(self, version: int, gradient: Tensor) -> None:
        if self.optimizer is not None:
            self._fused_backward.check(self.weight, version, gradient)
            self.optimizer.consume()
        self._finish_step()

    def _unit(self, embeddings: Tensor) -> Tensor:
        widest = torch.promote_types(embeddings.dtype, self.weight.dtype)
        return normalize(embeddings.to(widest), dim=1).to(self.weight.dtype)

    def _injection(self, create: bool = True) -> Injection | None:
        if self.variational is None:
            return None
        if create and self.remembers:
            self._reserved = False
            if self.memory is None:
                self._create_memory()
        if self.memory is None or self.timer is None:
            return None
        recall = self._memory_kind.recall(self._memory_state(), Draw(self.classes, self.seed, self.step_count))
        injection = Injection(self.memory, self.timer, self.variational.lam, self.variational.renormalise, recall)
        self._injections.add(injection)
        return injection

    @property
    def _memory_kind(self) -> Memory:
        return LastFeature() if self.variational is None else self.variational.memory

    def _memory_state(self) -> dict[str, Tensor]:
        kind = self._memory_kind
        return {name: getattr(self, name) for name in (*kind.per_class, *kind.shared)}

    def _create_memory(self) -> None:
        dtype, device = self.memory_dtype or self.weight.dtype, self.weight.device
        with torch.inference_mode(False):
            empty = self._memory_kind.empty(len(self.classes), self.embedding_dim, dtype, device, self.seed)
        for name, tensor in empty.items():
            setattr(self, name, tensor)

    def _finish_step(self) -> None:
        """Remember the features of the step whose loss was formed last, unless that is done or still gathering."""
        if not self._pending or self._gathering:
            return
        with torch.inference_mode(False), torch.no_grad():  # what is remembered is to be trained with
            self._remember_pending()

    def _remember_pending(self) -> None:
        # In the order of the whole batch: of each rank all its micro-batches.
        parts = [
            list(zip(*(torch.split(each, batch.counts) for each in batch[:3]), strict=True)) for batch in self._pending
        ]
        ordered = [part for of_rank in zip(*parts, strict=True) for part in of_rank]
        compared, labels, features = (torch.cat(each) for each in zip(*ordered, strict=True))
        observed = [batch.observed for batch in self._pending if batch.observed is not None]
        if observed:
            needs, state = sample_margin(self.margin), margin_state(self, self.margin)
            set_margin_state(self, needs.learn(state, torch.cat(observed)))
        self._pending.clear()
        self.step_count += 1
        self.terms.remember(features, labels, self._rows(labels))
        met, self._met = self._met, None
        if self.delta_t is not None and self.memory is not None and not self._reserved:
            if self.by_age is not None and met is not None:
                own = self._rows(labels)
                own, compared = own[own >= 0], compared[own >= 0]
                self.by_age.update(compared, met.recalled(own), met.timer[own], self.delta_t)
            kind, state = self._memory_kind, self._memory_state()
            seen, last = last_samples(labels)
            rows = self._rows(kind.home(seen, self.num_classes, self.seed))
            for injection in self._injections:
                injection.preserve(rows[rows >= 0])
            kind.remember(state, features[last], rows, self.delta_t, self._total)
            for name, tensor in state.items():
                setattr(self, name, tensor)

    def _total(self, part: Tensor) -> Tensor:
        """The sum over ranks."""
        return part if self.ranks is None else self.ranks.sum(part)

    def _forget_begin(self) -> None:
        """Start and Δt as ``variational`` says them."""
        variational = self.variational
        self.delta_t = None if variational is None else variational.delta_t
        self.begun_at = None if variational is None or variational.start == "auto" else variational.start

    def _check(self, embeddings: Tensor, labels: Tensor, memory_embeddings: Tensor | None) -> None:
        check_batch(
            labels, self.num_classes, self.embedding_dim, embeddings=embeddings, memory_embeddings=memory_embeddings
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrototypeHead:
        kept = self._memory_state()  # what does not follow W to another type
        moving = margin_state(self, self.margin)  # nor below float32, where a moving mean would stand still
        del kept["timer"]
        if self.memory_dtype is None:
            del kept["memory"]
        for name in kept:
            setattr(self, name, None)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.optimizer is not None:
            self.optimizer.rebind(self.weight)
        for name, tensor in kept.items():
            setattr(self, name, None if tensor is None else tensor.to(self.weight.device))
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        set_margin_state(self, {name: tensor.to(self.weight.device, kind) for name, tensor in moving.items()})
        if self.optimizer is not None:
            self.optimizer.follow(fn)
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self._gathering:
            raise RuntimeError(
                "a head cannot be copied or pickled inside micro_batches(), in the middle of a step; do it after"
            )
        self._finish_step()
        state = {**self.__dict__, "_met": None}
        del state["_injections"]  # those of losses that stay here
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch
        self._injections = weakref.WeakSet()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._finish_step()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "step_count"] = torch.tensor(self.step_count)
        chosen = self.variational
        if chosen is not None and (self.begun_at, self.delta_t) != (chosen.start, chosen.delta_t):
            destination[prefix + "begun_at"] = torch.tensor(-1 if self.begun_at is None else self.begun_at)
            destination[prefix + "delta_t"] = torch.tensor(-1 if self.delta_t is None else self.delta_t)
        if self.memory is not None and self.memory_kind is not None:
            destination[prefix + "memory_kind"] = self.memory_kind

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        of_margin = margin_keys(self.margin, self.num_classes)
        if not state:  # a state of other modules, which leaves this one as it is
            if strict:
                missing_keys.extend(
                    prefix + name for name in ("weight", "step_count", *margin_keys(self.margin, self.num_classes))
                )
            return
        self._pending.clear()
        self._met = None
        step_count = state.pop(prefix + "step_count", None)
        if step_count is not None:
            self.step_count = int(step_count)
        elif strict:
            missing_keys.append(prefix + "step_count")
        self._forget_begin()
        begun_at, delta_t = (state.pop(prefix + name, None) for name in ("begun_at", "delta_t"))
        self._reserved = False
        if self.variational is not None and begun_at is not None and delta_t is not None:
            self._reserved = int(begun_at) < 0  # it waits, and a memory is one of create_memory()
            if not self._reserved:
                self.begun_at, self.delta_t = int(begun_at), int(delta_t)
        elif self.variational is not None and self.begun_at is None and prefix + "memory" in state:
            self.begun_at = self.step_count  # saved by a head that began at a given step
            if self.delta_t is None:
                error_msgs.append(f"the state has a memory and does not say Δt: give {prefix}variational one")
        names = tuple(self._memory_state()) if self.variational is not None else ()
        for name in names:
            setattr(self, name, None)
        told = state.pop(prefix + "memory_kind", None)
        stored = other_kind(self._memory_kind, told)
        if names and prefix + "memory" in state and stored is not None:
            own = type(self._memory_kind).__name__
            error_msgs.append(
                f"the state holds a memory of the kind {stored}, this head has variational.memory={own}()"
            )
            return
        missing = [prefix + name for name in names if prefix + name not in state]
        begun = self.begun_at is not None and self.step_count > self.begun_at
        if names and not missing:
            self._create_memory()
        elif strict and missing and (begun or len(missing) < len(names)):
            missing_keys.extend(missing_memory(missing))
        super()._load_from_state_dict(state, prefix, local_metadata, False, missing_keys, unexpected_keys, error_msgs)
        if self.optimizer is not None:
            self.optimizer.rebind(self.weight)
        if strict:
            known = {prefix + name for name in ("weight", *names, *of_margin)}
            here = (key for key in state if not key.startswith(prefix + "terms."))  # those look after themselves
            unexpected_keys.extend(key for key in here if key not in known)
            missing_keys.extend(key for name in ("weight", *of_margin) if (key := prefix + name) not in state)


def _cosines(
    features: Float[Tensor, "samples dim"], prototypes: Float[Tensor, "samples ... dim"]
) -> Float[Tensor, " samples"]:
    """Of each sample with the prototype of its own class, or the nearest of them."""
    several = prototypes if prototypes.ndim == 3 else prototypes.unsqueeze(1)
    return (several * features.unsqueeze(1)).sum(2).amax(1)
