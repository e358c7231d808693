"""Terms in a head: every backend, optimiser and number of processes gives the trajectory of the definition."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.backends import operations_named, tiled_softmax
from helpers.grids import grid
from vplface import EPL, UNPG, XBM, ArcFace, BroadFace, FusedSGD, PrototypeHead, UniTSFace, Variational
from vplface.softmax import reference
from vplface.softmax.workspace import Workspace

CLASSES, DIM, BATCH, STEPS = 11, 6, 10, 8
TERMS = {
    "unitsface": (UniTSFace(scale=8.0, margin=0.1, threshold=0.2),),
    "unpg": (UNPG(whisker=0.5),),
    "broadface": (BroadFace(size=13, start=1),),
    "xbm": (XBM(size=13, start=2, negative_margin=0.1),),
    "epl": (EPL(start=2),),
    "unpg and broadface": (UNPG(), BroadFace(size=7, start=0)),
    "all but broadface": (UniTSFace(scale=8.0), UNPG(), XBM(size=25, start=1), EPL(start=3)),
}

EVERY = (UniTSFace(), UNPG(), XBM(size=9, start=0), EPL(start=0))


def settings(terms, **changes):
    return {
        "terms": terms,
        "backend": "reference",
        "fused": False,
        "scale": 16.0,
        "variational": None,
        "sizes": None,
        "parts": 1,
        "steps": STEPS,
        "options": {},
        **changes,
    }


def data(step):
    g = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(BATCH, 5, generator=g, dtype=torch.float64)
    labels = torch.randint(CLASSES, (BATCH,), generator=g)
    labels[-1] = labels[0]
    return inputs, labels


def train(group, run):
    """Losses and the state at the end, of one process where the group is None."""
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, DIM)).double()
    head = PrototypeHead(
        CLASSES,
        DIM,
        margin=ArcFace(run["scale"], 0.3),
        terms=TERMS[run["terms"]],
        variational=run["variational"],
        backend=run["backend"],
        optimizer=FusedSGD(0.2, 0.9, 1e-3) if run["fused"] else None,
        dtype=torch.float64,
        process_group=group,
        **run["options"],
    )
    trained = network if group is None else DistributedDataParallel(network, process_group=group)
    parameters = [*network.parameters(), *head.terms.parameters(), *([] if run["fused"] else [head.weight])]
    optimizer = torch.optim.SGD(parameters, 0.2, 0.9, weight_decay=1e-3)
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    sizes = run["sizes"] or [len(part) for part in torch.arange(BATCH).tensor_split(world)]
    losses, values = [], []
    for step in range(run["steps"]):
        inputs, labels = data(step)
        own = torch.arange(BATCH).split(sizes)[rank] if group is not None else torch.arange(BATCH)
        for each in (optimizer, head.optimizer):
            if each is not None:
                each.zero_grad()
        total = 0.0
        with head.micro_batches():
            for part in own.tensor_split(run["parts"]):
                loss = head(trained(inputs[part]), labels[part]) / run["parts"]
                loss.backward()
                total += loss.item()
        optimizer.step()
        losses.append(total)
        values.append(head.term_values())
    state = head.state_dict()
    shared = {key: state[key] for key in head.shared_state if key in state}
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "network": torch.cat([p.detach().flatten() for p in network.parameters()]),
        "rows": {key: value for key, value in state.items() if key not in shared},
        "shared": shared,
        "values": values,
    }


def require_same(results, alone, atol=1e-10):
    for result in results:
        for name in ("losses", "network"):
            torch.testing.assert_close(result[name], alone[name], atol=atol, rtol=0)
        torch.testing.assert_close(result["shared"], alone["shared"], atol=atol, rtol=0)
        assert [set(v) for v in result["values"]] == [set(v) for v in alone["values"]]
        for found, expected in zip(result["values"], alone["values"], strict=True):
            assert found == pytest.approx(expected, abs=1e-8)
    for key, whole in alone["rows"].items():
        torch.testing.assert_close(torch.cat([result["rows"][key] for result in results]), whole, atol=atol, rtol=0)


@grid(terms=TERMS, backend=["tiled", "triton"], fused=[False, True])
def test_PrototypeHead_with_terms_matches_the_reference_on_every_backend(terms, backend, fused):
    steps = 5 if backend == "triton" else STEPS
    alone = train(None, settings(terms, steps=steps))
    require_same([train(None, settings(terms, backend=backend, fused=fused, steps=steps))], alone)
    assert set(alone["values"][-1]) == {type(term).__name__.lower() for term in TERMS[terms]}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("changes", [{"scale": 90.0}, {"options": {"sample_rate": 0.4}}], ids=str)
def test_PrototypeHead_with_terms_matches_the_reference_at_large_scale_or_sample_rate(terms, changes):
    alone = train(None, settings(terms, fused=True, **changes))
    require_same([train(None, settings(terms, backend="tiled", fused=True, **changes))], alone)


@pytest.mark.slow
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "reference"},
        {"backend": "tiled", "fused": True, "sizes": [1, 5, 3, 1]},
        {"backend": "tiled", "scale": 90.0},
        {"backend": "tiled", "options": {"sample_rate": 0.4}},
    ],
    ids=str,
)
def test_PrototypeHead_with_terms_on_four_ranks_matches_one_process(processes, terms, changes):
    run = settings(terms, **changes)
    require_same(processes.run(train, 4, run), train(None, run))


@pytest.mark.slow
@pytest.mark.parametrize("terms", ["unitsface", "unpg", "xbm", "epl"])
def test_PrototypeHead_with_terms_and_variational_prototypes_matches_the_reference(processes, terms):
    run = settings(terms, variational=Variational(0.3, 4, 2))
    alone = train(None, run)
    require_same([train(None, run | {"backend": "tiled", "fused": True})], alone)
    require_same(processes.run(train, 2, run), alone)


def test_PrototypeHead_with_EPL_in_micro_batches_equals_one_step():
    whole, parts = (train(None, settings("epl", parts=p)) for p in (1, 2))
    require_same([parts], whole | {"values": parts["values"]})


@pytest.mark.parametrize("backend", ["tiled", "triton"])
@pytest.mark.parametrize("autocast", [False, True])
def test_PrototypeHead_with_terms_in_low_precision_stays_close_to_float64(backend, autocast):
    def losses(backend, dtype):
        head = PrototypeHead(CLASSES, DIM, margin=ArcFace(16.0, 0.3), terms=EVERY, backend=backend, dtype=dtype)
        found = []
        for step in range(4):
            g = torch.Generator().manual_seed(step)
            x = torch.randn(BATCH, DIM, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
                loss = head(x, data(step)[1])
            loss.backward()
            found += [loss.item(), x.grad.norm().item()]
        return found

    exact = losses("reference", torch.float64)
    assert losses(backend, torch.float32) == pytest.approx(exact, rel=2e-2 if autocast else 1e-4)


def make(*terms, **options):
    return PrototypeHead(7, 5, terms=terms, margin=ArcFace(16.0, 0.3), dtype=torch.float64, **options)


def one(seed, count=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=g, dtype=torch.float64), torch.randint(7, (count,), generator=g)


@pytest.mark.parametrize("steps", [0, 1])
def test_BroadFace_refuses_a_second_micro_batch_of_a_step(steps):
    head = make(BroadFace(start=0))
    for seed in range(steps):
        head(*one(seed)).backward()
    with head.micro_batches():
        head(*one(1)).backward()
        with pytest.raises(RuntimeError, match="BroadFace weights past samples"):
            head(*one(2))
    head(*one(3)).backward()
    assert len(head.terms["broadface"].queue) == 6 * (steps + 2)


class Other(UNPG):
    """Another term with negatives of its own."""


def test_PrototypeHead_refuses_two_terms_that_give_negatives():
    with pytest.raises(ValueError, match="2 terms give negatives"):
        make(UNPG(), Other())(*one(0))


def test_PrototypeHead_refuses_BroadFace_with_variational_prototypes():
    with pytest.raises(ValueError, match="would meet its own feature"):
        make(BroadFace(), variational=Variational())


@pytest.mark.parametrize("terms", [EVERY, (BroadFace(size=9, start=0),)], ids=["every", "broadface"])
def test_PrototypeHead_with_terms_in_eval_or_no_grad_is_plain_and_writes_nothing(terms):
    head, plain = make(*terms), make()
    head(*one(0)).backward()
    before = copy.deepcopy(head.state_dict())
    x, y = one(1)
    with torch.no_grad():
        torch.testing.assert_close(head(x, y), plain(x, y))
    head.eval()
    torch.testing.assert_close(head(x, y), plain(x, y))
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("terms", [EVERY, (BroadFace(size=9, start=0),)], ids=["every", "broadface"])
def test_PrototypeHead_with_terms_state_is_saved_loaded_copied_and_cast(terms):
    head = make(*terms)
    for seed in range(3):
        head(*one(seed)).backward()
    fresh = make(*terms, seed=4)
    assert fresh.load_state_dict(head.state_dict()).missing_keys == []
    twin = copy.deepcopy(head)
    for seed in range(3, 6):
        loss = head(*one(seed))
        assert loss == fresh(*one(seed)) == twin(*one(seed))
        assert loss != make(*terms)(*one(seed))
    assert {value.dtype for value in head.float().state_dict().values() if value.is_floating_point()} == {torch.float32}
    with pytest.raises(RuntimeError, match="terms"):
        make().load_state_dict(head.state_dict())
    with pytest.raises(RuntimeError, match="terms"):
        head.load_state_dict(make().state_dict())


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_PrototypeHead_with_terms_backward_uses_the_state_of_its_forward(backend, rate):
    def gradients(late):
        head = make(XBM(size=9, start=0), EPL(start=0), backend=backend, sample_rate=rate)
        head(*one(0)).backward()
        x, y = one(1)
        loss = head(x.requires_grad_(), y)
        if late:
            head(*one(2))
            head(*one(1))
        return torch.autograd.grad(loss, x)[0]

    torch.testing.assert_close(gradients(True), gradients(False), atol=1e-12, rtol=0)


@pytest.mark.parametrize("scale", [8.0, 90.0])
@pytest.mark.parametrize("implementation", ["numba", "triton", "torch"])
def test_tiled_margin_softmax_with_negatives_matches_the_reference(scale, implementation):
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(4, 5, generator=g, dtype=torch.float64), dim=1)
    weight, labels = torch.randn(9, 5, generator=g, dtype=torch.float64), torch.tensor([0, 8, 3, 3])
    negatives = scale * torch.tensor([0.9, -0.5, -math.inf, 1.01], dtype=torch.float64)
    operations = operations_named(implementation)

    def both(function, **options):
        leaves = [t.clone().requires_grad_() for t in (x, weight, negatives)]
        loss = function(leaves[0], labels, leaves[1], ArcFace(scale, 0.3), negatives=leaves[2], **options)
        return loss, torch.autograd.grad(3 * loss, leaves)

    expected, wanted = both(reference.margin_softmax)
    found, gradients = both(tiled_softmax, workspace=Workspace(1.0), operations=operations)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for gradient, definition in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, definition, atol=1e-11, rtol=0)
    nothing = torch.full((4,), -math.inf, dtype=torch.float64)
    arguments = x, labels, weight, ArcFace(scale, 0.3)
    plain = reference.margin_softmax(*arguments)
    torch.testing.assert_close(reference.margin_softmax(*arguments, negatives=nothing), plain)
    options = {"workspace": Workspace(1.0), "operations": operations, "negatives": nothing}
    torch.testing.assert_close(tiled_softmax(*arguments, **options), plain)


def test_margin_softmax_with_negatives_matches_a_hand_computed_value():
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    loss = reference.margin_softmax(
        x, torch.tensor([0]), weight, ArcFace(2.0, 0.0), negatives=torch.tensor([0.5], dtype=torch.float64)
    )
    assert float(loss) == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(0.5))))
