"""PrototypeHead: a classifier that trains an embedding, by a margin softmax over (variational) prototypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from vplface.bounds import require_whole
from vplface.compile_disabled import compile_disabled
from vplface.exchange import Exchange
from vplface.gradient_hooks import scale_gradient
from vplface.guards import DataParallelGuard, FusedBackwardGuard
from vplface.margins import ArcFace, Margin, Samples
from vplface.margins.sample import sample_margin
from vplface.margins.state import (
    SampleMargins,
    margin_keys,
    margin_state,
    register_margin,
    sample_margins,
    sample_noise,
    set_margin_state,
)
from vplface.optim import FusedSGD, PrototypeSGD
from vplface.prototypes import Injection, Variational
from vplface.prototypes.batch import GlobalBatch
from vplface.prototypes.faults import Faults
from vplface.prototypes.init import initial_weight
from vplface.prototypes.memory import number_type
from vplface.prototypes.prototype_memory import PrototypeMemory
from vplface.prototypes.step import FinishedStep, StepPart
from vplface.ranks import Ranks
from vplface.softmax import Backend, class_prototypes
from vplface.softmax.fused.step import FusedStep
from vplface.softmax.head_softmax import HeadSoftmax
from vplface.softmax.owner import SoftmaxOwner
from vplface.softmax.reference import own_cosines, prototypes_of
from vplface.terms import Batch, Term
from vplface.terms.apply import TermSet
from vplface.terms.fit import require_fit


class PrototypeHead(SoftmaxOwner):
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
            inside a tile, or where ``reason_against_fused`` finds none, all classes in a fixed number of launches;
            ``"auto"`` takes the fastest for the device that the head is on.
        optimizer: ``FusedSGD`` moves W during ``backward()``, so that its gradient never exists as a whole, or in its
            ``step()``; ``head.optimizer`` is the optimiser that schedules drive. None leaves an ordinary gradient.
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
        validate: ``"now"`` checks the numbers of a batch before its step, for which the host waits for the device.
            ``"late"`` lets a CUDA device find faults; then nothing is written, the loss is NaN, every gradient is 0,
            and the next step raises the error, on all ranks. There it is a fault if the batch of one rank alone
            outgrows those of the first step, or where no fused step is taken changes its size without
            ``head.ranks.sizes``. Another device checks now.
        seed: W is drawn from it by class id, so a class starts the same however many classes there are.

    Raises:
        ValueError: for sizes, a backend or values that make no sense.

    Examples:
        >>> head = PrototypeHead(1000, 512, variational=Variational(lam=0.15, delta_t=100, start=2000))
        >>> loss = head(backbone(pictures), labels)
        >>> loss.backward()

    Attributes:
        weight: W, [N, d], or [N, K, d] with K sub-centres; with a process group the rows of this rank, as in
            ``memory`` and ``timer``.
        classes: the class ids of the rows.
        optimizer: of W, where ``FusedSGD`` was asked for.
        terms: the state of the terms, by name: the name of the class in small letters.
    """

    weight: nn.Parameter
    margin_bias: nn.Parameter  # of a margin that changes the loss
    terms: TermSet

    # size: the options of a head, each of them used by another part
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
        validate: Literal["late", "now"] = "late",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_whole(num_classes=num_classes, embedding_dim=embedding_dim, subcenters=subcenters, seed=seed)
        if num_classes < 2:
            raise ValueError(f"a softmax needs at least 2 classes, got num_classes={num_classes}")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        if subcenters < 1:
            raise ValueError(f"subcenters must be at least 1, got {subcenters}")
        if validate not in ("late", "now"):
            raise ValueError(f"validate must be 'late' or 'now', got {validate!r}")
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin: Margin = ArcFace() if margin is None else margin
        self.subcenters = subcenters
        self.validate = validate
        self.seed = seed
        self.ranks = None if process_group is None else Ranks(process_group, num_classes)
        self.classes = range(num_classes) if self.ranks is None else self.ranks.own
        self.prototype_memory = PrototypeMemory(
            variational, num_classes, embedding_dim, ranks=self.ranks, dtype=memory_dtype, seed=seed
        )
        self._softmax = HeadSoftmax(
            self.classes,
            self.ranks,
            backend=backend,
            sample_rate=sample_rate,
            interclass_threshold=interclass_threshold,
            filter_bound=filter_bound,
            workspace_mb=workspace_mb,
            seed=seed,
        )
        self._faults = Faults()
        self._exchange = None if self.ranks is None else Exchange(self.ranks)
        self._fused_step = FusedStep(self._faults, self._exchange)
        self.terms = TermSet(terms, len(self.classes), embedding_dim)
        require_fit(
            self.margin,
            self.terms.by_title(),
            sample_rate=sample_rate,
            subcenters=subcenters,
            filter_bound=filter_bound,
            variational=variational is not None,
        )
        weight = initial_weight(self.classes, subcenters * embedding_dim, seed, device).to(device=device, dtype=dtype)
        self.weight = nn.Parameter(weight if subcenters == 1 else weight.view(-1, subcenters, embedding_dim))
        register_margin(self, self.margin, num_classes, device=device, dtype=dtype)
        self.optimizer: PrototypeSGD | None = None if optimizer is None else optimizer.bind(self.weight)
        self.terms.to(self.weight.device, dtype)
        self._data_parallel, self._fused_backward = DataParallelGuard(), FusedBackwardGuard()

    @compile_disabled
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
            RuntimeError: for a second micro-batch, where ``FusedSGD`` moves W in the backward pass of the first;
                in a module that DistributedDataParallel wraps, if that would harm the head; and from ``backward()``, if
                W has moved since the loss was formed, or with ``FusedSGD`` if a GradScaler has scaled the loss.
        """
        if torch.is_inference_mode_enabled():  # the slope of a margin is asked of autograd
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(embeddings, labels, memory_embeddings)
        in_step = self.training and torch.is_grad_enabled()
        if in_step and self.takes_fused_step:
            return self._fused_loss(embeddings, labels, memory_embeddings)
        late = in_step and self._checks_late(embeddings, labels, memory_embeddings)
        batch = self._gather(embeddings, labels, memory_embeddings, late=late)
        if not in_step:
            margins = self._sample_margins(batch, None, in_step=False)
            return margins.add_penalty(self._classification_loss(batch, None, margins.strength, in_step=False))
        if not late:
            self._begin_step()
        injection = self.prototype_memory.begin_step(self.weight)
        margins = self._sample_margins(batch, injection, in_step=True)
        loss = margins.add_penalty(self._loss_with_terms(batch, injection, margins.strength))
        part = StepPart(batch.features.detach(), batch.labels, batch.remembered, batch.counts, margins.observed)
        self.prototype_memory.add(part)
        return self._ready_for_backward(loss, late=late)

    def variational_prototypes(self) -> Float[Tensor, "classes ... dim"]:
        """u of the rows here, the prototypes of the step to come; v where no memory is alive. [N, d] or [N, K, d]"""
        self.finish_step()
        return class_prototypes(self.weight, self.injection)

    def term_values(self) -> dict[str, float]:
        """The ``value`` of each term in the last step it took part in; a term that has not started is left out."""
        return self.terms.last_values()

    @property
    def shared_state(self) -> tuple[str, ...]:
        """Keys that ``state_dict()`` may have for what is no row of a class and is equal on all ranks."""
        of_margin = margin_keys(self.margin, self.num_classes)
        of_terms = (f"terms.{key}" for key in self.terms.shared_keys())
        return *self.prototype_memory.shared_keys, *of_margin, *of_terms

    def extra_repr(self) -> str:
        """Sizes, parts and the implementation of the softmax, for ``print(head)``."""
        softmax, memory = self.implementation, self.variational
        return f"{self.num_classes}, {self.embedding_dim}, margin={self.margin}, variational={memory}, {softmax=!s}"

    def _begin_step(self) -> None:
        """Finish the last step; refuse one that would ruin the head, or cannot be taken."""
        self._data_parallel.check(
            self.weight,
            sharded=self.ranks is not None,
            fused=self.optimizer is not None,
            variational=self.variational is not None,
        )
        if self.prototype_memory.is_later_part and self.optimizer is not None and self.optimizer.in_backward:
            raise RuntimeError(
                "FusedSGD moves the prototypes in every backward pass, so a step cannot be taken in several"
                " micro-batches; take the batch whole, or give FusedSGD in_backward=False"
            )
        self.finish_step()
        self._fused_step.let_go(self.num_classes)

    def _sample_margins(self, batch: GlobalBatch, injection: Injection | None, in_step: bool) -> SampleMargins:
        """Strengths and penalty of the samples by the margin; outside of a step without noise."""
        ones = batch.features.new_ones(len(batch.labels), dtype=number_type(self.weight.dtype))
        draw = partial(sample_noise, seed=self.seed, step=self.step_count, part=self.prototype_memory.parts)
        samples = Samples(
            norms=ones if batch.norms is None else batch.norms,
            cosines=partial(own_cosines, batch.features, batch.labels, self.weight, injection, self.ranks),
            noise=partial(draw if in_step else torch.zeros_like, ones),
        )
        state = margin_state(self, self.margin)
        return sample_margins(self.margin, state, samples, in_step=in_step, world=self._world)

    def _loss_with_terms(
        self, batch: GlobalBatch, injection: Injection | None, strength: Tensor | None
    ) -> Float[Tensor, ""]:
        """The loss of a step, with all that the terms contribute."""
        if not self.terms:
            return self._classification_loss(batch, injection, strength, in_step=True)
        seen = Batch(  # what every rank computes from all features reaches each of them once from every rank
            features=scale_gradient(batch.features, 1.0 / self._world),
            labels=batch.labels,
            scale=self.margin.scale,
            step=self.step_count,
            prototypes=partial(prototypes_of, weight=self.weight, ranks=self.ranks),
            softmax=lambda beside, margin: self._softmax.loss_over_constants(
                batch.features, batch.labels, self.weight, margin, beside, self.step_count
            ),
        )

        def main(features: Tensor, labels: Tensor, negatives: Tensor | None) -> Tensor:
            more = batch._replace(features=features, labels=labels)
            return self._classification_loss(more, injection, strength, in_step=True, negatives=negatives)

        return self.terms.loss(seen, batch.features, main, is_part=self.prototype_memory.is_later_part)

    def _classification_loss(
        self,
        batch: GlobalBatch,
        injection: Injection | None,
        strength: Tensor | None,
        *,
        in_step: bool,
        negatives: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The loss over all classes, or those that a step draws; outside of a step W does not move."""
        return self._softmax.loss(
            batch.features,
            batch.labels,
            negatives,
            weight=self.weight if in_step or self.optimizer is None else self.weight.detach(),
            margin=self.margin,
            injection=injection,
            strength=strength,
            bias=self.margin_bias if sample_margin(self.margin).changes_loss else None,
            optimizer=self.optimizer if in_step else None,
            step=self.step_count if in_step else None,
        )

    def _begin_backward(self, version: int, gradient: Tensor, *, fused: bool = False, late: bool = False) -> None:
        if self.optimizer is not None:
            self._fused_backward.check(self.weight, version, None if fused or late else gradient)
            self.optimizer.begin_backward(self._faults.note_scale(gradient) if late else None)
        if late:
            self._faults.send()
        if not fused:  # a fused step still reads M in its backward pass, and finishes after it
            self._end_step()

    def _after_step(self, step: FinishedStep) -> None:
        """Let the margin and the terms learn from a step."""
        if step.observed is not None:
            state = sample_margin(self.margin).learn(margin_state(self, self.margin), step.observed)
            set_margin_state(self, state)
        if self.terms:
            self.terms.remember(step.remembered, step.labels, self.prototype_memory.rows(step.labels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrototypeHead:
        self._settle()
        moving = margin_state(self, self.margin)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        kind = number_type(self.weight.dtype)  # below float32 a moving mean would stand still
        set_margin_state(self, {name: each.to(self.weight.device, kind) for name, each in moving.items()})
        if self.optimizer is not None:
            self.optimizer.rebind(self.weight)
            self.optimizer.follow(fn)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.finish_step()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self.prototype_memory.save(destination, prefix, keep_vars)

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
        needed = [prefix + name for name in ("weight", *margin_keys(self.margin, self.num_classes))]
        if not state:  # a state of other modules, which leaves this one as it is
            missing_keys.extend([*needed, prefix + "step_count"])
            return
        if not self.prototype_memory.load(state, prefix, self.weight, local_metadata, missing_keys, error_msgs):
            return
        super()._load_from_state_dict(state, prefix, local_metadata, False, missing_keys, unexpected_keys, error_msgs)
        if self.optimizer is not None:
            self.optimizer.rebind(self.weight)
        here = (key for key in state if not key.startswith(prefix + "terms."))  # terms look after themselves
        unexpected_keys.extend(key for key in here if key not in needed)
        missing_keys.extend(key for key in needed if key not in state)
