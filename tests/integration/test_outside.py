"""Neither vplface nor a library that it loads looks up a host, connects, or leaves a file of its own."""

from __future__ import annotations

import re

import pytest

from helpers.watching import watch

FONTS = re.compile(r"\.cache/matplotlib/fontlist-[\w.]+\.json")
COMPILED = re.compile(r".*/__pycache__(/[^/]+\.nb[ci](\.tmp\.\w+)?)?")
"""What numba compiled, beside its source."""

COMMANDS = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from vplface.cli import main

def run(command):
    sys.argv = ["vplface", *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command

nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["e"])]
x, e = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["b", 3, 112, 112]), ("e", ["b", 3])))
graph = helper.make_graph(nodes, "mean colour", [x], [e])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "mean.onnx")

run("data synth faces --identities 4 --pictures 3")
run("data convert faces faces.parquet --to parquet")
run("data convert faces shards --to tar")
run("data info faces.parquet --plot info.png")
run("embed mean.onnx faces --color rgb --out embeddings.npz")
run("enroll gallery --model mean.onnx --color rgb faces")
run("train folder data.train=shards data.holdout=0 name=run backbone.name=tiny batch_size=4 data.workers=1"
    " variational.start=0 schedule.warmup=0 schedule.length=2")
run("export runs/run run.onnx")
"""
LIBRARIES = """
import importlib
import vplface

for name in ("cv2", "faiss", "gradio", "huggingface_hub", "lightning", "matplotlib.pyplot", "mlflow", "numba",
             "onnxruntime.quantization", "onnxruntime.transformers.float16", "onnxscript", "pyarrow.dataset",
             "pytorch_metric_learning.losses", "timm", "torch.utils.tensorboard", "triton", "wandb", "webdataset"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(name, error)
"""


@pytest.mark.parametrize("script", [COMMANDS, LIBRARIES], ids=["commands", "libraries"])
def test_vplface_and_its_libraries_open_no_connection_and_leave_no_files(tmp_path, script):
    pytest.importorskip("onnxruntime")
    seen = watch(script, tmp_path)
    assert seen.status == 0, seen.output
    assert seen.reached == set()
    assert [path for path in seen.left if not FONTS.fullmatch(path)] == []
    assert [path for path in seen.written if not COMPILED.fullmatch(path)] == []
