"""Fixtures of made-up runs: plausible curves, scores and an embedding on a sphere, as training leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from vplface.report import Sphere, read_run

STEPS, LOG_EVERY, START = 3000, 10, 600
SETS = ("synthetic held-out people", "LFW View 1")
PEOPLE = ["Aaron_Nils", "Bo_Lindqvist", "Chidi_Anwar", "Dalia_Reyes", "Emre_Soylu", "Fumiko_Ando", "Galina_Petrova"]


def build_study(folder: Path) -> list[Path]:
    """Two arms and the paired comparison between them."""
    arms = [build_run(folder / "arcface", variational=False), build_run(folder / "vpl-arcface", variational=True)]
    measured = [json.loads((arm / "evaluation.json").read_text()) for arm in arms]
    comparison = {}
    for set_name, half_width in zip(SETS, (0.006, 0.011), strict=True):
        comparison[set_name] = {}
        for metric in ("accuracy", "tar@far=1e-2", "tar@far=1e-3", "tar@far=1e-4"):
            first, second = (arm[set_name]["metrics"][metric]["value"] for arm in measured)
            width = half_width * (1 if metric == "accuracy" else 2.2)
            low, high = second - first - width, second - first + width
            comparison[set_name][metric] = {
                "difference": second - first,
                "ci95": [low, high],
                "distinguishable": bool(low > 0 or high < 0),
            }
    (folder / "comparison.json").write_text(json.dumps(comparison))
    return arms


def build_run(folder: Path, *, variational: bool) -> Path:
    """One run folder with every part that a report can show."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7 if variational else 3)
    config = {
        "name": folder.name,
        "output": "runs/quickstart",
        "seed": 0,
        "data": {"train": [{"path": "data/synth", "min_pictures": 1}], "augmentation": {"flip": 0.5, "shift": 0.04}},
        "backbone": {"name": "tiny", "embedding_dim": 128, "options": {"width": 32}},
        "margin": {"name": "arcface", "scale": 32.0, "margin": 0.4, "margin_gradient": "exact"},
        "variational": {"lam": 0.15, "delta_t": "160 steps", "start": f"{START} steps", "renormalise": True}
        if variational
        else None,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
        "batch_size": 128,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {
        "command": "vplface train configs/quickstart.yaml",
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "numpy": "2.4.0", "vplface": "0.1.0"},
        "cpu": "2 cores",
        "gpu": None,
        "threads": 2,
        "identities": 800,
        "pictures": 16000,
        "steps_per_epoch": 125,
        "steps": STEPS,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    card = {"backbone": "tiny", "embedding_dim": 128, "training_data": "synth", "identities": 800}
    card |= {"pictures": 16000, "step": STEPS}
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "model.safetensors").write_bytes(rng.bytes(2000))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _log(rng, variational)))
    (folder / "evaluation.json").write_text(
        json.dumps({name: _evaluation(rng, name, variational, hard) for name, hard in zip(SETS, (0, 1), strict=True)})
    )
    if variational:
        np.savez(folder / "sphere.npz", **sphere_arrays(rng))
    return folder


def _log(rng: np.random.Generator, variational: bool) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY):
        share = step / STEPS
        lr = 0.1 * min(1.0, (step + 1) / 150) * 0.5 * (1 + np.cos(np.pi * share))
        own = 0.03 + 0.72 * (1 - np.exp(-3.2 * share)) + rng.normal(0, 0.008)
        alive = variational and step >= START
        coverage = 0.92 * (1 - np.exp(-(step - START) / 60)) if alive else 0.0
        lines.append(
            {
                "step": step,
                "epoch": step // 125,
                "loss": float(17 * np.exp(-3.1 * share) + 1.3 + (0.25 if alive else 0) + rng.normal(0, 0.3)),
                "lr": float(lr),
                "pictures_per_second": float(620 + rng.normal(0, 14)),
                "coverage": float(coverage),
                "cos_prototype": float(own),
                "cos_memory": float(0.86 * own + rng.normal(0, 0.008)) if alive and step > START else None,
                **(_instruments(rng, share, own, alive) if step % 300 == 0 else {}),
                "drift": float(0.02 + 0.5 * np.exp(-4 * share) + rng.normal(0, 0.004)),
                "time": step * 0.052,
            }
        )
        if step % 500 == 0:
            accuracy = 0.965 - 0.3 * np.exp(-3.6 * share) + (0.004 if variational else 0)
            lines.append({"step": step, "validation": {SETS[0]: {"accuracy": float(accuracy)}}})
    return lines


