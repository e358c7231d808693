"""YuNet on photographs, if the model and photographs are beside the repository; its errors, everywhere."""

from __future__ import annotations

import json
import os
import pickle

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.paths import SHARED
from vplface.data.align import TEMPLATE, Aligner, YuNet, align_folder, read_landmarks
from vplface.data.align import yunet as yunet_module
from vplface.data.align.yunet import default_model
from vplface.data.pictures import decode_whole
from vplface.errors import DataError

MODEL = SHARED / "models" / "face_detection_yunet.onnx"
PHOTOS = SHARED / "data" / "lfw_raw_sample"
CROPS = SHARED / "data" / "lfw112"
real = pytest.mark.skipif(
    not (MODEL.is_file() and PHOTOS.is_dir() and CROPS.is_dir()),
    reason="no photographs, crops or model beside the repository (shared/data/lfw_raw_sample, lfw112, shared/models)",
)


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet(MODEL)


@pytest.fixture(scope="module")
def photograph():
    name = "John_McCain/John_McCain_0004.jpg"
    listed = json.loads((PHOTOS / "landmarks.json").read_text())
    return decode_whole((PHOTOS / name).read_bytes(), name), np.array(listed[name]["landmarks"])


@real
def test_YuNet_agrees_with_another_detector_on_lfw(yunet):
    listed = read_landmarks(PHOTOS / "landmarks.json")
    assert len(listed) == 120
    distances = []
    for name, (face,) in listed.items():
        found = yunet(decode_whole((PHOTOS / name).read_bytes(), name))
        if found:
            distances.append(min(np.linalg.norm(other.landmarks - face.landmarks, axis=1).mean() for other in found))
    assert len(distances) >= 115
    assert np.median(distances) <= 4


@real
def test_align_folder_with_listed_landmarks_reproduces_the_aligned_lfw_crops(tmp_path):
    listed = read_landmarks(PHOTOS / "landmarks.json")
    done = align_folder(PHOTOS, tmp_path / "faces", listed, picture_format="png")
    assert done.outcomes == {"aligned": 120}
    for record in done.records:
        crop, expected = (cv2.imread(str(path)) for path in (tmp_path / "faces" / record.crop, CROPS / record.name))
        assert np.abs(crop.astype(float) - expected).mean() < 2


@real
def test_YuNet_lists_the_eye_on_the_left_of_the_picture_first(yunet, photograph):
    picture, landmarks = photograph
    (face,) = yunet(picture)
    assert np.abs(face.landmarks - landmarks).max() < 12
    assert face.landmarks[0, 0] < face.landmarks[1, 0]
    assert face.landmarks[3, 0] < face.landmarks[4, 0]
    (mirrored,) = yunet(np.ascontiguousarray(picture[:, ::-1]))
    assert np.abs(249 - mirrored.landmarks[[1, 0, 2, 4, 3], 0] - face.landmarks[:, 0]).max() < 5


@real
@pytest.mark.parametrize("times", [0.4, 4, 16])
def test_YuNet_maps_landmarks_back_to_pictures_of_any_size(yunet, photograph, times):
    picture, landmarks = photograph
    side = round(250 * times)
    resized = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if times < 1 else cv2.INTER_LINEAR)
    (face,) = yunet(resized)
    assert np.abs((face.landmarks + 0.5) / times - 0.5 - landmarks).max() < 12
    assert face.box is not None
    x, y, width, height = np.array(face.box) / times
    assert x < landmarks[:, 0].min() < landmarks[:, 0].max() < x + width
    assert y < landmarks[:, 1].min() < landmarks[:, 1].max() < y + height


@real
def test_YuNet_handles_faces_at_the_border_tiny_faces_and_odd_shapes(yunet, photograph):
    picture, landmarks = photograph
    (cut,) = Aligner(yunet, "largest")(np.ascontiguousarray(picture[80:, 90:]))
    assert np.abs(cut.face.landmarks - (landmarks - (90, 80))).max() < 15
    assert (cut.picture[:, 0] == 0).all()
    tiny = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
    assert [face.side < 40 for face in yunet(tiny)] == [True]
    strip = np.zeros((16, 5000, 3), np.uint8)
    assert yunet(strip) == yunet(np.ascontiguousarray(strip.transpose(1, 0, 2))) == []


