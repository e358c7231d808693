"""Reading, writing and loading of LFW, where a copy lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.paths import SHARED
from vplface.data.augment import Augmentation
from vplface.data.batches import load_all, load_batches
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.verification_bin import VerificationBin, write_verification_bin
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import resolve
from vplface.data.people import read_people
from vplface.data.samplers import ShuffledBatches
from vplface.data.selection import narrow

FACES = SHARED / "data"
pytestmark = pytest.mark.skipif(
    not (FACES / "lfw112").is_dir() or not (FACES / "lfw_protocol").is_dir(),
    reason="no real faces beside the repository (shared/data/lfw112, shared/data/lfw_protocol)",
)


@pytest.fixture(scope="module")
def lfw() -> ImageFolder:
    return ImageFolder(FACES / "lfw112")


def test_ImageFolder_reads_all_of_LFW(lfw: ImageFolder) -> None:
    counts = np.bincount(lfw.labels)
    assert (len(lfw), len(lfw.identities)) == (13_233, 5_749)
    assert [int((counts >= least).sum()) for least in (2, 4, 10, 20)] == [1_680, 610, 158, 62]
    assert set(lfw.identities) == set(read_people(FACES / "lfw_protocol/people.txt"))


def test_write_verification_bin_round_trip_keeps_pairs_and_pictures_of_LFW(lfw: ImageFolder, tmp_path: Path) -> None:
    pairs = read_pairs(FACES / "lfw_protocol/pairs.txt")
    write_verification_bin(tmp_path / "lfw.bin", lfw, pairs)
    pictures = VerificationBin(tmp_path / "lfw.bin")
    assert pictures.pairs.same.tolist() == pairs.same.tolist()
    assert pictures.pairs.fold.tolist() == pairs.fold.tolist()
    for old_side, new_side in zip(resolve(pairs, lfw), resolve(pictures.pairs, pictures), strict=True):
        for old, new in zip(old_side[::50].tolist(), new_side[::50].tolist(), strict=True):
            assert pictures.encoded(new) == lfw.encoded(old)
    used = np.unique(np.concatenate(resolve(pairs, lfw)))
    assert (len(pictures), len(np.unique(lfw.labels[used]))) == (len(used), 4_281)
    assert len(pictures.identities) == 4_859  # docs/data.md says so


@pytest.mark.parametrize(
    ("file", "pairs", "folds"), [("pairs.txt", 6000, 10), ("pairsDevTrain.txt", 2200, 1), ("pairsDevTest.txt", 1000, 1)]
)
def test_resolve_finds_every_LFW_pair_with_the_stated_identities(
    lfw: ImageFolder, file: str, pairs: int, folds: int
) -> None:
    listed = read_pairs(FACES / "lfw_protocol" / file)
    left, right = resolve(listed, lfw)
    assert len(listed) == pairs
    assert np.bincount(listed.fold).tolist() == [pairs // folds] * folds
    assert np.array_equal(lfw.labels[left] == lfw.labels[right], listed.same)
    assert [lfw.name(index) for index in left[:2]] == [name + ".jpg" for name in listed.left[:2]]


def test_read_people_of_View_1_gives_disjoint_parts_of_LFW_for_narrow() -> None:
    train = read_people(FACES / "lfw_protocol/peopleDevTrain.txt")
    test = read_people(FACES / "lfw_protocol/peopleDevTest.txt")
    assert (len(train), len(test)) == (4_038, 1_711)
    assert set(train).isdisjoint(test)
    held_out = narrow(ImageFolder(FACES / "lfw112"), test, min_pictures=2)
    assert set(held_out.identities) < set(test)
    resolve(read_pairs(FACES / "lfw_protocol/pairsDevTest.txt"), narrow(ImageFolder(FACES / "lfw112"), test))


def test_ImageFolder_picture_decodes_to_RGB(lfw: ImageFolder) -> None:
    """Skin is redder than blue; with BGR taken for RGB it would be bluer than red."""
    sample = range(0, len(lfw), 100)
    centres = np.stack([lfw.picture(index)[40:80, 40:72] for index in sample]).mean((0, 1, 2))
    assert centres[0] > centres[1] + 10 > centres[2] + 10
    assert {lfw.picture(index).shape for index in sample} == {(112, 112, 3)}


def test_load_batches_and_load_all_read_LFW_with_any_number_of_workers(lfw: ImageFolder) -> None:
    augmentation = Augmentation(shift=0.05, scale=0.1, rotate=10, light=0.3, low_resolution=0.2, occlusion=0.2)
    one, two = (
        torch.cat([b.pictures for b in load_batches(lfw, ShuffledBatches(len(lfw), 64, 0), augmentation, 0, 0, 3, w)])
        for w in (0, 2)
    )
    assert torch.equal(one, two)
    plain = torch.cat([batch.pictures for batch in load_all(lfw, range(100), 64, 1)])
    assert torch.equal(plain[99], torch.from_numpy(lfw.picture(99)))
