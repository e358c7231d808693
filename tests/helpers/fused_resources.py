"""Resources of the kernels of a fused step, compiled for a GPU that is not there: ``python fused_resources.py 90``.

Prints a JSON list with an entry for each launch. Needs TRITON_INTERPRET=0.
"""

from __future__ import annotations

import json
import re
import sys

import torch

from helpers.offline_triton import CompiledLaunches, resources
from helpers.recorded_ranks import GROUP, recorded_ranks
from vplface import FusedSGD, PrototypeHead, Variational, clip_grad_norm_
from vplface.softmax.fused import tiles

HOLDS = {"in_backward": False}
CASES = [
    (torch.bfloat16, 10_000_000, Variational(0.15, 100, 0), {}, None, 8),
    (torch.bfloat16, 100_000, None, {}, None, 7),
    (torch.bfloat16, 10_000_000, Variational(0.15, 100, 0), HOLDS, None, 10),
    (torch.float32, 100_000, Variational(0.15, 100, 0), {}, None, 8),
    (torch.float32, 100_000, Variational(0.15, 100, 0), HOLDS, None, 10),
    (torch.bfloat16, 80_000_000, Variational(0.15, 100, 0), {}, GROUP, 11),
]
"""Type of operands, N, memory, options of ``FusedSGD``, process group, and launches."""


def take_step(operands, classes, variational, options, group):
    """Take a training step on meta tensors."""
    torch.set_autocast_enabled("cuda", operands == torch.bfloat16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    optimizer = FusedSGD(0.1, **options)
    head = PrototypeHead(
        classes,
        512,
        variational=variational,
        optimizer=optimizer,
        backend="triton",
        device="meta",
        process_group=group,
    )
    embeddings = torch.empty(512, 512, device="meta", requires_grad=True)
    head(embeddings, torch.empty(512, dtype=torch.int64, device="meta")).backward()
    if not head.optimizer.in_backward:
        clip_grad_norm_([], 5.0, head=head)
    head.optimizer.step()


def main(arch: int) -> None:
    tiles.capability = lambda device: divmod(arch, 10)
    found = []
    for *case, count in CASES:
        with CompiledLaunches(arch) as compiled, recorded_ranks():
            take_step(*case)
        assert len(compiled.launches) == count
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
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
