"""Strata of pairs by the quality of their pictures: error rates, and which strata make the impostor tail.

All strata are judged at the threshold of the whole set. The tail at a false accept rate are the impostor pairs that its
threshold accepts. A stratum whose share of the tail exceeds its share of all impostor pairs is over-represented there;
the ratio of the two is that of its FMR and the overall one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vplface.evaluation.bootstrap import all_draws
from vplface.evaluation.figure import Figure, Figures
from vplface.evaluation.metrics import POOR_NORM, TAIL, far_point
from vplface.evaluation.pair_classes import PairClasses, count_errors
from vplface.evaluation.recognisability import mean_direction, norm_of_mean, recognisability
from vplface.evaluation.scores import Scores

STRATA = ("both good", "one poor", "both poor")
_MEMBERS = ((0, 0), (0, 1), (1, 1))
_BINS = 100


@dataclass(frozen=True, eq=False)
class Quality:
    """Which pictures of a set are poor, and where a model's embeddings of them lie.

    Attributes:
        poor: whether each picture is poor.
        cosine: of each embedding with the mean direction of the poor ones; NaN for a picture that is not compared.
        norm: the norm of the mean of the ``"good"`` and of the ``"poor"`` embeddings.
        replicates: of the latter.
    """

    poor: Bool[np.ndarray, " n"]
    cosine: Float64[np.ndarray, " n"]
    norm: Mapping[str, Figure]
    replicates: Float64[np.ndarray, " replicates"]

    @classmethod
    def of(
        cls,
        embeddings: Float64[np.ndarray, "m dim"],
        used: Int64[np.ndarray, " m"],
        poor: Bool[np.ndarray, " n"],
        identity: Int64[np.ndarray, " n"],
        replicates: int,
        seed: int,
    ) -> Quality:
        """Measure embeddings.

        Args:
            embeddings: of unit norm.
            used: the picture of each.
            poor: whether each picture of the set is poor.
            identity: the person on each picture, 0, 1, …; −1 for one that is not compared.
            replicates: draws of people for the intervals; 0 for none.
            seed: of the draws.
        """
        cosine = np.full(len(poor), np.nan)
        cosine[used] = np.clip(embeddings @ mean_direction(embeddings[poor[used]]), -1.0, 1.0)
        people = int(identity.max()) + 1
        drawn = all_draws(people, replicates, seed)
        norm, of_draws = {}, {}
        for name, some in (("good", ~poor[used]), ("poor", poor[used])):
            x, person = embeddings[some], identity[used][some]
            value = float(norm_of_mean(x, person, np.ones((1, people), np.int64))[0])
            of_draws[name] = norm_of_mean(x, person, drawn)
            if np.isfinite(value):
                norm[name] = Figure(value, count=len(np.unique(person))).resampled(of_draws[name])
            else:
                norm[name] = Figure(None, details={"reason": f"no {name} pictures of two people"})
        return cls(poor, cosine, norm, of_draws["poor"])

    def of_pair(self, left: int, right: int) -> dict[str, Any]:
        """Whether each picture of a pair is poor, and its recognisability; JSON-ready."""
        both = [left, right]
        scores = recognisability(self.cosine[both])
        return {"poor": self.poor[both].tolist(), "recognisability": scores.round(4).tolist()}

    def to_json(self, identity: Int64[np.ndarray, " n"]) -> dict[str, Any]:
        """Numbers of pictures and people, norms, quartiles of the recognisability and histograms of the cosine."""
        edges = np.linspace(-1.0, 1.0, _BINS + 1)
        parts = {"good": ~self.poor & (identity >= 0), "poor": self.poor & (identity >= 0)}
        quartiles = {
            name: np.quantile(recognisability(self.cosine[part]), [0.25, 0.5, 0.75]).tolist() if part.any() else None
            for name, part in parts.items()
        }
        return {
            "pictures": {
                name: {
                    "count": int(part.sum()),
                    "identities": len(np.unique(identity[part])),
                    "norm": self.norm[name].to_json(),
                    "recognisability": quartiles[name],
                }
                for name, part in parts.items()
            },
            "cosine": {"edges": edges.tolist()}
            | {name: np.histogram(self.cosine[part], edges)[0].tolist() for name, part in parts.items()},
        }


def stratify(
    scores: Scores, quality: Quality, thresholds: Mapping[float, float], replicates: int, seed: int
) -> tuple[dict[str, Any], Figures]:
    """Error rates and shares of the impostor tail by stratum, and the figures of the tail and of the poor pictures.

    Args:
        scores: of all pairs; if only the highest impostor scores are available, they must reach below the thresholds.
        quality: of the pictures.
        thresholds: {false accept rate: threshold}; a draw of people keeps them.
        replicates: draws of people for the intervals; 0 for none.
        seed: of the draws.

    Returns:
        ``"pictures"`` and ``"cosine"`` of :meth:`Quality.to_json`. ``"pairs"``: {stratum: {"genuine", "impostors",
        "share"}}, the share of all impostor pairs. ``"at"``: {point: {"threshold", "accepted", "strata"}}, with the
        number of impostor pairs accepted and {stratum: {"fnmr", "fmr", "tail"}}, a
        :class:`~vplface.evaluation.figure.Figure` each; ``"tail"`` is the share of the accepted impostor pairs. A
        figure of no pairs has no value.
    """
    classes = PairClasses(quality.poor.astype(np.int64), _MEMBERS)
    points = {far_point(far): threshold for far, threshold in thresholds.items()}
    counted = count_errors(scores, classes, points, replicates, seed)
    genuine, impostor = counted["fnmr"], counted["fmr"]
    people = classes.people(scores.identity)
    at: dict[str, Any] = {}
    figures = {POOR_NORM.name: quality.norm["poor"]}
    resampled = {POOR_NORM.name: quality.replicates}
    for t, (far, threshold) in enumerate(thresholds.items()):
        strata = {}
        accepted = impostor.errors[t].sum()
        for k, name in enumerate(STRATA):
            fnmr = _figure(genuine.rates[t, k], genuine.drawn_rates[:, t, k], people[k], genuine.pairs[k])
            fmr = _figure(impostor.rates[t, k], impostor.drawn_rates[:, t, k], people[k], impostor.pairs[k])
            tail = _figure(impostor.shares[t, k], impostor.drawn_shares[:, t, k], scores.identities, accepted)
            strata[name] = {"fnmr": fnmr.to_json(), "fmr": fmr.to_json(), "tail": tail.to_json()}
        figures[TAIL.at(far).key], resampled[TAIL.at(far).key] = tail, impostor.drawn_shares[:, t, k]
        at[far_point(far)] = {"threshold": threshold, "accepted": int(accepted), "strata": strata}
    pairs = {
        name: {
            "genuine": int(genuine.pairs[k]),
            "impostors": int(impostor.pairs[k]),
            "share": float(impostor.pairs[k] / impostor.pairs.sum()),
        }
        for k, name in enumerate(STRATA)
    }
    strata_json = {**quality.to_json(scores.identity), "pairs": pairs, "at": at}
    return strata_json, Figures(figures, {key: each for key, each in resampled.items() if np.isfinite(each).any()})


def _figure(value: float, replicates: Float[np.ndarray, " r"], people: int, pairs: float) -> Figure:
    """A rate with its interval; no more independent people count than there are pairs."""
    if not np.isfinite(value):
        return Figure(None)
    return Figure(float(value), count=min(people, int(pairs))).resampled(replicates)
