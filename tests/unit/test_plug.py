"""``plug`` in modules of others, against ``PrototypeHead`` and against values computed by hand."""

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.nn.utils import parametrize

import vplface
from vplface import ArcFace, CosFace, NormSoftmax, PrototypeHead, RunningMean, SeveralFeatures, Variational
from vplface.plugin import FORGOTTEN, plug
from vplface.training.drift import DriftMonitor

N, D = 7, 5


def draw(size, seed, dtype=torch.float64, labels=None):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, D, generator=g, dtype=torch.float64).to(dtype)
    y = torch.randint(N, (size,), generator=g) if labels is None else torch.tensor(labels)
    return x.requires_grad_(), y


def twin(margin, variational, weight):
    """A head whose prototypes point where the rows of a weight do."""
    head = PrototypeHead(N, D, margin=margin, variational=variational, backend="reference", dtype=weight.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
    return head


def plugged_linear(variational, dtype=torch.float64, bias=False, **kwargs):
    torch.manual_seed(0)
    classifier = nn.Linear(D, N, bias=bias, dtype=dtype)
    return classifier, plug(classifier, "weight", variational, **kwargs)


def step(classifier, handle, seed=0, labels=None):
    x, y = draw(4, seed, classifier.bias.dtype if classifier.bias is not None else handle.weight.dtype, labels)
    loss = cross_entropy(classifier(x), y)
    loss.backward()
    handle.remember(x, y)
    return x, y, loss.detach()


class CosineClassifier(nn.Module):
    """A softmax over cosines from another library: its forward takes labels under names of its own."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(D, N, bias=False, dtype=dtype)

    def forward(self, features, target=None):
        logits = 20.0 * linear(normalize(features, dim=1), normalize(self.fc.weight, dim=1))
        return logits if target is None else cross_entropy(logits, target)


def require_same_memory(handle, head):
    assert handle.coverage() == head.coverage()  # which ends the step of the head
    assert handle.step_count == head.step_count
    if head.memory is None:
        assert handle.memory is None
        assert handle.timer is None
    else:
        assert handle.timer.tolist() == head.timer.tolist()
        assert handle.timer.dtype == torch.int32
        torch.testing.assert_close(handle.memory, head.memory, rtol=1e-14, atol=1e-14)


# The losses of pytorch-metric-learning


def metric_loss(name, dtype=torch.float64, **kwargs):
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="needs vplface[metric-learning]")
    torch.manual_seed(0)
    loss = getattr(losses, name)(num_classes=N, embedding_size=D, **kwargs)
    return loss.to(dtype)


LOSSES = {
    "ArcFaceLoss": (ArcFace(64.0, math.radians(28.6)), {}),
    "CosFaceLoss": (CosFace(32.0, 0.4), {"scale": 32, "margin": 0.4}),
    "SubCenterArcFaceLoss": (ArcFace(16.0, math.radians(20)), {"scale": 16, "margin": 20, "sub_centers": 1}),
    "NormalizedSoftmaxLoss": (NormSoftmax(20.0), {"temperature": 0.05}),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("start", [0, 2])
def test_plug_on_a_metric_loss_matches_PrototypeHead_with_the_same_weight(name, start):
    margin, kwargs = LOSSES[name]
    loss_func = metric_loss(name, **kwargs)
    variational = Variational(0.3, 3, start)
    head = twin(margin, variational, loss_func.W.t())
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.5, momentum=0.9) for each in (loss_func, head)]
    handle = vplface.plug(loss_func, "W", variational)
    for number in range(8):
        x, y = draw(6, seed=number)
        z = x.detach().clone().requires_grad_()
        for optimizer in optimizers:
            optimizer.zero_grad()
        ours, theirs = head(z, y), loss_func(x, y)
        torch.testing.assert_close(theirs, ours, rtol=1e-11, atol=1e-11)
        for loss in (ours, theirs):
            loss.backward()
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(handle.weight.grad.t(), head.weight.grad, rtol=1e-9, atol=1e-10)
        require_same_memory(handle, head)
        for optimizer in optimizers:
            optimizer.step()
    assert handle.coverage() > 0
    torch.testing.assert_close(handle.weight.t(), head.weight, rtol=1e-9, atol=1e-9)


def test_plug_injects_the_memory_of_a_class_into_all_its_sub_centers():
    scale, m, centers, lam = 16.0, 0.3, 3, 0.3
    loss_func = metric_loss("SubCenterArcFaceLoss", scale=scale, margin=math.degrees(m), sub_centers=centers)
    handle = plug(loss_func, "W", Variational(lam, 3, 0))
    x, y = draw(4, 0, labels=[1, 4, 1, 6])
    loss_func(x, y)
    assert handle.memory.shape == (N, D)
    assert handle.timer.tolist() == [0, 3, 0, 0, 3, 0, 3]
    memory = {1: x[2], 4: x[1], 6: x[3]}

    x, y = draw(5, 1)
    logits = []
    for sample in range(5):
        for label in range(N):
            cosines = []
            for center in range(centers):
                u = normalize(handle.weight[:, label * centers + center], dim=0)
                if label in memory:
                    u = normalize((1 - lam) * u + lam * normalize(memory[label].detach(), dim=0), dim=0)
                cosines.append(u @ normalize(x[sample], dim=0))
            nearest = max(cosines)
            logits.append((nearest.acos() + m).cos() if label == y[sample] else nearest)
            assert nearest.acos() < math.pi - m
    expected = cross_entropy(scale * torch.stack(logits).view(5, N), y)
    expected_gradient = torch.autograd.grad(expected, [x, handle.weight])
    loss = loss_func(x, y)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, [x, handle.weight]), expected_gradient, strict=True):
        torch.testing.assert_close(got, want)


def test_plug_on_a_metric_loss_follows_the_dtype_of_the_embeddings():
    loss_func = metric_loss("ArcFaceLoss", dtype=torch.float32)
    handle = plug(loss_func, "W", Variational(0.3, 3, 0))
    for seed in range(3):
        loss_func(*draw(4, seed)).backward()  # it makes its weight float64, as its first embeddings are
    assert handle.weight.dtype == handle.memory.dtype == torch.float64
    assert handle.coverage() > 0


def test_plug_on_a_metric_loss_keeps_mined_pairs_and_regularizers_working():
    regularizers = pytest.importorskip("pytorch_metric_learning.regularizers", reason="needs vplface[metric-learning]")
    plain = metric_loss("CosFaceLoss", weight_regularizer=regularizers.RegularFaceRegularizer())
    loss_func = copy.deepcopy(plain)
    handle = plug(loss_func, "W", Variational(0.0, 3, 0))
    pairs = tuple(torch.tensor(part) for part in ([0, 1], [2, 3], [0, 1], [1, 2]))
    for seed in range(3):
        x, y = draw(4, seed, labels=[0, 1, 0, 1])
        torch.testing.assert_close(loss_func(x, y, pairs), plain(x, y, pairs))
    assert handle.step_count == 3


# nn.Linear and modules of one's own


@pytest.mark.parametrize("start", [0, 2])
def test_plug_on_a_linear_layer_matches_PrototypeHead_up_to_radial_gradients(start):
    """With rows of unit length the logits are those of NormSoftmax; the gradient has an additional radial part."""
    variational = Variational(0.3, 3, start)
    classifier, handle = plugged_linear(variational)
    with torch.no_grad():
        classifier.weight.copy_(normalize(classifier.weight, dim=1))
    head = twin(NormSoftmax(10.0), variational, handle.weight)
    for number in range(7):
        x, y = draw(6, seed=number)
        classifier.zero_grad()
        head.zero_grad()
        ours = head(x, y)
        theirs = cross_entropy(10.0 * classifier(normalize(x, dim=1)), y)
        torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)
        ours.backward()
        theirs.backward()
        handle.remember(x, y)
        radial = (handle.weight.grad * handle.weight).sum(1, keepdim=True) * handle.weight
        torch.testing.assert_close(handle.weight.grad - radial.detach(), head.weight.grad, rtol=1e-11, atol=1e-12)
        require_same_memory(handle, head)


def test_plug_matches_hand_computed_values_for_two_classes():
    """W₀ = (2, 0), W₁ = (0, 1); class 0 is remembered at (0, 5): u₀ lies halfway, and row 0 keeps its length 2."""
    classifier = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    handle = plug(classifier, "weight", Variational(lam=0.5, delta_t=1, start=0))
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert classifier(x).tolist() == [[2.0, 0.0]]
    handle.remember(torch.tensor([[0.0, 5.0]]), torch.tensor([0]))
    assert handle.memory.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert handle.timer.tolist() == [1, 0]
    assert handle.coverage() == 0.5
    root = math.sqrt(2.0)
    torch.testing.assert_close(classifier.weight, torch.tensor([[root, root], [0.0, 1.0]], dtype=torch.float64))
    logits = classifier(x)
    torch.testing.assert_close(logits, torch.tensor([[root, 0.0]], dtype=torch.float64))
    # logit = ‖W‖·u·x with u = Z/‖Z‖, Z = (v + M)/2, v = W/‖W‖: along W it grows by u·x, across it by
    # ‖W‖·dZ·dv with dZ = (x − (u·x)u)/‖Z‖ = (1, −1)/√2, dv = dZ/2 and dW = dv/‖W‖ without its part along v.
    (gradient,) = torch.autograd.grad(logits[0, 0], handle.weight)
    torch.testing.assert_close(gradient, torch.tensor([[1 / root, -1 / (2 * root)], [0, 0]], dtype=torch.float64))
    handle.remember(torch.tensor([[3.0, 0.0]]), torch.tensor([1]))
    assert handle.timer.tolist() == [0, 1]  # Δt = 1: class 0 was injected in one step


def test_plug_keeps_row_norms_and_leaves_classes_without_memory_unchanged():
    classifier, handle = plugged_linear(Variational(0.4, 5, 0))
    step(classifier, handle, labels=[1, 3, 3, 5])
    torch.testing.assert_close(classifier.weight.norm(dim=1), handle.weight.norm(dim=1))
    assert torch.equal(classifier.weight[[0, 2, 4, 6]], handle.weight[[0, 2, 4, 6]])
    assert (classifier.weight[[1, 3, 5]] - handle.weight[[1, 3, 5]]).abs().amax(1).min() > 1e-3


def test_plug_without_renormalise_mixes_weight_and_memory_linearly():
    classifier, handle = plugged_linear(Variational(0.4, 5, 0, renormalise=False))
    step(classifier, handle, labels=[2, 2, 2, 2])
    w = handle.weight[2]
    torch.testing.assert_close(classifier.weight[2], w.norm() * (0.6 * w / w.norm() + 0.4 * handle.memory[2]))


def test_plug_trains_a_zero_weight_like_a_plain_layer():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0))
    plain = nn.Linear(D, N, bias=False, dtype=torch.float64)
    with torch.no_grad():
        classifier.weight.zero_()
        plain.weight.zero_()
    x, y = draw(4, 0)
    handle.remember(x, y)
    for module in (classifier, plain):
        cross_entropy(module(x), y).backward()
    assert handle.coverage() > 0
    torch.testing.assert_close(handle.weight.grad, plain.weight.grad)


def test_VariationalWeight_remember_keeps_the_last_sample_of_a_class():
    _, handle = plugged_linear(Variational(0.3, 5, 0))
    x, y = draw(6, 0, labels=[2, 0, 2, 0, 2, 4])
    handle.remember(x, y)
    torch.testing.assert_close(handle.memory[[0, 2, 4]], normalize(x.detach(), dim=1)[[3, 4, 5]])


def test_plug_creates_the_memory_at_the_start_step():
    classifier, handle = plugged_linear(Variational(0.3, 5, start=2))
    for expected in (1, 2):
        step(classifier, handle)
        assert handle.step_count == expected
        assert handle.memory is None
        assert handle.coverage() == 0
        assert classifier.weight is handle.weight
    step(classifier, handle)
    assert handle.coverage() > 0
    assert classifier.weight is not handle.weight


def test_plug_in_eval_or_no_grad_reads_the_weight_itself_and_writes_nothing():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), bias=True)
    step(classifier, handle)
    before = handle.memory.clone(), handle.timer.tolist(), handle.step_count
    x, y = draw(4, 9)
    with torch.no_grad():
        assert classifier.weight is handle.weight
        handle.remember(x, y)
    classifier.eval()
    assert torch.equal(classifier(x), linear(x, handle.weight, classifier.bias))
    handle.remember(x, y)
    assert torch.equal(handle.memory, before[0])
    assert (handle.timer.tolist(), handle.step_count) == before[1:]
    classifier.train()
    assert not torch.equal(classifier.weight, handle.weight)


def test_plug_backward_uses_the_memory_of_its_forward():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0))
    step(classifier, handle, seed=0)
    classifier.zero_grad()
    x, y = draw(4, 1)
    (expected,) = torch.autograd.grad(cross_entropy(classifier(x), y), handle.weight)
    loss = cross_entropy(classifier(x), y)
    for seed in range(2, 6):
        handle.remember(*draw(6, seed))
    loss.backward()
    assert torch.equal(handle.weight.grad, expected)


def test_plug_gives_the_same_prototypes_for_repeated_reads_in_a_step():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0, memory=SeveralFeatures(2)))
    step(classifier, handle, labels=[1, 2, 3, 3])
    step(classifier, handle, labels=[1, 2, 3, 4])
    assert torch.equal(classifier.weight, classifier.weight)
    with parametrize.cached():
        assert classifier.weight is classifier.weight
    assert handle.step_count == 2


def test_VariationalWeight_micro_batches_equal_one_step():
    whole, parts = (plugged_linear(Variational(0.3, 5, 0)) for _ in range(2))
    for seed in range(3):
        x, y = draw(6, seed)
        whole[1].remember(x, y)
        with parts[1].micro_batches():
            for rows in (slice(0, 4), slice(4, 6)):
                seen = parts[0].weight
                parts[1].remember(x[rows], y[rows])
                assert torch.equal(parts[0].weight, seen)
        require_same_memory(parts[1], whole[1])
    with pytest.raises(RuntimeError, match="nested"), parts[1].micro_batches(), parts[1].micro_batches():
        pass

    def remember_in_parts(handle):
        with handle.micro_batches():
            handle.remember(x, y)
            handle.remember(x, y + N)

    with pytest.raises(ValueError, match="label"):
        remember_in_parts(parts[1])
    require_same_memory(parts[1], whole[1])


def test_VariationalWeight_micro_batches_join_forwards_into_one_step():
    module = CosineClassifier()
    handle = plug(module, "fc.weight", Variational(0.3, 5, 0), remember=("features", "target"))
    x, y = draw(6, 0)
    with handle.micro_batches():
        module(x[:4], y[:4]).backward()
        module(x[4:], target=y[4:]).backward()
    assert handle.step_count == 1
    assert (handle.timer > 0).nonzero().flatten().tolist() == y.unique().tolist()


@pytest.mark.parametrize("memory", [RunningMean(0.5), SeveralFeatures(2), vplface.VonMisesFisher()])
def test_plug_with_every_kind_of_memory_matches_PrototypeHead(memory):
    variational = Variational(0.3, 4, 1, memory=memory)
    module = CosineClassifier()
    head = twin(NormSoftmax(20.0), variational, module.fc.weight)
    handle = plug(module, "fc.weight", variational, remember=("features", "target"))
    for seed in range(8):
        x, y = draw(6, seed)
        ours, theirs = head(x, y), module(x, y)
        torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)
        require_same_memory(handle, head)
    other = CosineClassifier()
    loaded = plug(other, "fc.weight", variational, remember=("features", "target"))
    other.load_state_dict(module.state_dict())
    x, y = draw(6, 99)
    torch.testing.assert_close(other(x, y), head(x, y), rtol=1e-12, atol=1e-12)
    require_same_memory(loaded, head)


# What is remembered by itself


def test_plug_counts_no_step_for_a_forward_without_labels():
    module = CosineClassifier()
    handle = plug(module, "fc.weight", Variational(0.3, 5, 0), remember=("features", "target"))
    x, y = draw(4, 0)
    module(x)
    assert handle.step_count == 0
    module(x, target=y)
    assert handle.step_count == 1
    with torch.no_grad():
        module(x, y)
    module.eval()
    module(x, y)
    assert handle.step_count == 1


def test_VariationalWeight_remember_refuses_a_call_if_the_forward_remembers():
    module = CosineClassifier()
    handle = plug(module, "fc.weight", Variational(0.3, 5, 0), remember=("features", "target"))
    assert handle.by_itself
    with pytest.raises(RuntimeError, match="remember='call'"):
        handle.remember(*draw(4, 0))
    assert not plugged_linear(Variational())[1].by_itself


def test_plug_warns_once_if_remember_is_never_called():
    layer = nn.Linear(4, 3, bias=False)
    handle = plug(layer, "weight", Variational(start=0))
    x, y = torch.randn(2, 4), torch.tensor([0, 2])

    def train():
        for _ in range(2 * FORGOTTEN):
            layer(x)

    with pytest.warns(UserWarning, match=r"not one remember\(\).*handle\.remember\(embeddings, labels\)") as told:
        train()
    assert len(told) == 1
    handle.remember(x, y)
    with warnings.catch_warnings(action="error"):
        train()


def test_plug_with_remember_call_takes_a_step_only_on_remember():
    loss_func = metric_loss("ArcFaceLoss")
    handle = plug(loss_func, "W", Variational(0.3, 5, 0), remember="call")
    x, y = draw(4, 0)
    loss_func(x, y)
    assert handle.step_count == 0
    handle.remember(x, y)
    assert handle.step_count == 1


# Parameters, optimisers, states


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_plug_keeps_an_optimizer_working_before_and_after_removal(kind):
    torch.manual_seed(0)
    classifier = nn.Linear(D, N, dtype=torch.float64)
    original = classifier.weight
    names = [name for name, _ in classifier.named_parameters()]
    optimizer = kind(classifier.parameters(), lr=0.1)
    handle = plug(classifier, "weight", Variational(0.3, 5, 0))
    assert handle.weight is original
    assert sum(each is original for each in classifier.parameters()) == 1
    for seed in range(2):
        before = original.detach().clone()
        step(classifier, handle, seed)
        optimizer.step()
        assert not torch.equal(original, before)
    handle.remove()
    assert classifier.weight is original
    assert type(classifier) is nn.Linear
    assert [name for name, _ in classifier.named_parameters()] == names
    assert set(classifier.state_dict()) == {"weight", "bias"}
    x, y = draw(4, 5)
    before = original.detach().clone()
    cross_entropy(classifier(x), y).backward()
    optimizer.step()
    assert not torch.equal(original, before)
    again = plug(classifier, "weight", Variational(0.3, 5, 0))
    assert again.memory is None
    for call in (handle.remove, lambda: handle.remember(x, y)):
        with pytest.raises(RuntimeError, match="removed"):
            call()
    assert handle.coverage() > 0  # its state can still be read


def test_plug_and_remove_treat_two_weights_of_one_module_independently():
    module = nn.Bilinear(2, 2, 2)
    module.first, module.second = (nn.Parameter(torch.randn(N, D)) for _ in range(2))
    names = [name for name, _ in module.named_parameters()]
    first, second = (plug(module, name, Variational(0.3, 5, 0), layout="rows") for name in ("first", "second"))
    first.remember(*draw(4, 0, torch.float32))
    assert {"first", "first_memory", "second"} < set(module.state_dict())
    assert "second_memory" not in module.state_dict()
    assert module.second is second.weight
    assert module.first is not first.weight
    first.remove()
    second.remember(*draw(4, 0, torch.float32))
    assert module.second is not second.weight
    second.remove()
    assert type(module) is nn.Bilinear
    assert sorted(name for name, _ in module.named_parameters()) == sorted(names)


def test_VariationalWeight_remove_ends_remembering_by_the_forward():
    module = CosineClassifier()
    handle = plug(module, "fc.weight", Variational(0.3, 5, 0), remember=("features", "target"))
    module(*draw(4, 0))
    handle.remove()
    plain = CosineClassifier()
    x, y = draw(4, 1)
    assert torch.equal(module(x, y), plain(x, y))
    assert handle.step_count == 1


def test_plug_passes_assignment_and_initialisation_to_the_parameter():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0))
    step(classifier, handle)
    parameter = handle.weight
    classifier.weight = torch.ones(N, D, dtype=torch.float64)
    assert handle.weight is parameter
    assert bool((parameter == 1).all())
    with torch.no_grad():
        nn.init.constant_(classifier.weight, 2.0)
    assert bool((parameter == 2).all())


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_plug_state_dict_round_trips(steps):
    classifier, handle = plugged_linear(Variational(0.3, 5, start=1), bias=True)
    for seed in range(steps):
        step(classifier, handle, seed)
    state = copy.deepcopy(classifier.state_dict())
    remembered = {"weight_memory", "weight_timer"} if steps > 1 else set()
    assert set(state) == {"weight", "bias", "weight_step_count"} | remembered
    other, loaded = plugged_linear(Variational(0.3, 5, start=1), bias=True)
    step(other, loaded, 77)
    step(other, loaded, 78)
    assert not other.load_state_dict(state).missing_keys
    for seed in range(90, 93):
        assert torch.equal(step(classifier, handle, seed)[2], step(other, loaded, seed)[2])
        require_same_memory(loaded, handle)


def test_plug_states_load_into_a_plain_module_and_back():
    plain = nn.Linear(D, N, dtype=torch.float64)
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), bias=True)
    step(classifier, handle)
    state = classifier.state_dict()
    with pytest.raises(RuntimeError, match=r"weight_memory.*weight_timer.*weight_step_count"):
        plain.load_state_dict(state)
    found = plain.load_state_dict(state, strict=False)
    assert not found.missing_keys
    assert set(found.unexpected_keys) == {"weight_memory", "weight_timer", "weight_step_count"}
    assert torch.equal(plain.weight, handle.weight)
    fresh = nn.Linear(D, N, dtype=torch.float64)
    parameter = handle.weight
    classifier.load_state_dict(fresh.state_dict())
    assert handle.weight is parameter
    assert torch.equal(handle.weight, fresh.weight)
    assert handle.memory is None  # a state from before the first step
    assert handle.step_count == 0


def test_plug_state_dict_round_trips_inside_a_larger_module():
    def build():
        torch.manual_seed(3)
        model = nn.ModuleDict({"backbone": nn.Linear(D, D), "head": nn.Sequential(nn.Identity(), nn.Linear(D, N))})
        return model, plug(model, "head.1.weight", Variational(0.3, 5, 0))

    model, handle = build()
    x, y = draw(4, 0, dtype=torch.float32)
    handle.remember(x, y)
    state = model.state_dict()
    assert {"backbone.weight", "head.1.weight", "head.1.bias", "head.1.weight_memory"} < set(state)
    assert not any("parametrizations" in key for key in state)
    other, loaded = build()
    other.load_state_dict(state)
    require_same_memory(loaded, handle)


def test_plug_load_state_dict_names_keys_that_do_not_fit():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), bias=True)
    step(classifier, handle)
    state = classifier.state_dict()
    for wrong, message in [
        ({k: v for k, v in state.items() if k != "weight"}, r"Missing key\(s\).*\"weight\""),
        ({k: v for k, v in state.items() if k != "weight_timer"}, r"Missing key\(s\).*\"weight_timer"),
        (state | {"weight_memory": torch.zeros(3, D)}, r"size mismatch for weight_memory: .*\[3, 5\].*\[7, 5\]"),
        (state | {"weight_other": torch.zeros(1)}, r"Unexpected key\(s\).*weight_other"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            classifier.load_state_dict(wrong)
    other, _ = plugged_linear(Variational(0.3, 5, 0, memory=RunningMean()), bias=True)
    with pytest.raises(RuntimeError, match=r"kind LastFeature, this module has variational.memory=RunningMean\(\)"):
        other.load_state_dict(state)
    kept = handle.weight.detach().clone()
    found = classifier.load_state_dict({"bias": state["bias"]}, strict=False)
    assert found.missing_keys == ["weight"]
    assert torch.equal(handle.weight, kept)


def test_plug_copies_of_the_module_are_independent():
    module = CosineClassifier()
    handle = plug(module, "fc.weight", Variational(0.3, 5, 0), remember=("features", "target"))
    module(*draw(4, 0))
    copied = copy.deepcopy(module)
    of_copy = copied.fc.parametrizations.weight[0]
    x, y = draw(4, 1)
    assert torch.equal(copied(x, y), module(x, y))
    require_same_memory(of_copy, handle)
    copied(*draw(4, 2))
    assert (of_copy.step_count, handle.step_count) == (3, 2)
    assert set(copied.state_dict()) == set(module.state_dict())
    of_copy.remove()
    copied(*draw(4, 3))
    module(*draw(4, 3))
    assert (of_copy.step_count, handle.step_count) == (3, 3)


def test_plug_memory_follows_dtype_and_device_of_the_module():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), dtype=torch.float32)
    step(classifier, handle)
    classifier.double()
    assert handle.memory.dtype == torch.float64
    assert handle.timer.dtype == torch.int32
    step(classifier, handle, 1)
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), memory_dtype=torch.float16)
    step(classifier, handle)
    classifier.float()
    assert handle.memory.dtype == torch.float16
    classifier.to("meta")
    assert handle.memory.device.type == handle.timer.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_plug_in_low_precision_stays_close_to_float64(dtype):
    exact, exact_handle = plugged_linear(Variational(0.3, 5, 0))
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), dtype=dtype)
    with torch.no_grad():
        exact.weight.copy_(handle.weight)
    x, y = draw(4, 0, dtype)
    for each in (handle, exact_handle):
        each.remember(x, y)
    assert classifier.weight.dtype == dtype
    bound = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(classifier.weight.double(), exact.weight, rtol=bound, atol=bound)


def test_plug_under_autocast_keeps_memory_and_gradients_in_float32():
    classifier, handle = plugged_linear(Variational(0.3, 5, 0), dtype=torch.float32)
    x, y = draw(4, 0, torch.float32)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(classifier(x), y)
        loss.backward()
        handle.remember(x.bfloat16(), y)
    assert handle.memory.dtype == handle.weight.grad.dtype == torch.float32
    assert handle.coverage() > 0


# The start by drift


def test_VariationalWeight_begin_starts_at_the_next_step_and_is_saved():
    classifier, handle = plugged_linear(Variational(0.3, None, start="auto"))
    for seed in range(3):
        step(classifier, handle, seed)
    assert handle.memory is None
    with pytest.raises(ValueError, match="at least 1 step"):
        handle.begin()
    with pytest.raises(RuntimeError, match="micro_batches"), handle.micro_batches():
        handle.begin(2)
    handle.begin(delta_t=2)
    step(classifier, handle, labels=[0, 1, 2, 3])
    assert handle.timer.tolist() == [2, 2, 2, 2, 0, 0, 0]
    with pytest.raises(RuntimeError, match="begun at step 3 already"):
        handle.begin(2)
    other, loaded = plugged_linear(Variational(0.3, None, start="auto"))
    other.load_state_dict(classifier.state_dict())
    assert (loaded.begun_at, loaded.delta_t) == (3, 2)
    require_same_memory(loaded, handle)
    given, given_handle = plugged_linear(Variational(0.3, 2, start=3))
    for seed in range(4):
        step(given, given_handle, seed)
    without_lifetime, _ = plugged_linear(Variational(0.3, None, start="auto"))
    with pytest.raises(RuntimeError, match="does not say Δt"):
        without_lifetime.load_state_dict(given.state_dict())


def test_DriftMonitor_begins_a_plugged_weight():
    classifier, handle = plugged_linear(Variational(0.3, 5, start="auto"), dtype=torch.float32)
    pictures, labels = torch.randn(8, D), torch.arange(4).repeat_interleave(2)
    monitor = DriftMonitor(handle, pictures, labels, every=1)
    backbone = nn.Identity()  # which holds still
    for seed in range(12):
        step(classifier, handle, seed)
        monitor.step(backbone)
    assert monitor.begin is not None
    assert handle.begun_at == monitor.begin.step
    assert handle.coverage() > 0


# Several processes


def data_parallel(group, batches):
    """The memory after a few steps; this rank sees its contiguous part of each batch, in two micro-batches."""
    classifier, handle = plugged_linear(Variational(0.3, 3, 1), process_group=group)
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    for x, y in batches:
        own = slice(rank * len(y) // world, (rank + 1) * len(y) // world)
        x, y = x[own], y[own]
        with handle.micro_batches():
            for part in (slice(0, 1), slice(1, None)):
                handle.remember(x[part], y[part])
    return handle.memory, handle.timer, classifier.weight.detach()


def one_bad_batch(group):
    _, handle = plugged_linear(Variational(0.3, 3, 1), process_group=group)
    x, y = draw(4, 0)
    try:
        handle.remember(x, y + N * (torch.distributed.get_rank(group) == 1))
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


@pytest.mark.slow
def test_plug_on_two_ranks_remembers_the_whole_batch(processes):
    batches = [tuple(part.detach() for part in draw(8, seed)) for seed in range(5)]
    classifier, handle = plugged_linear(Variational(0.3, 3, 1))
    for x, y in batches:
        handle.remember(x, y)
    for memory, timer, weight in processes.run(data_parallel, 2, batches):
        assert torch.equal(memory, handle.memory)
        assert torch.equal(timer, handle.timer)
        assert torch.equal(weight, classifier.weight.detach())
    first, second = processes.run(one_bad_batch, 2)
    assert "rank 1 is invalid" in first
    assert "is not a class id" in second


# Layouts, and what is refused


class Named(nn.Module):
    def __init__(self, shape, **attributes):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(shape))
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(6, 6), "rows"),
        (Named((7, 4), embedding_size=4), "rows"),
        (Named((4, 7), embedding_dim=4), "columns"),
        (Named((4, 7), num_classes=7), "columns"),
        (Named((7, 4), num_classes=7, embedding_size=0), "rows"),
        (Named((21, 4), num_classes=7, sub_centers=3), "rows"),
        (Named((4, 21), num_classes=7, sub_centers=3), "columns"),
        (Named((7, 4), in_features=4, out_features=7), "rows"),
    ],
)
def test_plug_infers_the_layout_from_attributes(module, expected):
    name = next(name for name, _ in module.named_parameters())
    handle = plug(module, name, Variational())
    assert handle.layout == expected
    assert (handle.num_classes, handle.embedding_dim) == ((6, 6) if isinstance(module, nn.Linear) else (7, 4))


@pytest.mark.parametrize(
    "module",
    [
        Named((7, 4)),
        Named((6, 6), num_classes=6),
        Named((7, 4), num_classes=5),
        Named((7, 4), num_classes=4, embedding_size=4),
    ],
)
def test_plug_asks_for_the_layout_if_it_is_ambiguous(module):
    with pytest.raises(ValueError, match=r"layout='rows' for \[classes, dim\] or layout='columns'"):
        plug(module, "kernel", Variational())
    assert not parametrize.is_parametrized(module)
    handle = plug(module, "kernel", Variational(), layout="columns")
    assert (handle.num_classes, handle.embedding_dim) == tuple(module.kernel.shape[::-1])


def test_plug_injects_a_square_weight_along_the_given_layout():
    for layout in ("rows", "columns"):
        module = Named((4, 4))
        handle = plug(module, "kernel", Variational(0.5, 5, 0), layout=layout)
        handle.remember(torch.ones(1, 4), torch.tensor([2]))
        changed = module.kernel != handle.weight
        assert changed.any(1 if layout == "rows" else 0).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("W", {}, r"Linear has no parameter 'W'; its parameters: weight, bias"),
        ("fc.weight", {}, r"Linear has no submodule 'fc'"),
        ("bias", {}, r"bias of Linear is \[7\].* a classifier's weight is a matrix"),
        ("weight", {"layout": "diagonal"}, "layout must be 'rows' or 'columns'"),
        ("weight", {"sub_centers": 2}, r"7 rows of weight are not 2 or more classes of sub_centers=2"),
        ("weight", {"sub_centers": 0}, "sub_centers=0"),
        ("weight", {"sub_centers": 7}, "2 or more classes"),
        ("weight", {"remember": "forward"}, "remember must be 'auto', 'call' or the names of two arguments"),
        ("weight", {"remember": ("input", "label")}, r"forward of Linear has input, and not both of"),
    ],
)
def test_plug_refuses_invalid_arguments_and_leaves_the_module_unchanged(name, kwargs, message):
    module = nn.Linear(D, N)
    with pytest.raises(ValueError, match=message):
        plug(module, name, Variational(), **kwargs)
    assert type(module) is nn.Linear
    assert set(module.state_dict()) == {"weight", "bias"}


def test_plug_refuses_a_weight_that_is_already_parametrised():
    classifier, handle = plugged_linear(Variational())
    with pytest.raises(ValueError, match=r"already plugged; remove\(\) that handle first"):
        plug(classifier, "weight", Variational())
    handle.remove()
    plug(classifier, "weight", Variational())
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(D, N))
    with pytest.raises(ValueError, match="already parametrised"):
        plug(normed, "weight", Variational())


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.ones(2, D), torch.tensor([0, N]), ValueError, r"label 7 of sample 1 is not a class id in \[0, 7\)"),
        (torch.ones(2, D), torch.tensor([-1, 0]), ValueError, "label -1 of sample 0"),
        (torch.ones(2, D + 1), torch.tensor([0, 1]), ValueError, r"must be \[batch ≥ 1, 5\]"),
        (torch.ones(2, D), torch.tensor([0, 1, 2]), ValueError, r"labels must be \[2\] like embeddings"),
        (torch.ones(2, D), torch.tensor([0, 1], dtype=torch.int32), TypeError, "int64"),
        (torch.ones(2, D, dtype=torch.int64), torch.tensor([0, 1]), TypeError, "floating-point"),
        (torch.tensor([[1.0] * D, [math.nan] * D]), torch.tensor([0, 1]), ValueError, "NaN or infinite"),
        (torch.zeros(2, D), torch.tensor([0, 1]), ValueError, "zero"),
    ],
)
def test_VariationalWeight_remember_refuses_bad_batches_and_keeps_its_state(x, y, error, message):
    classifier, handle = plugged_linear(Variational(0.3, 5, 0))
    step(classifier, handle)
    before = SimpleNamespace(memory=handle.memory.clone(), timer=handle.timer.clone(), step_count=1)
    module = CosineClassifier(torch.float32)
    by_itself = plug(module, "fc.weight", Variational(0.3, 5, 0), remember=("features", "target"))
    with pytest.raises(error, match=message):
        handle.remember(x, y)
    with pytest.raises(error, match=message):
        module(x, y)
    assert by_itself.step_count == 0
    assert handle.step_count == before.step_count
    assert torch.equal(handle.memory, before.memory)
    assert torch.equal(handle.timer, before.timer)


def test_Variational_refuses_a_lam_out_of_range():
    with pytest.raises(ValueError, match="lam must lie in"):
        plugged_linear(Variational(lam=1.5))


def test_VariationalWeight_repr_shows_its_options():
    classifier, _ = plugged_linear(Variational(lam=0.25))
    assert "VariationalWeight(7, 5, variational=Variational(lam=0.25" in repr(classifier)
