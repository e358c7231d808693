"""Measurement of feature drift, which decides when injection begins."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize

from vplface.prototypes import DriftStartRule
from vplface.prototypes.owner import MemoryOwner

_LOG = logging.getLogger(__name__)


class Begin(NamedTuple):
    """The start of injection.

    Attributes:
        step: the first step whose features are remembered.
        delta_t: Δt.
        settled: False if features had not settled in time.
        by_drift: whether drift decided Δt, and not the longest lifetime that was given.
    """

    step: int
    delta_t: int
    settled: bool
    by_drift: bool


class Drift(NamedTuple):
    """A measurement of drift.

    Attributes:
        by_lag: {lag in steps: d(lag)}, each in [0, 4]; 2 is what unrelated features give. Empty at the first time.
        spread: S; None if no two pictures of the probe are of one class.
    """

    by_lag: dict[int, float]
    spread: float | None


class DriftMonitor:
    """Measures drift on fixed pictures during training, and starts the memory of a head when drift has settled.

    Every P steps the pictures are embedded in eval mode and compared with the last K such embeddings, which gives d at
    the lags P, 2P … KP. (K + 1)·n·d numbers are kept for n pictures. A measurement costs n forward passes, about what
    training on n/3 pictures does.

    Args:
        head: a ``PrototypeHead`` or the handle of ``plug``. With ``start="auto"`` its memory starts by the rule
            ``start``. With a process group every rank has to call ``step``; the first measures, and all start together.
        pictures: the probe, as the backbone takes it.
        labels: classes of the probe; two or more pictures of some are needed for S, and so for every rule.
        every: P, steps.
        kept: K.
        start: ``DriftStartRule(...)``, or a step from which on Δt is decided by ``lifetime_drift``; None for
            ``DriftStartRule()``.
        lifetime_drift: bound on d(lag)/S that decides Δt: the largest measured lag up to which it holds, at the moment
            of beginning, or one interval if it holds nowhere. The ``delta_t`` of the head, if it has one, is the
            longest that Δt may be.
        steps: length of the run, of which ``DriftStartRule.by`` is a share; with None there is no time limit.

    Raises:
        ValueError: if a rule cannot be followed with this probe or these measurements.

    Examples:
        >>> head = PrototypeHead(1000, 512, variational=Variational(start="auto", delta_t=400))
        >>> monitor = DriftMonitor(head, pictures, labels, every=100, steps=20_000)
        >>> ...
        >>> optimizer.step()
        >>> monitor.step(backbone)

    Attributes:
        begin: the start of injection; None before it.
    """

    def __init__(
        self,
        head: MemoryOwner,
        pictures: Float[Tensor, "probe ..."],
        labels: Int[Tensor, " probe"] | None = None,
        *,
        every: int = 100,
        kept: int = 16,
        start: DriftStartRule | int | None = None,
        lifetime_drift: float | None = None,
        steps: int | None = None,
    ) -> None:
        if every < 1 or kept < 1:
            raise ValueError(f"every and kept must be at least 1, got {every} and {kept}")
        self.head = head
        self.pictures = pictures
        self.every = every
        self.kept = kept
        self.start = DriftStartRule() if start is None else start
        self.lifetime_drift = lifetime_drift
        self.begin: Begin | None = None
        self._pairs = _same_class(labels) if labels is not None else torch.zeros(2, 0, dtype=torch.int64)
        self._features: list[Float[Tensor, "probe dim"]] = []  # the newest last
        self._in_a_row = 0
        self._deadline: int | None = None
        if isinstance(self.start, DriftStartRule) and steps is not None:
            self._deadline = math.ceil(self.start.by * steps)
        self._longest = None if head.variational is None else head.variational.delta_t
        self._tested = 1 if self._longest is None else -(-self._longest // every)  # lag, in intervals
        if self._waiting:
            self._check_rules()

    def step(self, backbone: nn.Module) -> Drift | None:
        """Count an optimiser step; returns the measurement if one was due, else None.

        Args:
            backbone: pictures → embeddings of what is remembered; its mode is left as it was.
        """
        step, first = self.head.step_count, self.head.ranks is None or self.head.ranks.rank == 0
        due = step % self.every == 0
        measured = None
        if due and first:
            measured = self._measure(backbone)
        at = self.start if isinstance(self.start, int) else self._deadline
        if self._waiting and (due or (at is not None and step >= at)):
            self._begin(self._decide(step) if first else None)
        return measured

    def state_dict(self) -> dict[str, Tensor]:
        """The state with which a resumed run continues as if it had not stopped."""
        if not self._features:
            return {}
        counts = {"every": torch.tensor(self.every), "in_a_row": torch.tensor(self._in_a_row)}
        return {"features": torch.stack(self._features), "probe": self._digest, **counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state; measurements of other pictures, or at another interval, are discarded."""
        self._features, self._in_a_row = [], 0
        same = "probe" in state and torch.equal(state["probe"].cpu(), self._digest)
        if same and int(state["every"]) == self.every:
            self._features = list(state["features"].to(self.pictures.device))
            self._in_a_row = int(state["in_a_row"])

    @cached_property
    def _digest(self) -> UInt8[Tensor, " bytes"]:
        """SHA-256 of the probe."""
        content = self.pictures.detach().cpu().contiguous().view(torch.uint8).numpy()
        return torch.tensor(list(hashlib.sha256(content.tobytes()).digest()), dtype=torch.uint8)

    @property
    def _waiting(self) -> bool:
        return self.head.variational is not None and self.head.begun_at is None

    def _check_rules(self) -> None:
        if self._pairs.shape[1] == 0 and (isinstance(self.start, DriftStartRule) or self.lifetime_drift is not None):
            raise ValueError(
                "drift is measured against the distance between two pictures of a class, but no two pictures of the"
                " probe are of one class; give classes of two or more pictures, or a start and a delta_t in steps"
            )
        if self.lifetime_drift is None and self._longest is None:
            raise ValueError("Δt is not given: set delta_t, or lifetime_drift to derive Δt from drift")
        if isinstance(self.start, DriftStartRule):
            if self._tested > self.kept:
                raise ValueError(
                    f"{self.kept} measurements, {self.every} steps apart, do not cover Δt = {self._longest} steps;"
                    f" measure every {-(-(self._longest or 0) // self.kept)} steps or less often"
                )
        elif self.lifetime_drift is not None and self.start < 2 * self.every:
            raise ValueError(
                f"Δt is decided by drift at step {self.start}, but the first drift is known at step {2 * self.every};"
                " start later, or measure more often"
            )

    @torch.no_grad()
    def _measure(self, backbone: nn.Module) -> Drift:
        with _evaluating(backbone):
            features = normalize(backbone(self.pictures).float(), dim=1)
        self._features = [*self._features[-self.kept :], features]
        found = self._last()
        if isinstance(self.start, DriftStartRule):
            tested = found.by_lag.get(self._tested * self.every)
            still = tested is not None and found.spread is not None and tested <= self.start.drift * found.spread
            self._in_a_row = self._in_a_row + 1 if still else 0
        return found

    def _last(self) -> Drift:
        """Drift as of the newest measurement."""
        *older, newest = self._features
        moved = [(newest - features).square().sum(dim=1).mean() for features in reversed(older)]
        one, other = newest[self._pairs.to(newest.device)]
        spread = (one - other).square().sum(dim=1).mean()
        *curve, last = torch.stack([*moved, spread]).tolist()
        by_lag = {number * self.every: value for number, value in enumerate(curve, start=1)}
        return Drift(by_lag, last if self._pairs.shape[1] else None)

    def _decide(self, step: int) -> Begin | None:
        settled = True
        if isinstance(self.start, DriftStartRule):
            settled = self._in_a_row >= self.start.measurements
            if not settled and (self._deadline is None or step < self._deadline):
                return None
        elif step < self.start:
            return None
        if self.lifetime_drift is None:
            assert self._longest is not None
            return Begin(step, self._longest, settled, by_drift=False)
        held, found = self.every, self._last() if self._features else Drift({}, None)
        for lag, moved in found.by_lag.items():
            if found.spread is None or moved > self.lifetime_drift * found.spread:
                break
            held = lag
        if self._longest is not None and self._longest <= held:
            return Begin(step, self._longest, settled, by_drift=False)
        return Begin(step, held, settled, by_drift=True)

    def _begin(self, decision: Begin | None) -> None:
        """Start injection if the first rank has decided so."""
        ranks = self.head.ranks
        if ranks is not None:
            sent = torch.zeros(4, dtype=torch.int64, device=self.head.weight.device)
            if decision is not None:
                sent = torch.tensor([int(each) for each in decision], device=sent.device)
            dist.broadcast(sent, dist.get_global_rank(ranks.group, 0), group=ranks.group)
            step, delta_t, settled, by_drift = sent.tolist()
            decision = Begin(step, delta_t, bool(settled), bool(by_drift)) if delta_t else None
        if decision is None:
            return
        self.head.begin(decision.delta_t)
        self.begin = decision
        if ranks is None or ranks.rank == 0:
            _LOG.log(logging.INFO if decision.settled else logging.WARNING, self.sentence(decision))

    def sentence(self, begin: Begin) -> str:
        """The log message about a start."""
        limit = "" if self._longest is None else f", of {self._longest} at most"
        words = f"injection begins at step {begin.step} with Δt {begin.delta_t}"
        words += f" (decided by drift{limit})" if begin.by_drift else ""
        if begin.settled or not isinstance(self.start, DriftStartRule):
            return words
        found = self._last() if self._features else Drift({}, None)
        lag = self._tested * self.every
        moved = found.by_lag.get(lag)
        share = f"{moved / found.spread:.2f}" if moved is not None and found.spread else "not known"
        return (
            f"{words} although features have not settled: over {lag} steps drift is {share} of the distance between two"
            f" pictures of a class, the bound {self.start.drift:g}. Expect noise; begin later (by), lower the learning"
            " rate, or shorten delta_t"
        )


def _same_class(labels: Int[Tensor, " probe"]) -> Int[Tensor, "2 pairs"]:
    """All pairs of rows of one class."""
    return (labels.unsqueeze(0) == labels.unsqueeze(1)).triu(diagonal=1).nonzero().t()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
