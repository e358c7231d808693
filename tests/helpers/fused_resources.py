"""Resources of the kernels of a fused step, compiled for a GPU that is not there: ``python fused_resources.py 90``.

Prints a JSON list with an entry for each launch. Needs TRITON_INTERPRET=0.
"""

from __future__ import annotations

import itertools
import json
import re
import sys

import torch

from helpers.offline_triton import CompiledLaunches, resources
from vplface import FusedSGD, PrototypeHead, Variational
from vplface.softmax.fused import tiles

CASES = [
    (torch.bfloat16, 10_000_000, Variational(0.15, 100, 0)),
    (torch.bfloat16, 100_000, None),
    (torch.float32, 100_000, Variational(0.15, 100, 0)),
]


def launches_of(operands, classes, variational):
    """The launches of a training step on meta tensors."""
    torch.set_autocast_enabled("cuda", operands == torch.bfloat16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    head = PrototypeHead(
        classes, 512, variational=variational, optimizer=FusedSGD(0.1), backend="triton", device="meta"
    )
    embeddings = torch.empty(512, 512, device="meta", requires_grad=True)
    head(embeddings, torch.empty(512, dtype=torch.int64, device="meta")).backward()


def main(arch: int) -> None:
    tiles.capability = lambda device: divmod(arch, 10)
    found = []
    for case in CASES:
        with CompiledLaunches(arch) as compiled:
            launches_of(*case)
        for launch in compiled.launches:
            wide = re.findall(r"tt\.addptr .*i64", launch.kernel.asm["ttir"])
            found.append(
                {
                    "name": launch.name,
                    "operands": str(case[0]),
                    "classes": case[1],
                    "wide_offsets": len(wide),
                    **resources(launch.kernel),
                }
            )
    assert len(found) == len(list(itertools.chain(range(10), range(8), range(10))))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