def _instruments(rng: np.random.Generator, share: float, own: float, alive: bool) -> dict[str, object]:
    """What a measurement of drift leaves in the journal, with what injection does where it has begun."""
    fast = 0.5 * np.exp(-4 * share)
    told: dict[str, object] = {
        "drift_by_lag": {str(lag): float(0.9 * (1 - np.exp(-fast * lag / 200))) for lag in range(20, 340, 20)},
        "spread": float(1.4 - 0.9 * share),
    }
    if alive:
        told |= {
            "cosine_by_age": {
                str(age): float(0.86 * own - 0.0004 * age + rng.normal(0, 0.004)) for age in range(10, 161, 10)
            },
            "samples_by_age": {str(age): 400 // age for age in range(10, 161, 10)},
            "injected_angle": {"mean": float(7 - 3 * share), "p95": float(11 - 4 * share + rng.normal(0, 0.1))},
            "gradient_norm": {"injected": float(2.2 - share), "plain": float(1.8 - share)},
            "nearer_to_memory": float(0.6 - 0.2 * share),
        }
    return told


def _evaluation(rng: np.random.Generator, name: str, variational: bool, hard: int) -> dict[str, object]:
    centre = 0.44 - 0.06 * hard + (0.004 + 0.03 * hard if variational else 0)
    genuine = np.clip(rng.normal(centre, 0.13, 3000), -1, 1)
    impostor = np.clip(rng.normal(0.03, 0.105, 60000), -1, 1)
    ordered = np.sort(impostor)[::-1]
    far = np.unique(np.concatenate([[0.0], np.logspace(-4.5, 0, 90)]))
    cut = [1.0 if f == 0 else ordered[min(int(f * len(ordered)), len(ordered) - 1)] for f in far]
    tar = [float((genuine > c).mean()) for c in cut]
    threshold = 0.235
    value = float(((genuine > threshold).mean() + (impostor <= threshold).mean()) / 2)
    metrics = {
        "accuracy": {"value": value, "std": 0.006, "ci95": [value - 0.008, value + 0.007], "threshold": threshold}
    }
    for text in ("1e-2", "1e-3", "1e-4"):
        at = float(np.interp(float(text), far, tar))
        half = 0.012 + 0.006 * (-np.log10(float(text)))
        metrics[f"tar@far={text}"] = {"value": at, "ci95": [at - half, at + half], "actual_far": float(text)}
    edges = np.linspace(-1, 1, 101)
    names = [f"{person}/{person}_{k:04d}.jpg" for person in PEOPLE for k in (1, 2)]
    worst_genuine = [
        {"left": names[2 * k], "right": names[2 * k + 1], "similarity": float(s)}
        for k, s in enumerate(np.sort(genuine)[:7])
    ]
    worst_impostor = [
        {"left": names[2 * k], "right": names[(2 * k + 2) % 14], "similarity": float(s)}
        for k, s in enumerate(ordered[:7])
    ]
    return {
        "name": name,
        "protocol": {
            "kind": "pair list",
            "pairs": 63000,
            "folds": 10,
            "accuracy_rule": "exact",
            "threshold_from": "the other folds",
            "genuine": 3000,
            "impostors": 60000,
            "identities": 412,
            "accept": "similarity >= threshold",
            "flip": "sum",
            "far_rule": "strict",
            "bootstrap": 500,
            "seed": 0,
        },
        "metrics": metrics,
        "curves": {
            "roc": {"far": far.tolist(), "tar": tar},
            "histogram": {
                "edges": edges.tolist(),
                "genuine": np.histogram(genuine, edges)[0].tolist(),
                "impostor": np.histogram(impostor, edges)[0].tolist(),
            },
        },
        "worst": {"genuine": worst_genuine, "impostor": worst_impostor},
    }


def sphere_arrays(
    rng: np.random.Generator, classes: int = 11, each: int = 40, lam: float = 0.35
) -> dict[str, np.ndarray]:
    """Classes spread over the sphere, each a slanted cloud of samples, some with a remembered feature."""
    k = np.arange(classes) + 0.5
    polar, turn = np.arccos(1 - 2 * k / classes), np.pi * (1 + 5**0.5) * k
    centres = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)
    labels = np.repeat(np.arange(classes), each)
    clouds = []
    for centre in centres:
        axes = np.linalg.qr(np.concatenate([centre[:, None], rng.normal(size=(3, 2))], axis=1))[0][:, 1:]
        spread = rng.normal(size=(each, 2)) * rng.uniform((0.09, 0.07), (0.24, 0.13))
        clouds.append(centre + spread @ axes.T)
    unit = lambda points: points / np.linalg.norm(points, axis=1, keepdims=True)  # noqa: E731
    embeddings = unit(np.concatenate(clouds))
    prototypes = unit(centres + rng.normal(0, 0.05, centres.shape))
    timer = np.where(rng.random(classes) < 0.75, rng.integers(1, 160, classes), 0).astype(np.int32)
    memory = np.stack([embeddings[labels == label][rng.integers(each)] for label in range(classes)])
    memory[timer == 0] = 0.0
    injected = lam * (timer > 0)[:, None]
    return {
        "embeddings": embeddings.astype(np.float32),
        "labels": labels,
        "prototypes": prototypes.astype(np.float32),
        "memory": memory.astype(np.float32),
        "timer": timer,
        "lam": np.float64(lam),
        "variational": unit((1 - injected) * prototypes + injected * memory).astype(np.float32),
    }


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    return build_study(tmp_path)


@pytest.fixture
def vpl_run(tmp_path: Path) -> Path:
    return build_run(tmp_path / "vpl-arcface", variational=True)


@pytest.fixture
def sphere(vpl_run: Path) -> Sphere:
    found = read_run(vpl_run).sphere
    assert found is not None
    return found
