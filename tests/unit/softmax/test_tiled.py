"""The tiled softmax against the definition: value, gradients and state, at awkward sizes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from helpers.backends import operations_named, tiled_softmax, use_operations
from helpers.grids import INTERPRETED, grid
from vplface import ArcFace, CombinedMargin, CosFace, FusedSGD, NormSoftmax, PrototypeHead, Variational
from vplface.prototypes import Injection
from vplface.softmax import Filter, Workspace, reference, tiled, tiles

MARGINS = [
    NormSoftmax(16.0),
    ArcFace(64.0, 0.5),
    ArcFace(16.0, 0.4, "detached"),
    CosFace(16.0, 0.3),
    CombinedMargin(16.0, 1.2, 0.2, 0.1),
]
KEEP_ALL, KEEP_NONE = 256.0, 0.0


IMPLEMENTATIONS = ["torch", "numba", "triton"]


@pytest.fixture(autouse=True, params=[*IMPLEMENTATIONS[:2], pytest.param(IMPLEMENTATIONS[2], marks=INTERPRETED)])
def implementation(request, monkeypatch):
    """Every test holds for torch's own operations, compiled, and for Triton's kernels, here in its interpreter."""
    operations = operations_named(request.param)
    monkeypatch.setattr(tiled, "TorchTiles", lambda: operations)
    use_operations(monkeypatch, operations)
    return request.param


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of a few classes, so that a handful of classes makes several and a partial last one."""
    monkeypatch.setattr(tiles, "TILE", {"cpu": 24})


def problem(batch, classes, dim, seed=0, alive=0.5, lam=0.3, renormalise=True, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = normalize(torch.randn(batch, dim, generator=g, dtype=torch.float64), dim=1)
    weight = 2 * torch.randn(classes, dim, generator=g, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=g)
    memory = normalize(torch.randn(classes, dim, generator=g, dtype=torch.float64), dim=1)
    timer = 3 * (torch.rand(classes, generator=g) < alive).int()
    injection = None if alive is None else Injection(memory.to(dtype), timer, lam, renormalise)
    return x.to(dtype), labels, weight.to(dtype), injection


def both(x, labels, weight, margin, injection, workspace_mb, scale=1.7):
    """(loss, dL/dx, dL/dW) by the definition and by tiles."""
    found = []
    for softmax, options in (
        (reference.margin_softmax, {}),
        (tiled_softmax, {"workspace": Workspace(workspace_mb)}),
    ):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        loss = softmax(leaves[0], labels, leaves[1], margin, injection, **options)
        found.append((loss.detach(), *torch.autograd.grad(loss * scale, leaves)))
    return found


def require_equal(found, atol=1e-12, rtol=1e-9):
    for ours, definition in zip(found[1], found[0], strict=True):
        assert ours.dtype == definition.dtype
        torch.testing.assert_close(ours, definition, atol=atol, rtol=rtol)


@grid(
    implementation=IMPLEMENTATIONS,
    margin=MARGINS,
    alive=[None, 0.0, 0.5, 1.0],  # share of the classes with a living memory
    workspace_mb=[KEEP_ALL, KEEP_NONE],
    sizes=[(1, 2, 3), (5, 7, 4), (9, 13, 8), (3, 25, 2), (30, 4, 6)],  # one tile, whole tiles, a partial last tile
    indirect=["implementation"],
)
def test_tiled_margin_softmax_matches_the_reference(margin, alive, workspace_mb, sizes):
    x, labels, weight, injection = problem(*sizes, alive=0.0 if alive is None else alive)
    require_equal(both(x, labels, weight, margin, None if alive is None else injection, workspace_mb))


@given(
    st.integers(1, 12),
    st.integers(2, 30),
    st.integers(2, 9),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.15, 0.4, 0.9, 1.0]),
    st.booleans(),
    st.sampled_from(MARGINS),
    st.integers(0, 2**16),
)
def test_tiled_margin_softmax_matches_the_reference_at_any_size(
    batch, classes, dim, alive, lam, renormalise, margin, seed
):
    x, labels, weight, injection = problem(batch, classes, dim, seed, alive, lam, renormalise)
    require_equal(both(x, labels, weight, margin, injection, KEEP_ALL), atol=1e-10)


def test_tiled_margin_softmax_matches_the_reference_with_repeated_labels():
    x, _, weight, injection = problem(8, 13, 6)
    for repeated in ([12] * 8, [12, 0, 12, 5, 5, 12, 11, 0]):
        require_equal(both(x, torch.tensor(repeated), weight, ArcFace(16.0, 0.4), injection, KEEP_ALL))


