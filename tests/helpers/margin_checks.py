"""What holds for every margin: each way to compute it follows the definition, in one process and in several."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from helpers.backends import operations_named, use_operations
from vplface import FusedSGD, PrototypeHead, Variational
from vplface.config import build_config
from vplface.errors import ConfigError
from vplface.prototypes import Injection
from vplface.softmax import reference, tiles

DIM = 6

WAYS = [
    {},
    {"fused": True},
    {"operations": "torch", "fused": True},
    {"backend": "triton", "fused": True, "steps": 3},
    {"variational": None},
    {"options": {"workspace_mb": 0.0}, "fused": True},
    {"options": {"sample_rate": 0.4}, "fused": True},
    {"options": {"sample_rate": 0.6}},
    {"classes": 2, "batch": 9},
    {"classes": 31, "batch": 1},
    {"labels": "last", "fused": True},
]
"""Ways beside the definition; "labels": "last" is a batch of the last class alone."""

RANKS = [
    (2, {}),
    (2, {"backend": "reference"}),
    (3, {"fused": True, "sizes": [4, 1, 5]}),
    (4, {"classes": 3, "fused": True, "options": {"sample_rate": 0.5}}),
    (2, {"variational": None, "options": {"workspace_mb": 0.0}}),
]


def settings(margin: Any, **changes: Any) -> dict[str, Any]:
    return {
        "margin": margin,
        "backend": "tiled",
        "fused": False,
        "variational": (0.3, 3, 1),
        "classes": 23,
        "batch": 10,
        "sizes": None,
        "labels": "random",
        "length": 1.0,
        "steps": 6,
        "parts": 1,
        "options": {},
        "operations": None,
        **changes,
    }


def train(group: Any, run: dict[str, Any]) -> dict[str, Any]:
    """Losses and the state at the end, in one process where the group is None."""
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, DIM)).double()
    head = PrototypeHead(
        run["classes"],
        DIM,
        margin=run["margin"],
        variational=None if run["variational"] is None else Variational(*run["variational"]),
        backend=run["backend"],
        optimizer=FusedSGD(0.2, 0.9, 1e-3) if run["fused"] else None,
        dtype=torch.float64,
        process_group=group,
        **run["options"],
    )
    trained = network if group is None else DistributedDataParallel(network, process_group=group)
    parameters = [*network.parameters(), *(p for p in head.parameters() if p is not head.weight or not run["fused"])]
    optimizer = torch.optim.SGD(parameters, 0.2, 0.9, weight_decay=1e-3)
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    every = torch.arange(run["batch"])
    sizes = run["sizes"] or [len(part) for part in every.tensor_split(world)]
    own = every if group is None else every.split(sizes)[rank]
    losses = []
    for step in range(run["steps"]):
        g = torch.Generator().manual_seed(100 + step)
        inputs = torch.randn(run["batch"], 5, generator=g, dtype=torch.float64)
        labels = torch.randint(run["classes"], (run["batch"],), generator=g)
        labels[-1] = labels[0]  # a class that occurs twice
        if run["labels"] == "last":
            labels[:] = run["classes"] - 1
        both = [each for each in (optimizer, head.optimizer) if each is not None]
        for each in both:
            each.zero_grad()
        total = 0.0
        with head.micro_batches():
            for part in own.tensor_split(run["parts"]):
                loss = head(run["length"] * trained(inputs[part]), labels[part]) / run["parts"]
                loss.backward()
                total += loss.item()
        for each in both:
            each.step()
        losses.append(total)
    state = {name: value for name, value in head.state_dict().items() if name.startswith("margin_")}
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "network": torch.cat([p.detach().flatten() for p in network.parameters()]),
        "weight": head.weight.detach(),
        "memory": head.memory,
        "state": state,
    }


def require_same(results: list[dict[str, Any]], definition: dict[str, Any], atol: float = 1e-10) -> None:
    for result in results:
        for name in ("losses", "network", "state"):
            torch.testing.assert_close(result[name], definition[name], atol=atol, rtol=0)
    for name in ("weight", "memory"):
        if definition[name] is not None:
            together = torch.cat([result[name] for result in results])
            torch.testing.assert_close(together, definition[name], atol=atol, rtol=0)


def require_definition(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A way to train, in tiles of a few classes, is the trajectory of the definition."""
    fused = run["fused"] and "sample_rate" in run["options"]  # which leaves alone what is not drawn
    definition = train(None, run | {"backend": "reference", "fused": fused})
    assert definition["losses"].isfinite().all()
    monkeypatch.setattr(tiles, "TILE", {"cpu": 40})
    if run["operations"] is not None:
        use_operations(monkeypatch, operations_named(run["operations"]))
    require_same([train(None, run)], definition)


