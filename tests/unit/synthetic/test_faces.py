"""Generated faces: pure functions of their options, with the sizes and label noise asked for, and distinct people."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from vplface.data.contact_sheet import contact_sheet
from vplface.data.forking import configure_worker, worker_processes
from vplface_synthetic import SyntheticFaces


def _digest(faces: SyntheticFaces, order) -> dict[int, str]:
    return {int(k): hashlib.sha256(faces.picture(int(k)).tobytes()).hexdigest() for k in order}


def _remote_digest(order: list[int]) -> dict[int, str]:
    return _digest(SyntheticFaces(6, 4, seed=3, label_noise=0.25), order)


def test_SyntheticFaces_picture_is_rgb_112_uint8_and_named_by_identity_and_number():
    faces = SyntheticFaces(3, 2, first_identity=41)
    picture = faces.picture(3)
    assert picture.shape == (112, 112, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.std() > 10
    assert faces.identities == ["id_00041", "id_00042", "id_00043"]
    assert faces.name(3) == "id_00042/0001.png"
    assert len(faces) == 6
    np.testing.assert_array_equal(faces.labels, [0, 0, 1, 1, 2, 2])
    assert faces.labels.dtype == np.int64


def test_SyntheticFaces_picture_channels_are_in_rgb_order():
    faces = SyntheticFaces(40, 1, difficulty=0.0)
    cheeks = np.mean([faces.picture(k)[70:80, 40:72].mean(axis=(0, 1)) for k in range(40)], axis=0)
    assert cheeks[0] > cheeks[1] > cheeks[2]


def test_SyntheticFaces_pictures_do_not_depend_on_access_order_or_process():
    order = list(range(24))
    here = _remote_digest(order)
    backwards = _remote_digest(order[::-1])
    with worker_processes() as context, ProcessPoolExecutor(2, context, initializer=configure_worker) as pool:
        halves = list(pool.map(_remote_digest, [order[::2], order[1::2]]))
    assert here == backwards
    assert here == {**halves[0], **halves[1]}
    assert len(set(here.values())) == 24


def test_SyntheticFaces_picture_is_the_same_in_every_set_that_holds_it():
    small = SyntheticFaces(2, 3, seed=5, first_identity=7)
    large = SyntheticFaces(9, 5, seed=5, tail=0.7, fewest=3)
    row = int(np.flatnonzero(large.labels == 7)[2])
    assert large.name(row) == small.name(2)
    np.testing.assert_array_equal(small.picture(2), large.picture(row))


def test_SyntheticFaces_show_other_people_for_another_seed_or_identity():
    pictures = [
        SyntheticFaces(1, 1, seed=seed, first_identity=first, difficulty=0.0).picture(0)
        for seed, first in ((0, 0), (1, 0), (0, 1))
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[a].astype(float) - pictures[b]).mean() > 5


def test_SyntheticFaces_tail_sizes_follow_a_power_law_in_random_order():
    faces = SyntheticFaces(10, 40, tail=1.0, fewest=3)
    sizes = np.bincount(faces.labels)
    expected = [max(3, round(40 / rank)) for rank in range(1, 11)]
    assert sorted(sizes, reverse=True) == sorted(expected, reverse=True)
    assert list(sizes) != expected
    np.testing.assert_array_equal(sizes, np.bincount(SyntheticFaces(10, 40, tail=1.0, fewest=3).labels))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 1.0])
def test_SyntheticFaces_label_noise_mislabels_its_share_and_marks_it(share):
    faces = SyntheticFaces(8, 10, label_noise=share)
    clean = SyntheticFaces(8, 10)
    assert faces.mislabelled.sum() == round(share * 80)
    np.testing.assert_array_equal(faces.mislabelled, faces.shown != faces.labels)
    assert faces.shown.min() >= 0
    assert faces.shown.max() < 8
    for k in (*np.flatnonzero(faces.mislabelled)[:3], *np.flatnonzero(~faces.mislabelled)[:3]):
        same = np.array_equal(faces.picture(int(k)), clean.picture(int(k)))
        assert same != faces.mislabelled[k]


def test_SyntheticFaces_pictures_of_one_person_are_more_similar_than_of_two():
    faces = SyntheticFaces(30, 3, difficulty=0.3)
    small = np.stack([faces.picture(k)[36:104:3, 26:86:3].astype(np.float64).ravel() for k in range(len(faces))])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    similarity = small @ small.T
    same = faces.labels[:, None] == faces.labels[None, :]
    different = ~same
    np.fill_diagonal(same, False)
    genuine, impostor = similarity[same], similarity[different]
    area = (genuine[:, None] > impostor[None, :]).mean()
    assert area > 0.75


def test_SyntheticFaces_pictures_of_a_person_are_similar_at_difficulty_zero():
    faces = SyntheticFaces(2, 3, difficulty=0.0)
    similar = np.abs(faces.picture(0).astype(float) - faces.picture(1))[40:100, 30:82].mean()
    other = np.abs(faces.picture(0).astype(float) - faces.picture(3))[40:100, 30:82].mean()
    assert similar < 0.5 * other


@pytest.mark.parametrize(
    "options",
    [
        {"identities": 0},
        {"pictures": 0},
        {"fewest": 0},
        {"seed": -1},
        {"first_identity": -1},
        {"tail": -0.1},
        {"label_noise": 1.1},
        {"identities": 1, "label_noise": 0.1},
        {"difficulty": -1.0},
    ],
)
def test_SyntheticFaces_refuses_options_out_of_range(options):
    with pytest.raises(ValueError, match="at least"):
        SyntheticFaces(**options)


def test_contact_sheet_has_one_person_per_row():
    faces = SyntheticFaces(2, 2)
    sheet = contact_sheet(faces, rows=2, columns=3, enlarge=1)
    assert sheet.shape == (224, 336, 3)
    np.testing.assert_array_equal(sheet[112:, 112:224], faces.picture(3))
    assert not sheet[:, 224:].any()