@real
def test_YuNet_is_the_same_detector_after_pickling(yunet, photograph):
    copied = pickle.loads(pickle.dumps(YuNet(MODEL, 0.7, 320)))
    assert (copied.min_score, copied.longest_side, copied.sha256) == (0.7, 320, yunet.sha256)
    np.testing.assert_array_equal(copied(photograph[0])[0].landmarks, yunet(photograph[0])[0].landmarks)
    assert YuNet(MODEL, min_score=0.999)(photograph[0]) == []


@real
def test_YuNet_writes_nothing_to_stderr(capfd):
    YuNet(MODEL)
    assert capfd.readouterr().err == ""


def test_YuNet_says_where_to_get_an_absent_model(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no\.onnx: there is no face detection model; get .* from https://.*yunet"):
        YuNet(tmp_path / "no.onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_model() == tmp_path / "vplface" / "face_detection_yunet.onnx"
    with pytest.raises(DataError, match=r"vplface/face_detection_yunet\.onnx: there is no"):
        YuNet()


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x07" * 50], ids=["empty", "text", "bytes"])
def test_YuNet_refuses_a_file_that_is_not_a_model(tmp_path, data):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(DataError, match=r"model\.onnx: not a YuNet model that OpenCV .* runs"):
        YuNet(tmp_path / "model.onnx")


def test_YuNet_refuses_a_git_lfs_pointer_and_a_folder(tmp_path):
    (tmp_path / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="Git LFS's pointer"):
        YuNet(tmp_path / "model.onnx")
    with pytest.raises(DataError, match="cannot be read"):
        YuNet(tmp_path)


def test_YuNet_refuses_another_network(tmp_path):
    shape = [1, 3, 64, 64]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "other.onnx"
    )
    with pytest.raises(DataError, match=r"other\.onnx: not a YuNet model"):
        YuNet(tmp_path / "other.onnx")


GRIDS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]


def model_with(folder, nodes, names, shape):
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
    )
    path = folder / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_YuNet_refuses_a_network_with_its_output_names_and_other_shapes(tmp_path, capfd):
    nodes = [helper.make_node("GlobalAveragePool", ["x"], [name]) for name in GRIDS]
    with pytest.raises(DataError, match=r"other\.onnx: not a YuNet model"):
        YuNet(model_with(tmp_path, nodes, GRIDS, [1, 3, 1, 1]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["import os; os.abort()", "import time; time.sleep(60)"], ids=["crash", "hang"])
def test_YuNet_refuses_a_model_that_makes_opencv_crash_or_hang(tmp_path, monkeypatch, fault):
    path = model_with(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], ["y"], [1, 3, 64, 64])
    monkeypatch.setattr(yunet_module, "_TRIAL", fault)
    monkeypatch.setattr(yunet_module, "_PATIENCE", 0.5)
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", None)  # is not reached in this process
    with pytest.raises(DataError, match=r"other\.onnx: not a YuNet model"):
        YuNet(path)


def test_YuNet_refuses_pipes_devices_and_large_files(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "endless.onnx").symlink_to("/dev/zero")
    for name in ("pipe.onnx", "endless.onnx"):
        with pytest.raises(DataError, match=rf"{name}\b.*not a regular file"):
            YuNet(tmp_path / name)
    monkeypatch.setattr(yunet_module, "LIMIT", 10)
    (tmp_path / "large.onnx").write_bytes(bytes(11))
    with pytest.raises(DataError, match=r"large\.onnx\b.*larger than"):
        YuNet(tmp_path / "large.onnx")
    with pytest.raises(DataError, match=r"cannot be read: .*too long"):
        YuNet(tmp_path / ("n" * 300))


def test_TEMPLATE_is_that_of_arcface_and_read_only():
    assert TEMPLATE.tolist() == [
        [38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="read-only"):
        TEMPLATE[0] = 0