def require_one_process(processes: Any, world: int, run: dict[str, Any]) -> None:
    """Several processes follow one."""
    require_same(processes.run(train, world, run), train(None, run | {"backend": "reference"}))


def require_numeric_gradient(
    margin: Any, strength: torch.Tensor | None = None, strength_is_constant: bool = False
) -> None:
    """The gradients of features, prototypes and strengths are those of differences, with memory in the prototypes."""
    g = torch.Generator().manual_seed(1)
    x, weight, memory = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (6, 5, 5))
    labels = torch.randint(5, (6,), generator=g)
    injection = Injection(normalize(memory, dim=1), torch.tensor([1, 0, 2, 0, 1]), 0.3)

    def loss(x: torch.Tensor, weight: torch.Tensor, strength: torch.Tensor | None = strength) -> torch.Tensor:
        return reference.margin_softmax(normalize(x, dim=1), labels, weight, margin, injection, strength=strength)

    leaves = [x, weight, *([] if strength is None or strength_is_constant else [strength])]
    assert torch.autograd.gradcheck(loss, [leaf.clone().requires_grad_() for leaf in leaves])


def require_named(name: str, expected: Any, /, **options: Any) -> None:
    """A recipe finds the margin by name, writes what it reads, and refuses options it does not have."""
    base = {"name": "x", "data": {"train": "faces"}}
    config = build_config(base | {"margin": {"name": name, **options}}, "x")
    assert config.margin == expected
    assert build_config(yaml.safe_load(config.to_yaml()), "x").margin == expected
    with pytest.raises(ConfigError, match=f"margin.strange is not an option of {name}"):
        build_config(base | {"margin": {"name": name, "strange": 1}}, "x")


def batch(seed: int, size: int = 6, length: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    g = torch.Generator().manual_seed(seed)
    x = length * torch.randn(size, 4, generator=g, dtype=torch.float64)
    return x.to(dtype), torch.randint(5, (size,), generator=g)


def require_state(margin: Any, length: float = 1.0) -> None:
    """What past steps left is saved, loaded, copied and moved; what is no whole step leaves nothing."""
    make = {"num_classes": 5, "embedding_dim": 4, "margin": margin, "dtype": torch.float64}
    names = {f"margin_{name}" for name in margin.state}
    head = PrototypeHead(**make)
    begun = {name: float(value) for name, value in head.state_dict().items() if name in names}
    assert begun == {f"margin_{name}": value for name, value in margin.state.items()}
    for seed in range(3):
        head(*batch(seed, length=length)).backward()
    state = head.state_dict()
    assert set(state) == {"weight", "step_count", *names}
    assert names <= set(head.shared_state)
    assert all(float(state[name]) != begun[name] for name in names)
    for name in names:
        with pytest.raises(RuntimeError, match=name):
            PrototypeHead(**make).load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(RuntimeError, match=next(iter(names))):
        PrototypeHead(**make | {"margin": None}).load_state_dict(state)

    fresh = PrototypeHead(**make, seed=9)
    assert fresh.load_state_dict(state).missing_keys == []
    twin = copy.deepcopy(head)
    with torch.no_grad():
        head(*batch(7, length=length))
    head.eval()(*batch(7, length=length)).backward()
    with contextlib.suppress(KeyboardInterrupt), head.train().micro_batches():
        head(*batch(7, length=length))
        raise KeyboardInterrupt
    for name in names:
        assert torch.equal(head.state_dict()[name], state[name])
    for seed in range(3, 6):
        x, labels = batch(seed, length=length)
        assert head(x, labels) == fresh(x, labels) == twin(x, labels)
    kept = head.state_dict()
    low = copy.deepcopy(head).to(torch.bfloat16)
    assert all(low.state_dict()[name].dtype == torch.float32 for name in names)
    torch.testing.assert_close({n: low.state_dict()[n].double() for n in names}, {n: kept[n] for n in names})
    low(*batch(6, length=length, dtype=torch.bfloat16)).backward()


def require_parts_leave_what_the_whole_leaves(margin: Any, length: float = 1.0) -> None:
    """A step of several micro-batches teaches the margin once, from all its samples."""
    heads = [PrototypeHead(5, 4, margin=margin, dtype=torch.float64) for _ in range(2)]
    x, labels = batch(0, length=length)
    heads[0](x, labels)
    with heads[1].micro_batches():
        for part in (slice(0, 1), slice(1, 6)):
            heads[1](x[part], labels[part])
    for name in margin.state:
        one, parts = (head.state_dict()[f"margin_{name}"] for head in heads)
        torch.testing.assert_close(parts, one)
        assert float(one) != margin.state[name]