@pytest.mark.parametrize("margin", MARGINS, ids=str)
def test_tiled_margin_softmax_matches_the_reference_on_and_opposite_prototypes(margin):
    x, _, weight, _ = problem(4, 9, 5)
    weight[0], weight[1] = 3 * x[0], -2 * x[1]
    found = both(x, torch.tensor([0, 1, 0, 1]), weight, margin, None, KEEP_ALL)
    assert all(part.isfinite().all() for part in found[1])
    require_equal(found, atol=1e-6)  # the derivative of the angle is floored where it diverges


@pytest.mark.parametrize("margin", MARGINS, ids=str)
def test_tiled_margin_softmax_matches_the_reference_in_one_dimension(margin):
    x, labels, weight, injection = problem(3, 25, 1)
    require_equal(both(x, labels, weight, margin, injection, KEEP_ALL), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [64.0, 80.0, 200.0, 700.0])
def test_tiled_margin_softmax_at_large_scales_neither_overflows_nor_underflows(dtype, scale):
    """Two classes, both opposite the sample: every exponential is as small as it can be."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=dtype)
    weight = torch.tensor([[-1.0, 1e-3], [-1.0, -1e-3]], dtype=dtype)
    for sign in (1, -1):
        found = both(x, torch.tensor([0, 1]), sign * weight, NormSoftmax(scale), None, KEEP_ALL)
        assert all(part.isfinite().all() for part in found[1])
        require_equal(found, atol=1e-4 if dtype == torch.float32 else 1e-10, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=str
)
@pytest.mark.parametrize("alive", [0.0, 0.5])
def test_tiled_margin_softmax_in_low_precision_stays_close_to_float64(dtype, tolerance, alive):
    margin = ArcFace(16.0, 0.4)
    x, labels, weight, injection = problem(9, 31, 16, alive=alive)
    exact = both(x, labels, weight, margin, injection, KEEP_ALL)[0]
    low = Injection(injection.memory.to(dtype), injection.timer, injection.lam)
    leaves = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    loss = tiled_softmax(leaves[0], labels, leaves[1], margin, low, workspace=Workspace(256))
    found = (loss.detach(), *torch.autograd.grad(loss * 1.7, leaves))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    for ours, definition in zip(found, exact, strict=True):
        assert (ours.double() - definition).norm() <= tolerance * definition.norm()


def test_tiled_margin_softmax_under_autocast_keeps_loss_and_gradient_in_float32():
    margin = ArcFace(16.0, 0.4)
    x, labels, weight, injection = problem(9, 31, 16, dtype=torch.float32)
    leaf = weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = tiled_softmax(x, labels, leaf, margin, injection, workspace=Workspace(1))
    low.backward()
    exact = tiled_softmax(x, labels, weight, margin, injection, workspace=Workspace(1))
    assert low.dtype == leaf.grad.dtype == torch.float32
    assert 0 < abs(low.item() - exact.item()) < 0.05


def test_tiled_margin_softmax_without_gradients_keeps_no_tiles():
    x, labels, weight, injection = problem(5, 30, 4)
    workspace = Workspace(256)
    with torch.no_grad():
        loss = tiled_softmax(x, labels, weight, ArcFace(), injection, workspace=workspace)
    torch.testing.assert_close(loss, reference.margin_softmax(x, labels, weight, ArcFace(), injection))
    assert workspace.user.kept.numel() == 0


def test_tiled_margin_softmax_supports_frozen_prototypes_and_frozen_features():
    x, labels, weight, injection = problem(5, 13, 4)
    whole = both(x, labels, weight, ArcFace(16.0), injection, KEEP_ALL, scale=1.0)[0]
    for trained in (0, 1):
        leaves = [x.clone(), weight.clone()]
        leaves[trained].requires_grad_()
        tiled_softmax(leaves[0], labels, leaves[1], ArcFace(16.0), injection, workspace=Workspace(1)).backward()
        torch.testing.assert_close(leaves[trained].grad, whole[1 + trained])
        assert leaves[1 - trained].grad is None


def test_tiled_margin_softmax_matches_the_reference_with_a_small_workspace():
    x, labels, weight, _ = problem(4, 60, 6)
    for tiles_kept in range(4):
        found = both(x, labels, weight, CosFace(16.0), None, tiles_kept * 4 * 4 * 8 / 2**20)
        require_equal(found)


def test_tiled_margin_softmax_losses_with_one_workspace_keep_their_own_tiles():
    x, labels, weight, injection = problem(6, 19, 4)
    workspace = Workspace(256)
    leaf = weight.clone().requires_grad_()
    losses = [tiled_softmax(x * sign, labels, leaf, CosFace(16.0), injection, workspace=workspace) for sign in (1, -1)]
    losses[0].backward()
    expected = both(x, labels, weight, CosFace(16.0), injection, KEEP_ALL, scale=1.0)[0][2]
    torch.testing.assert_close(leaf.grad, expected)
    losses[1].backward()
    expected = expected + both(-x, labels, weight, CosFace(16.0), injection, KEEP_ALL, scale=1.0)[0][2]
    torch.testing.assert_close(leaf.grad, expected)


def heads(delta_t=2, start=3, lam=0.3, clip=None, **settings):
    """A head by the definition with torch's SGD, and one by tiles with FusedSGD."""
    variational = Variational(lam, delta_t, start)
    make = {"num_classes": 23, "embedding_dim": 6, "variational": variational, "dtype": torch.float64, **settings}
    definition = PrototypeHead(**make, backend="reference")
    fused = PrototypeHead(**make, backend="auto", optimizer=FusedSGD(0.1, momentum=0.9, weight_decay=5e-4))
    optimizer = torch.optim.SGD(definition.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    return definition, optimizer, fused


@grid(margin=[ArcFace(8.0, 0.3), NormSoftmax(8.0)], lam=[0.3, 1.0], memory_dtype=[None, torch.float32])
def test_FusedSGD_trajectory_matches_torch_SGD(margin, lam, memory_dtype, implementation):
    steps = 9 if implementation == "triton" else 27  # batches of 1 to 9 samples
    definition, optimizer, fused = heads(margin=margin, lam=lam, memory_dtype=memory_dtype)
    schedules = [torch.optim.lr_scheduler.StepLR(each, 2 * steps // 5, 0.1) for each in (optimizer, fused.optimizer)]
    for seed in range(steps):
        g = torch.Generator().manual_seed(seed)
        size = 1 + seed % 9
        x = torch.randn(size, 6, generator=g, dtype=torch.float64)
        labels = torch.randint(23, (size,), generator=g)
        leaves, losses = [x.clone().requires_grad_() for _ in range(2)], []
        for head, leaf in zip((definition, fused), leaves, strict=True):
            loss = head(leaf, labels)
            (0.5 * loss).backward()
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        fused.optimizer.step()
        for schedule in schedules:
            schedule.step()
        torch.testing.assert_close(losses[1], losses[0], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(leaves[1].grad, leaves[0].grad, atol=1e-12, rtol=1e-10)
    momentum = [each.state_dict()["state"][0]["momentum_buffer"] for each in (optimizer, fused.optimizer)]
    torch.testing.assert_close(fused.weight, definition.weight, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(momentum[1], momentum[0], atol=1e-12, rtol=1e-11)
    assert torch.equal(fused.timer, definition.timer)
    torch.testing.assert_close(fused.memory, definition.memory, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("stage", ["random", "half-way", "converged"])
@pytest.mark.parametrize("bound", [1e-6, 1e-3, 1e-2, 0.2])
def test_Filter_skips_at_most_its_bound_from_random_to_converged_prototypes(stage, bound, monkeypatch):
    margin = ArcFace(32.0, 0.3)
    x, labels, weight, injection = problem(12, 200, 16)
    monkeypatch.setattr(tiles, "TILE", {"cpu": 1600})
    share = {"random": 0.0, "half-way": 0.5, "converged": 0.97}[stage]
    for feature, label in zip(x, labels, strict=True):
        weight[label] = (1 - share) * weight[label] + share * 4 * feature
    filtering = Filter(bound)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss = tiled_softmax(leaves[0], labels, leaves[1], margin, injection, workspace=Workspace(1), filtering=filtering)
    exact = both(x, labels, weight, margin, injection, KEEP_ALL, scale=1.0)[0]
    torch.testing.assert_close(loss.detach(), exact[0])
    loss.backward()
    assert 0 <= filtering.skipped <= bound
    # what is left out of dL/dx_i is s/B·Σ_j p_ij·u_j over the classes skipped, and every u_j is a unit vector
    error = (leaves[0].grad - exact[1]).norm(dim=1).max()
    assert error <= margin.scale / 12 * filtering.skipped + 1e-12
    changed = (leaves[1].grad - exact[2]).norm(dim=1) > 1e-12
    assert not changed[labels].any()
    assert bool(changed.any()) == (filtering.skipped > 1e-12)
    if bound >= 0.2:
        assert changed.sum() > 50, "the test is to see something skipped"


def test_PrototypeHead_with_filter_bound_reports_skipped_mass_and_moves_every_class():
    plain, filtered = (
        PrototypeHead(50, 8, margin=CosFace(32.0), optimizer=FusedSGD(0.1), filter_bound=bound) for bound in (None, 0.5)
    )
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    before = filtered.weight.detach().clone()
    for head in (plain, filtered):
        head(x, torch.tensor([0, 1, 2, 3])).backward()
    assert plain.skipped_mass == 0
    assert 0 < filtered.skipped_mass <= 0.5
    assert (filtered.weight != before).any(1).all(), "weight decay moves classes that were left out"
    with pytest.raises(ValueError, match="filter_bound"):
        PrototypeHead(5, 2, filter_bound=1.0)
    with pytest.raises(ValueError, match="reference"):
        PrototypeHead(5, 2, filter_bound=0.1, backend="reference")


def test_PrototypeHead_backward_in_any_order_uses_the_memory_of_its_forward():
    """Losses of three steps, differentiated in every order, each with the memory of its own step."""
    for order in itertools.permutations(range(3)):
        found = []
        for backend in ("reference", "auto"):
            head = PrototypeHead(
                5, 4, variational=Variational(0.4, 1, 0), margin=CosFace(8.0), dtype=torch.float64, backend=backend
            )
            g = torch.Generator().manual_seed(1)
            leaves = [torch.randn(4, 4, generator=g, dtype=torch.float64).requires_grad_() for _ in range(4)]
            labels = [torch.tensor(each) for each in ([0, 1, 2, 1], [1, 2, 3, 3], [3, 1, 0, 0], [4, 4, 0, 1])]
            head(leaves[0], labels[0]).backward()
            losses = [head(leaf, label) for leaf, label in zip(leaves[1:], labels[1:], strict=True)]
            for step in order:
                losses[step].backward()
            found.append([head.weight.grad, head.memory, *(leaf.grad for leaf in leaves)])
        for ours, definition in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(ours, definition, atol=1e-12, rtol=1e-10)


TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 0.15}
DELTA_T_AND_START = {"plain": (2, None), "before": (2, 9), "expired": (1, 1), "partly": (2, 0), "alive": (9, 0)}


@grid(
    implementation=IMPLEMENTATIONS,
    margin=MARGINS,
    dtype=TOLERANCE,
    memory=DELTA_T_AND_START,
    sizes=[(1, 2, 3), (7, 13, 8), (5, 3, 16)],
    indirect=["implementation"],
)
def test_FusedSGD_steps_in_any_dtype_stay_close_to_the_reference(margin, dtype, memory, sizes):
    """Loss, dL/dx, W, momentum, M and T after four steps; the last class is always in the batch."""
    (batch, classes, dim), (delta_t, start) = sizes, DELTA_T_AND_START[memory]
    found = []
    for kind in (torch.float64, dtype):
        head = PrototypeHead(
            classes,
            dim,
            margin=margin,
            variational=None if start is None else Variational(0.3, delta_t, start),
            backend="reference" if kind is torch.float64 and not found else "auto",
            optimizer=FusedSGD(0.01),
            dtype=kind,
        )
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            head.weight.copy_(torch.randn(classes, dim, generator=generator, dtype=torch.float64))
        losses = []
        for step in range(4):
            x = torch.randn(batch, dim, generator=generator, dtype=torch.float64).to(kind).requires_grad_()
            labels = torch.randint(classes, (batch,), generator=generator)
            labels[-1] = classes - 1 if step % 2 == 0 else 0
            loss = head(x, labels)
            loss.backward()
            losses.append(loss.detach())
        momentum = head.optimizer.state[head.weight]["momentum_buffer"]
        memory = torch.zeros(1) if head.memory is None else head.memory
        found.append([torch.stack(losses), x.grad, head.weight.detach(), momentum, memory])
        found[-1].append(None if head.timer is None else head.timer.tolist())
    assert found[0].pop() == found[1].pop()
    for ours, definition in zip(found[1], found[0], strict=True):
        assert (ours.double() - definition).norm() <= TOLERANCE[dtype] * (definition.norm() + 0.1)
