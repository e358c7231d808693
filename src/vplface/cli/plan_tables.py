"""Plans of runs on the terminal, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vplface.console import Console, print_json
from vplface.tables import Table

if TYPE_CHECKING:
    from vplface.config import Config, DistillConfig, EvaluationConfig, VariationalConfig
    from vplface.data.samplers import Sampler
    from vplface.footprint import Footprint, Forecast, NetworkSize, RunSize
    from vplface.plan import Operations, Plan, TeacherPlan, Trained, ValidationPlan
    from vplface.training.ramps import Ramp

_MEMORY = {
    "weight": "W",
    "momentum": "momentum of W",
    "gradient": "gradient of W",
    "update": "temporary, in the update of W",
    "memory": "M",
    "timer": "T",
    "statistics": "statistics of M",
    "terms": "state of terms",
    "drawn": "copies of drawn classes",
    "mixture": "softmax: prototypes with memory, Z",
    "workspace": "softmax: exponentials",
    "tiles": "softmax: other buffers",
    "features": "gathered embeddings",
    "backbone": "backbone and its optimiser",
    "activations": "backbone: activations",
    "teacher": "teacher",
    "teacher_activations": "teacher: activations",
}
_TRAFFIC = {
    "sizes": "sizes, types and error flags, all-gather",
    "embeddings": "embeddings, all-gather",
    "labels": "labels, all-gather",
    "norms": "lengths of embeddings, all-gather",
    "targets": "target logits, all-reduce",
    "sums": "partition sums, all-reduce",
    "gradients": "their gradient, reduce-scatter",
    "tile_norms": "norms of W's gradient, all-gather",
    "residuals": "residuals of M, all-reduce",
    "backbone": "backbone's gradient, all-reduce",
    "buffers": "its statistics, broadcast",
    "stop": "stop signals, all-reduce",
}


_MOST_DEPTHS = 8
"""The most learning rates that are listed one by one."""


def show_plan(config: Config, as_json: bool, gpus: int = 1) -> None:
    """Print the plan of a configuration, as a table or as JSON."""
    from vplface.plan import plan as plan_of
    from vplface.prototypes import LastFeature

    plan = plan_of(config, gpus)
    if as_json:
        values = asdict(plan) | {"footprint": _as_json(plan.footprint)}
        print_json({"schema": 1, "config": config.model_dump(mode="json"), "gpus": gpus, "plan": values})
        return
    rows = [
        ("classes", f"{plan.identities:,}{_shared(plan.footprint, gpus)}"),
        ("pictures", f"{plan.pictures:,} ({plan.pictures / plan.identities:.1f} a class)"),
        (
            "steps",
            f"{plan.steps:,} ({config.schedule.length}; {plan.steps_per_epoch:,} an epoch of {config.batch_size})",
        ),
        ("order of pictures", _sampler(config.data.sampler)),
        (
            "backbone",
            f"{config.backbone.name} → {config.backbone.embedding_dim}, {plan.parameters / 1e6:.2f} M parameters",
        ),
        *([] if plan.normalisation is None else [("normalisation", plan.normalisation)]),
        *_trained(plan.trained, config.optimizer.lr * config.optimizer.head_lr_scale),
        ("loss", f"{config.margin}"),
        *([] if config.distill is None else _distilled(config.distill, plan.teacher)),
        *((f"  {key}", _ramp(ramp)) for key, ramp in plan.ramps.items()),
        ("softmax", plan.softmax),
        *([("expected first loss", f"{plan.first_loss:.2f}")] if config.prototypes == "random" else []),
    ]
    if config.variational is None or plan.variational_start is None:
        rows.append(("prototypes", "plain"))
    else:
        rows.append(("prototypes", _variational(config.variational, plan)))
        if config.variational.memory != LastFeature():
            rows.append(("remembered", f"{config.variational.memory}"))
    rows += [*_coverage(plan.coverage), ("pictures with a living memory", _by_lifetime(plan.own))]
    if plan.validations is not None:
        rows += _validations(plan.validations, config.evaluation, plan.operations.share)
    rows += [("operations of a step", _operations(plan.operations)), *_costs(plan.footprint)]
    _show(f"plan of {config.run_folder}", rows)


def _trained(trained: Trained, of_prototypes: float) -> list[tuple[str, str]]:
    """Rows for what trains of the backbone, and at which rates."""
    parts = [f"{_million(trained.parameters)} parameters"]
    if trained.until is not None:
        parts.append(f"{_million(trained.waiting)} of them from step {trained.until:,}")
    if trained.frozen:
        parts.append(f"{_million(trained.frozen)} frozen")
    if trained.still_norms:
        parts.append(f"{trained.still_norms} BatchNorm layers are frozen")
    by_depth = [f"{depth}: {rate:.2g}" for depth, rate in trained.rates.items() if depth >= 0]
    if len(by_depth) > _MOST_DEPTHS:
        by_depth[2:-2] = ["…"]
    rate = f"by depth {', '.join(by_depth)}" if by_depth else f"{trained.rates[-1]:g}"
    return [("trained", "; ".join(parts)), ("learning rate", f"{rate}; prototypes {of_prototypes:g}")]


def _distilled(section: DistillConfig, teacher: TeacherPlan | None) -> list[tuple[str, str]]:
    """Rows for a teacher and its cost."""
    assert teacher is not None
    weights = ", ".join(f"{weight:g} · {kind}" for kind, weight in section.weights.items())
    rows = [("distilled from", f"{section.teacher}: {weights}")]
    if teacher.unknown:
        return [*rows, ("  its cost", f"not known: {teacher.unknown}")]
    if teacher.size is None:
        return [*rows, ("  its cost", f"{_size(teacher.embeddings)} of CPU memory, no forward pass")]
    size = teacher.size
    cost = f"{_million(size.parameters)} parameters, {_flops(size.forward)} a picture, in float32"
    if teacher.on_cpu:
        cost += f", by onnxruntime on the CPU: {_size(size.state_bytes + size.peak_bytes)} of its memory"
    return [*rows, ("  its cost", cost)]


def _validations(plan: ValidationPlan, section: EvaluationConfig, share: float) -> list[tuple[str, str]]:
    """Rows for what is measured, how often, and when training may end."""
    sets = (
        f"{name}: {each.pictures:,} pictures of {each.people:,} people{', a guard' if each.guard else ''}"
        for name, each in plan.sets.items()
    )
    rows = [("measured", "\n".join(sets))]
    often = "after training only"
    if plan.every is not None:
        often = f"every {f'{plan.every:,} steps' if plan.every > 1 else 'step'}: {plan.during:,}"
        often += ", and 1 after training" if plan.others == 1 else f", and {plan.others} more: untouched, last, best"
    rows.append(("validations", often))
    flipped = ", each also mirrored" if plan.passes == 2 else ""
    rows.append(("  in each", f"{plan.pictures:,} pictures{flipped}; {_share(share)} of all operations"))
    if section.patience is not None:
        when = "no, there are too few validations" if plan.may_end is None else f"from step {plan.may_end:,}"
        rows.append(("may end early", f"{when}: {section.patience} in a row that are no better"))
    return rows


def _operations(operations: Operations) -> str:
    parts = {"backbone": operations.backbone, "head": operations.head, "teacher": operations.teacher}
    whole = sum(parts.values())
    return f"{_flops(whole)}: " + ", ".join(f"{name} {_share(part / whole)}" for name, part in parts.items() if part)


def _flops(count: int) -> str:
    return f"{count / 1e9:,.3g} GFLOP" if count < 1e12 else f"{count / 1e12:,.3g} TFLOP"


def _ramp(ramp: Ramp) -> str:
    return f"{ramp.first:g} until step {ramp.begin:,}, {ramp.last:g} from step {ramp.begin + ramp.length:,}"


def _million(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 10_000 else f"{count:,}"


def _variational(section: VariationalConfig, plan: Plan) -> str:
    delta_t = "by drift" if plan.delta_t is None else f"{plan.delta_t:,}"
    if plan.delta_t is not None and section.lifetime_drift is not None:
        delta_t += " or less, by drift"
    start = section.start_rule(plan.steps_per_epoch)
    when = f"from step {start:,}" if isinstance(start, int) else "once drift has settled"
    return f"variational: λ {section.lam}, Δt {delta_t}, {when}"


def _sampler(sampler: Sampler) -> str:
    options = ", ".join(f"{key} {value:,}" for key, value in vars(sampler).items())
    return type(sampler).__name__.lower() + (f": {options}" if options else "")


def show_forecast(size: RunSize, backbone: str, network: NetworkSize, forecast: Forecast, as_json: bool) -> None:
    """Print the forecast for a run of a given size, as a table or as JSON."""
    if as_json:
        values = asdict(forecast) | {"footprint": _as_json(forecast.footprint)}
        print_json(
            {
                "schema": 1,
                "job": {
                    **asdict(size),
                    "kind": str(size.kind),
                    "fused_step": size.takes_fused_step,
                    "backbone": backbone,
                },
                "network": asdict(network),
                "plan": values,
            }
        )
        return
    drawn = f", {size.sample_rate:g} of them a step" if size.sample_rate < 1.0 else ""
    rows = [
        ("classes", f"{size.classes:,}{_shared(forecast.footprint, size.gpus)}{drawn}"),
        ("batch", f"{size.batch:,}" + (f" ({size.pictures_a_pass:,} a GPU)" if size.gpus > 1 else "")),
        ("backbone", f"{backbone} → {size.dim}, {network.parameters / 1e6:.2f} M parameters"),
        ("products", size.precision),
        ("softmax", "fused step" if size.takes_fused_step else "tiles of classes"),
    ]
    if forecast.steps_per_epoch is not None:
        whole = "" if forecast.steps is None else f"{forecast.steps:,}; "
        rows.append(("steps", f"{whole}{forecast.steps_per_epoch:,} an epoch"))
    rows += [
        *_coverage(forecast.coverage),
        ("half of the classes at Δt", f"{forecast.half_covered:,}"),
        *_costs(forecast.footprint),
    ]
    _show(f"plan of {size.classes:,} classes on {size.gpus:,} GPU{'s' if size.gpus > 1 else ''}", rows)


def _costs(footprint: Footprint) -> list[tuple[str, str]]:
    """Rows for memory, traffic and checkpoint, without parts that are zero."""
    memory, traffic, checkpoint = footprint.memory, footprint.traffic, footprint.checkpoint
    rows = [("memory of a GPU" if traffic.total else "memory", _size(memory.total)), *_parts(memory, _MEMORY)]
    if traffic.total:
        rows += [("sent by a GPU in a step", _size(traffic.total)), *_parts(traffic, _TRAFFIC)]
    rows.append(("checkpoint", f"{_size(checkpoint.total)} on disk"))
    rows.append(("  while it is written", f"{_size(footprint.host_bytes)} of CPU memory a process"))
    return rows


def _parts(whole: Any, names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"  {name}", _size(part)) for key, name in names.items() if (part := getattr(whole, key))]


def _coverage(coverage: Mapping[int, float]) -> list[tuple[str, str]]:
    return [("coverage by Δt (steps)", _by_lifetime(coverage))]


def _by_lifetime(shares: Mapping[int, float]) -> str:
    return "   ".join(f"{delta_t:,}: {_share(share)}" for delta_t, share in shares.items())


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{100 * share:.2g}%"


def _shared(footprint: Footprint, gpus: int) -> str:
    return f" ({footprint.rows:,} a GPU)" if gpus > 1 else ""


def _as_json(footprint: Footprint) -> dict[str, Any]:
    """The footprint with its totals, JSON-ready."""
    values = asdict(footprint)
    for name in ("memory", "traffic", "checkpoint"):
        values[name]["total"] = getattr(footprint, name).total
    return values


def _show(title: str, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(title, text=(0, 1))
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _size(count: int) -> str:
    if count < 2**20:
        return f"{count:,} bytes"
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"
