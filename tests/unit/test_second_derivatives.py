"""Second derivatives match finite differences of gradients in float64, or are refused."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import cross_entropy

from vplface import (
    EPL,
    UNPG,
    XBM,
    AdaFace,
    ArcFace,
    BroadFace,
    CombinedMargin,
    CosFace,
    CurricularFace,
    ElasticFace,
    FusedSGD,
    MagFace,
    NormSoftmax,
    PrototypeHead,
    SeveralFeatures,
    SphereFace,
    SphereFace2,
    SphereFaceR,
    UniTSFace,
    Variational,
    X2Softmax,
    plug,
    softmax,
)
from vplface.margins.angle import angle, sine

N, D, B = 7, 5, 6
Y = torch.tensor([0, 1, 2, 3, 1, 2])
FAULT = "no second derivative"

EXACT = [
    NormSoftmax(8.0),
    CosFace(8.0),
    ArcFace(8.0),
    CombinedMargin(8.0),
    CombinedMargin(8.0, m1=1.2),
    SphereFace(8.0),
    SphereFace2(8.0, margin_gradient="exact"),
    SphereFaceR(8.0, margin_gradient="exact"),
    SphereFaceR(8.0, version="v2", margin_gradient="exact"),
    X2Softmax(8.0),
    MagFace(8.0, l_a=0.5, u_a=9.0),
    ElasticFace(8.0),
    ElasticFace(8.0, plus=True),
    ElasticFace(8.0, kind="cos"),
]
OF_CONSTANTS = [
    ArcFace(8.0, margin_gradient="detached"),
    SphereFace(8.0, margin_gradient="detached"),
    SphereFace2(8.0),
    SphereFaceR(8.0),
    SphereFaceR(8.0, version="v2"),
    X2Softmax(8.0, margin_gradient="detached"),
    AdaFace(8.0),
    CurricularFace(8.0),
]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained(steps=3, **options):
    """A head that has taken steps, so that there are memories and queues."""
    fused = options.get("optimizer") is not None
    head = PrototypeHead(N, D, dtype=torch.float64, **{"variational": Variational(0.3, 3, 1), **options})
    for step in range(steps):
        loss = head(random(B, D, seed=step).requires_grad_(), Y)
        if fused:
            loss.backward()
    return head


def penalty(head, x, only=None):
    """The squared length of the gradients of a loss with their graph."""
    head = copy.deepcopy(head)
    wanted = [x, head.weight] if only is None else [x if only == "x" else head.weight]
    gradients = torch.autograd.grad(head(x, Y), wanted, create_graph=True)
    return sum(gradient.square().sum() for gradient in gradients), head.weight


def is_right(head, x, only=None):
    """Whether the derivative of ``penalty`` in a direction is that of differences."""
    x = x.clone().requires_grad_()
    value, weight = penalty(head, x, only)
    of_x, of_weight = torch.autograd.grad(value, [x, weight])
    direction, turn, step = random(*x.shape, seed=8), random(*weight.shape, seed=9), 1e-6

    def moved(distance):
        twin = copy.deepcopy(head)
        with torch.no_grad():
            twin.weight += distance * turn
        return float(penalty(twin, (x.detach() + distance * direction).requires_grad_(), only)[0].detach())

    expected = (moved(step) - moved(-step)) / (2 * step)
    torch.testing.assert_close(
        float((of_x * direction).sum() + (of_weight * turn).sum()), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("margin", EXACT, ids=repr)
def test_PrototypeHead_reference_second_derivatives_match_finite_differences(margin):
    is_right(trained(margin=margin, backend="reference"), random(B, D, seed=5))


@pytest.mark.parametrize(
    "options",
    [
        {"variational": None},
        {"variational": Variational(0.3, 3, 1, renormalise=False)},
        {"variational": Variational(0.3, 3, 1, memory=SeveralFeatures(2))},
        {"subcenters": 2},
        {"sample_rate": 0.5},
        {"interclass_threshold": 0.3},
        {"terms": [UniTSFace(scale=8.0)]},
        {"terms": [UNPG()]},
    ],
    ids=repr,
)
@pytest.mark.parametrize("only", [None, "x", "weight"])
def test_PrototypeHead_reference_second_derivatives_match_differences_with_other_options(options, only):
    is_right(trained(margin=ArcFace(8.0), backend="reference", **options), random(B, D, seed=5), only)


@pytest.mark.parametrize("only", [None, "x", "weight"])
@pytest.mark.parametrize(
    "options",
    [{"margin": margin} for margin in OF_CONSTANTS]
    + [{"terms": [term]} for term in (XBM(start=0), EPL(start=0), BroadFace(start=0))],
    ids=repr,
)
def test_PrototypeHead_reference_refuses_second_derivatives_through_constants(options, only):
    terms = options.get("terms", [])
    if only == "weight" and isinstance([*terms, None][0], XBM | EPL):
        pytest.skip("its part has no gradient of W")
    variational = None if isinstance([*terms, None][0], BroadFace) else Variational(0.3, 3, 1)
    head = trained(backend="reference", variational=variational, **options)
    x = random(B, D, seed=5).requires_grad_()
    with pytest.raises(RuntimeError, match=FAULT):
        penalty(head, x, only)[0].backward()


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_BroadFace_refuses_second_derivatives_if_embeddings_need_no_gradient(wanted):
    head = trained(backend="reference", variational=None, terms=[BroadFace(start=0)])
    (gradient,) = torch.autograd.grad(head(random(B, D), Y), head.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=FAULT):
        gradient.square().sum().backward()


@pytest.mark.parametrize("backend", ["tiled", "triton"])
@pytest.mark.parametrize("only", [None, "x", "weight"])
@pytest.mark.parametrize(
    "options",
    [
        *({"margin": margin} for margin in [*EXACT, *OF_CONSTANTS]),
        {"variational": None},
        {"subcenters": 2},
        {"sample_rate": 0.5},
        {"interclass_threshold": 0.3},
        {"filter_bound": 0.1},
        {"workspace_mb": 0.0},
        *({"terms": [term]} for term in (UniTSFace(), UNPG(), XBM(start=0), EPL(start=0))),
    ],
    ids=repr,
)
def test_PrototypeHead_tiled_and_triton_refuse_second_derivatives(backend, only, options):
    if backend == "triton":
        pytest.importorskip("triton", reason="needs vplface[triton]")
        if options not in ({"variational": None}, {"margin": ArcFace(8.0)}):
            pytest.skip("slow in Triton's interpreter; the graph is that of the tiles")
    head = trained(backend=backend, **options)
    value, weight = penalty(head, x := random(B, D, seed=5).requires_grad_(), only)
    for sources in ([x], [weight]):
        with pytest.raises(RuntimeError, match=f'{FAULT}.*backend="reference"'):
            torch.autograd.grad(value, sources, retain_graph=True)
    with pytest.raises(RuntimeError, match=FAULT):
        value.backward()


def test_PrototypeHead_tiled_without_numba_refuses_second_derivatives(monkeypatch):
    monkeypatch.setattr(softmax, "find_spec", lambda name: None)
    value, _ = penalty(trained(backend="tiled"), random(B, D).requires_grad_())
    with pytest.raises(RuntimeError, match=FAULT):
        value.backward()


@pytest.mark.parametrize("training", [True, False])
def test_PrototypeHead_refuses_second_derivatives_through_a_network(training):
    head, network = trained(backend="auto").train(training), torch.nn.Linear(4, D).double()
    loss = head(network(random(B, 4)), Y)
    gradients = torch.autograd.grad(loss, network.parameters(), create_graph=True)
    with pytest.raises(RuntimeError, match=FAULT):
        sum(gradient.square().sum() for gradient in gradients).backward()


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_FusedSGD_refuses_create_graph_before_the_weight_moves(backend):
    head = trained(backend=backend, optimizer=FusedSGD(0.1))
    x = random(B, D).requires_grad_()
    loss, before = head(x, Y), head.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r'second derivative.*backend="reference"'):
        loss.backward(create_graph=True)
    assert torch.equal(head.weight, before)
    head(x, Y).backward()
    assert not torch.equal(head.weight, before)


def test_PrototypeHead_tiled_gradients_are_unchanged_by_an_unused_graph():
    """Second-order optimisers and instruments may ask for a graph."""
    expected, head = trained(backend="tiled"), trained(backend="tiled")
    for one, graph in ((expected, False), (head, True)):
        x = random(B, D).requires_grad_()
        loss = one(x, Y)
        gradient, of_weight = torch.autograd.grad(loss, [x, one.weight], create_graph=graph, retain_graph=True)
        loss.backward()
        assert torch.equal(gradient, x.grad)
        assert torch.equal(of_weight, one.weight.grad)
    assert torch.equal(expected.weight.grad, head.weight.grad)


def test_PrototypeHead_hessian_is_right_on_reference_and_refused_on_tiled():
    x = random(B, D)
    eager = torch.autograd.functional.hessian(lambda x: trained(backend="reference")(x, Y), x)
    numbers = x.flatten()
    gradient = []
    for place in range(numbers.numel()):
        both = []
        for sign in (1, -1):
            moved = numbers.clone()
            moved[place] += sign * 1e-5
            moved = moved.view(B, D).requires_grad_()
            both.append(torch.autograd.grad(trained(backend="reference")(moved, Y), moved)[0].flatten())
        gradient.append((both[0] - both[1]) / 2e-5)
    torch.testing.assert_close(eager.view(B * D, B * D), torch.stack(gradient), rtol=1e-4, atol=1e-6)
    for vectorize in (False, True):
        with pytest.raises(RuntimeError):
            torch.autograd.functional.hessian(lambda x: trained(backend="tiled")(x, Y), x, vectorize=vectorize)


def _dual(head, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(head(forward_ad.make_dual(x, torch.ones_like(x)), Y)).tangent


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("margin", [NormSoftmax(8.0), ArcFace(8.0)])
@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize(
    "transform",
    [
        lambda head, x: torch.func.grad(lambda x: head(x, Y))(x),
        lambda head, x: torch.func.vjp(lambda x: head(x, Y), x)[1](x.new_ones(()))[0],
        lambda head, x: torch.func.jvp(lambda x: head(x, Y), (x,), (torch.ones_like(x),))[1],
        _dual,
        lambda head, x: torch.func.vmap(torch.func.grad(lambda x: head(x, Y)))(x.unsqueeze(0))[0],
    ],
    ids=["grad", "vjp", "jvp", "dual", "vmap"],
)
def test_PrototypeHead_transforms_are_right_or_refused_and_leave_it_unchanged(transform, backend, margin, training):
    head = trained(backend=backend, margin=margin).train(training)
    twin, x = copy.deepcopy(head), random(B, D, seed=5).requires_grad_()
    (gradient,) = torch.autograd.grad(twin(x, Y), x)
    try:
        found = transform(head, x.detach())
    except (RuntimeError, NotImplementedError):
        head.train()
        assert head.step_count == 3
    else:
        torch.testing.assert_close(found, gradient if found.ndim == 2 else gradient.sum())
    head.train()
    torch.testing.assert_close(head(random(B, D), Y).isfinite(), torch.tensor(True))
    head(random(B, D), Y).backward()


def test_PrototypeHead_batched_gradients_are_right_or_refused():
    head, x = trained(backend="tiled"), random(B, D).requires_grad_()
    loss = head(x, Y)
    (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
    scales = torch.tensor([1.0, 2.0], dtype=torch.float64)
    try:
        (found,) = torch.autograd.grad(loss, x, scales, is_grads_batched=True, retain_graph=True)
    except RuntimeError:
        return
    torch.testing.assert_close(found, torch.stack([expected, 2 * expected]))


@pytest.mark.parametrize("function", [sine, angle])
def test_sine_and_angle_have_second_derivatives(function):
    cosine = torch.linspace(-0.999, 0.999, 15, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(function, cosine)


@pytest.mark.parametrize("sub_centers", [1, 2])
def test_plug_second_derivatives_match_finite_differences(sub_centers):
    """The injection into W consists of torch's own operations."""

    def make():
        linear = torch.nn.Linear(D, N * sub_centers, bias=False).double()
        with torch.no_grad():
            linear.weight.copy_(random(N * sub_centers, D, seed=3))
        handle = plug(linear, "weight", Variational(0.3, 3, 0), sub_centers=sub_centers)
        for step in range(2):
            handle.remember(random(B, D, seed=step), Y)
        return linear, handle

    def value(x, offset):
        linear, handle = make()
        with torch.no_grad():
            handle.weight.add_(offset)
        loss = cross_entropy(linear(x).view(B, N, sub_centers).amax(2), Y)
        handle.remember(x, Y)
        gradients = torch.autograd.grad(loss, [x, handle.weight], create_graph=True)
        return sum(gradient.square().sum() for gradient in gradients), handle.weight

    x = random(B, D, seed=5).requires_grad_()
    first, weight = value(x, 0.0)
    of_x, of_weight = torch.autograd.grad(first, [x, weight])
    direction, turn = random(B, D, seed=8), random(N * sub_centers, D, seed=9)
    there, back = (
        float(value((x.detach() + step * direction).requires_grad_(), step * turn)[0].detach())
        for step in (1e-6, -1e-6)
    )
    found = float((of_x * direction).sum() + (of_weight * turn).sum())
    torch.testing.assert_close(found, (there - back) / 2e-6, rtol=1e-5, atol=1e-7)
