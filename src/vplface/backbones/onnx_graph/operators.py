"""Table of the supported ONNX operators, in the form of their latest opset.

The keyword arguments of a function are the attributes that it supports.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F

from vplface.backbones.onnx_graph import layers, values
from vplface.backbones.onnx_graph.values import Value

OPERATORS: dict[str, Callable[..., Value]] = {
    "Abs": torch.abs,
    "Add": values.elementwise(operator.add, operator.add),
    "Attention": layers.attention,
    "AveragePool": layers.average_pool,
    "Cast": values.cast,
    "Clip": values.clip,
    "Concat": values.concat,
    "ConstantOfShape": values.constant_of_shape,
    "Conv": layers.conv,
    "Div": values.elementwise(operator.truediv, values.divided),
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": values.elementwise(operator.eq, operator.eq),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": values.expand,
    "Flatten": values.flatten,
    "Gather": values.gather,
    "Gelu": layers.gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0.0, 1.0),
    "HardSwish": F.hardswish,
    "InstanceNormalization": layers.instance_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Log": torch.log,
    "LpNormalization": layers.lp_normalization,
    "MatMul": torch.matmul,
    "Max": values.elementwise(lambda a, b: torch.clamp(a, min=b), max),
    "MaxPool": layers.max_pool,
    "Min": values.elementwise(lambda a, b: torch.clamp(a, max=b), min),
    "Mish": F.mish,
    "Mod": values.mod,
    "Mul": values.elementwise(operator.mul, operator.mul),
    "Neg": operator.neg,
    "PRelu": layers.prelu,
    "Pad": layers.pad,
    "Pow": values.elementwise(torch.pow, operator.pow),
    "Reciprocal": torch.reciprocal,
    "ReduceL2": values.reduction(lambda x, axes, keep: x.norm(dim=axes, keepdim=keep)),
    "ReduceMax": values.reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": values.reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": values.reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "Relu": F.relu,
    "Reshape": values.reshape,
    "Shape": values.shape_of,
    "Sigmoid": torch.sigmoid,
    "Slice": values.slice_,
    "Softmax": layers.softmax,
    "Softplus": F.softplus,
    "Split": values.split,
    "Sqrt": values.elementwise(torch.sqrt, math.sqrt),
    "Squeeze": values.squeeze,
    "Sub": values.elementwise(operator.sub, operator.sub),
    "Tanh": torch.tanh,
    "Transpose": lambda x, *, perm=None: x.permute(tuple(perm or range(x.ndim - 1, -1, -1))),
    "Unsqueeze": values.unsqueeze,
    "Where": values.where,
}
"""Operator → function of its inputs, with its attributes as keyword arguments. BatchNormalization is a module."""
