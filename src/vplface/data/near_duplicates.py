"""Detection of near duplicates: copies that were re-encoded, resized, or made brighter or darker.

A difference hash records whether brightness rises or falls between neighbours along the rows of a shrunken picture.
Each picture has two, of 64 and 256 bits. The short one finds candidates, at most :data:`NEAR_64` bits apart: of its six
blocks at least two then agree, so sorting by each pair of blocks finds all candidates exactly. Aligned faces are so
similar that candidates include different photographs; the long hash, at most :data:`NEAR_256` bits apart, separates
them from copies.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from vplface.errors import import_extra
from vplface.progress import progress

cv2 = import_extra("cv2", "train")

NEAR_64 = 4
NEAR_256 = 24
"""Largest distance of copies in LFW and part of CelebA; other photographs start at about 30."""

_BLOCKS = NEAR_64 + 2


def difference_hashes(picture: UInt8[np.ndarray, "h w 3"]) -> UInt64[np.ndarray, " 5"]:
    """The 64-bit hash of a picture, and its 256-bit hash in four words."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    words = []
    for side in (8, 16):
        shrunken = cv2.resize(grey, (side + 1, side), interpolation=cv2.INTER_AREA)
        words.append(np.packbits(shrunken[:, 1:] > shrunken[:, :-1]).view(np.uint64))
    return np.concatenate(words)


def near_pairs(hashes: UInt64[np.ndarray, "n 5"]) -> Int64[np.ndarray, "pairs 2"]:
    """All pairs i < j of rows that differ in at most 4 of the 64 and 24 of the 256 bits, each once, in order."""
    found = [np.zeros(0, np.int64)]
    short = np.ascontiguousarray(hashes[:, 0])
    edges = np.linspace(0, 64, _BLOCKS + 1).astype(int)
    masks = [np.uint64((1 << int(stop)) - (1 << int(start))) for start, stop in itertools.pairwise(edges)]
    combined = [one | two for one, two in itertools.combinations(masks, 2)]
    with progress("comparing pictures", len(combined)) as advance:
        for mask in combined:
            order = np.argsort(short & mask, kind="stable")
            ordered = short[order]
            keys = ordered & mask
            # Partners at distance 1, 2, ... in the sorted order, for as long as their keys agree.
            places, step = np.arange(len(keys)), 1
            while True:
                places = places[places + step < len(keys)]
                places = places[keys[places] == keys[places + step]]
                if not len(places):
                    break
                near = places[np.bitwise_count(ordered[places] ^ ordered[places + step]) <= NEAR_64]
                left, right = order[near], order[near + step]
                apart = np.bitwise_count(hashes[left, 1:] ^ hashes[right, 1:]).sum(axis=1)
                left, right = left[apart <= NEAR_256], right[apart <= NEAR_256]
                found.append(np.minimum(left, right) * len(hashes) + np.maximum(left, right))
                step += 1
            advance(1)
    pairs = np.unique(np.concatenate(found))
    return np.stack(np.divmod(pairs, len(hashes) or 1), axis=1)


def near_duplicates(
    hashes: UInt64[np.ndarray, "n 5"], labels: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Near duplicates of each picture: the first other one of its own label, and one of another label.

    Returns:
        Indices of both, −1 if there is none.
    """
    rows, row_of = np.unique(hashes, axis=0, return_inverse=True)
    row_of = row_of.reshape(-1)
    names = int(labels.max(initial=0)) + 1
    # A cell is a row and a label that occur together: of thousands of equal pictures only cells are compared.
    cells, first, cell_of = np.unique(row_of * names + labels, return_index=True, return_inverse=True)
    cell_row, cell_label = np.divmod(cells, names)
    begin = np.searchsorted(cell_row, np.arange(len(rows) + 1))
    pairs = near_pairs(rows)
    left = np.concatenate([np.arange(len(rows)), pairs[:, 0], pairs[:, 1]])
    right = np.concatenate([np.arange(len(rows)), pairs[:, 1], pairs[:, 0]])

    counts = begin[left + 1] - begin[left]
    own = np.repeat(begin[left] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    other_row = np.repeat(right, counts)
    same = np.minimum(np.searchsorted(cells, other_row * names + cell_label[own]), len(cells) - 1)
    has_same = cells[same] == other_row * names + cell_label[own]
    earliest = np.full(len(cells), len(labels))
    np.minimum.at(earliest, own[has_same], first[same[has_same]])

    # If any cell of a row has another label, its first or its last one does.
    stranger = np.where(cell_label[begin[other_row]] != cell_label[own], begin[other_row], begin[other_row + 1] - 1)
    strange = cell_label[stranger] != cell_label[own]
    other = np.full(len(cells), len(labels))
    np.minimum.at(other, own[strange], first[stranger[strange]])

    within, across = earliest[cell_of], other[cell_of]
    within[within == np.arange(len(labels))] = -1
    across[across == len(labels)] = -1
    return within, across
