"""How fast generated faces are made, and how far an untrained network gets on them.

Run: python benchmarks/synthetic.py [--identities 200] [--pairs 2000]
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
import numpy as np
import torch

from vplface.data.balanced import balanced_pairs
from vplface_synthetic import SyntheticFaces


def pictures_per_second(faces: SyntheticFaces, rounds: int = 9, per_round: int = 200) -> list[float]:
    """Pictures per second of processor time of one core, in random order, for each round."""
    order = np.random.default_rng(0).integers(0, len(faces), (rounds + 1) * per_round).tolist()
    rates = []
    for start in range(0, len(order), per_round):
        begin = time.process_time()
        for index in order[start : start + per_round]:
            faces.picture(index)
        rates.append(per_round / (time.process_time() - begin))
    return rates[1:]


def untrained_accuracy(faces: SyntheticFaces, count: int, seed: int) -> float:
    """10-fold verification accuracy of a small convolutional network with random weights, by cosine."""
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 128)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.BatchNorm2d(outputs), torch.nn.PReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(128 * 49, 128)).eval()
    pairs = balanced_pairs(faces, count, seed)
    index = {faces.name(k): k for k in range(len(faces))}
    used = sorted({index[name] for name in (*pairs.left, *pairs.right)})
    pictures = np.stack([faces.picture(k) for k in used])
    with torch.no_grad():
        batch = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        embedding = torch.nn.functional.normalize(torch.cat([network(part) for part in batch.split(100)])).numpy()
    row = {k: place for place, k in enumerate(used)}
    left = embedding[[row[index[name]] for name in pairs.left]]
    right = embedding[[row[index[name]] for name in pairs.right]]
    similarity = (left * right).sum(axis=1)
    accuracies = []
    for fold in range(10):
        fit, test = pairs.fold != fold, pairs.fold == fold
        thresholds = np.sort(similarity[fit])
        scores = [((similarity[fit] > t) == pairs.same[fit]).mean() for t in thresholds]
        best = thresholds[int(np.argmax(scores))]
        accuracies.append(((similarity[test] > best) == pairs.same[test]).mean())
    return float(np.mean(accuracies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=2000)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    faces = SyntheticFaces(options.identities, 20)
    rates = pictures_per_second(faces)
    print(f"{statistics.median(rates):.0f} pictures/s per core (median of {len(rates)} rounds, best {max(rates):.0f})")
    accuracies = [untrained_accuracy(faces, options.pairs, seed) for seed in range(3)]
    print("untrained network:", ", ".join(f"{accuracy:.3f}" for accuracy in accuracies), "verification accuracy")


if __name__ == "__main__":
    main()
