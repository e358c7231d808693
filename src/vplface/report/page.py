"""The report of runs: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from vplface.evaluation.figure import finite
from vplface.evaluation.metrics import Metric
from vplface.report import plots, sphere
from vplface.report.arms import capitalised, distinct, legend, mapping, set_names, swatch
from vplface.report.document import document, limits, write_page
from vplface.report.evaluation import evaluation_section, figure_of
from vplface.report.faces import Faces, PictureOf
from vplface.report.finetuning import finetuning_caution, finetuning_section, finetuning_verdict
from vplface.report.markup import Child, Markup, join, tag
from vplface.report.provenance import differing, flattened, provenance, settings_table
from vplface.report.record import RunRecord, read_comparison
from vplface.report.results import results
from vplface.report.verdict import cautions, differences, verdict

UNCOUNTED_SETTINGS = ("name", "output", "arms")


def write_report(
    path: str | Path, runs: Sequence[RunRecord], title: str, *, picture_of: PictureOf | None = None
) -> str:
    """Write one self-contained page about one run, or about several arms side by side.

    Paired differences are taken from ``comparison.json`` in the folder that holds the runs, second arm minus
    first. Parts that the runs lack are left out of the page, or marked as missing.

    Args:
        path: the HTML file; written atomically.
        runs: the arms, the baseline first; see ``read_run``.
        title: the headline.
        picture_of: returns the pictures of the worst errors; with None only names are shown.

    Returns:
        The verdict, the sentence at the top of the page; on each guard there is a further line.

    Raises:
        ValueError: there are no runs.
        DataError: ``comparison.json`` is damaged.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    runs = distinct(runs)
    used, notes = differences(runs, read_comparison(runs))
    alone = runs[0] if len(runs) == 1 and runs[0].finetuning else None
    sentences = [verdict(runs, used)] if alone is None else finetuning_verdict(alone.finetuning)
    notes += [] if alone is None else finetuning_caution(alone)
    faces = Faces(picture_of)
    body = tag(
        "main",
        _headline(runs, title, sentences, [*cautions(runs, used), *notes]),
        None if alone is None else finetuning_section(alone),
        results(runs, [(runs[1], used)] if used else []),
        _method(runs),
        _training(runs),
        [evaluation_section(runs, set_name, faces) for set_name in set_names(runs)],
        _settings(runs),
        provenance(runs),
        limits(),
    )
    script = files("vplface.report").joinpath("sphere.js").read_text(encoding="utf-8")
    write_page(Path(path), document(title, body, script))
    return "\n".join(sentences)


def _headline(runs: Sequence[RunRecord], title: str, sentences: Sequence[str], notes: Sequence[str]) -> Markup:
    facts = {
        "Network": _each(runs, _network),
        "Loss": _each(runs, _loss),
        "Trained on": _each(runs, _data),
        "Training": _each(runs, _length),
        "Evaluated on": ", ".join(set_names(runs)) or None,
    }
    return join(
        tag("p", "vplface · variational prototype learning", class_="eyebrow"),
        tag("h1", title),
        tag(
            "p",
            "One training run" if len(runs) == 1 else f"{len(runs)} training runs, compared",
            ": ",
            ", ".join(run.name for run in runs),
            class_="lead",
        ),
        [tag("p", sentence, class_="verdict") for sentence in sentences],
        [tag("p", note, class_="caution") for note in notes],
        tag(
            "dl",
            [[tag("dt", term), tag("dd", fact)] for term, fact in facts.items() if fact],
            class_="facts",
        ),
    )


def _method(runs: Sequence[RunRecord]) -> Markup | None:
    with_sphere = [(run, run.sphere) for run in runs if run.sphere is not None]
    if not with_sphere:
        return None
    run, shown = max(with_sphere, key=lambda found: bool((found[1].timer > 0).any()))
    drawn = sphere.pictures(shown)
    point, distribution = (figure_of(figure) for figure in drawn[:2])
    formula = Markup(
        "<i>u</i><sub>j</sub> = normalise( (1 − <i>λ</i>) <i>v</i><sub>j</sub> + <i>λ</i> <i>M</i><sub>j</sub> )"
    )
    close = [
        tag(
            "figure",
            figure.picture,
            tag("div", tag("h4", figure.title), tag("p", formula, class_="formula"), tag("figcaption", figure.note)),
            class_="wide-figure",
        )
        for figure in drawn[2:]
    ]
    return join(
        tag("h2", "Points and distributions"),
        tag(
            "p",
            f"A network like the one of {run.name}, trained into three dimensions so that its embedding can be seen: "
            f"{len(shown.labels)} samples of {len(shown.prototypes)} classes. Drag to turn both globes.",
            class_="lead",
        ),
        tag("div", point, distribution, close, class_="spheres"),
    )


def _training(runs: Sequence[RunRecord]) -> Markup:
    figures = [
        *plots.curves(runs),
        *plots.validation(runs, _metric_titles(runs)),
    ]
    if not figures:
        return join(tag("h2", "Training"), tag("p", "These runs hold no training log.", class_="note"))
    return join(
        tag("h2", "Training"),
        legend(runs),
        tag("div", [figure_of(figure) for figure in figures], class_="figures"),
    )


def _settings(runs: Sequence[RunRecord]) -> Markup:
    parts: list[Child] = [tag("h2", "Configuration")]
    flat = [flattened(run.config) for run in runs]
    if not any(flat):
        return join(*parts, tag("p", "These runs hold no configuration.", class_="note"))
    differ = differing(flat, ignoring=UNCOUNTED_SETTINGS)
    if len(runs) > 1:
        if differ:
            parts.append(tag("p", "The arms differ only in these settings:"))
            parts.append(settings_table(runs, [{key: side.get(key, "—") for key in differ} for side in flat], []))
        else:
            parts.append(tag("p", "All arms have the same settings."))
    count = len(dict.fromkeys(key for side in flat for key in side))
    parts.append(tag("details", tag("summary", f"All {count} settings"), settings_table(runs, flat, differ)))
    return join(*parts)


def _metric_titles(runs: Sequence[RunRecord]) -> dict[str, str]:
    found = {
        metric
        for run in runs
        for line in run.validation
        for metrics in mapping(line.get("validation")).values()
        for metric in mapping(metrics)
    }
    return {metric: capitalised(Metric.parse(metric).label) for metric in found}


def _network(run: RunRecord) -> str | None:
    backbone = mapping(run.config.get("backbone"))
    name = run.card.get("backbone") or backbone.get("name")
    dim = run.card.get("embedding_dim") or backbone.get("embedding_dim")
    return f"{name}, {dim} dimensions" if name and dim else str(name) if name else None


def _loss(run: RunRecord) -> str | None:
    margin = mapping(run.config.get("margin"))
    if "name" not in margin:
        return None
    options = ", ".join(f"{key} {value}" for key, value in margin.items() if isinstance(value, int | float))
    injection = mapping(run.config.get("variational"))
    words = f"{margin['name']} ({options})" if options else str(margin["name"])
    if injection:
        delta_t, start = (_rule(injection.get(key)) for key in ("delta_t", "start"))
        words += f" + VPL (λ {injection.get('lam')}, Δt {delta_t}, start {start}"
        words += f"{_memory(mapping(injection.get('memory')))})"
    return words


def _memory(memory: Mapping[str, object]) -> str:
    """A kind of memory other than the paper's, with its options."""
    if memory.get("name", "last") == "last":
        return ""
    return f", memory {memory['name']}" + "".join(f" {key} {value}" for key, value in memory.items() if key != "name")


def _rule(value: object) -> str:
    """A length, or the targets of the rule that decides it."""
    targets = [f"{key} {target:g}" for key, target in mapping(value).items() if target is not None]
    return f"by {', '.join(targets)}" if targets else str(value)


def _data(run: RunRecord) -> str | None:
    if data := run.card.get("training_data"):
        people, pictures = (finite(run.card.get(key)) for key in ("identities", "pictures"))
        return f"{data}: {people:,.0f} people, {pictures:,.0f} pictures" if people and pictures else str(data)
    sources = mapping(run.config.get("data")).get("train")
    if not isinstance(sources, list):
        return None
    return ", ".join(str(mapping(source).get("folder", source)) for source in sources) or None


def _length(run: RunRecord) -> str | None:
    if not run.training:
        return None
    words = f"{run.card.get('step') or run.training[-1]['step']:,} steps"
    batch = run.config.get("batch_size")
    return f"{words} of {batch} pictures" if batch else words


def _each(runs: Sequence[RunRecord], describe: Callable[[RunRecord], str | None]) -> Child:
    """One line for all runs if they agree, else one line each."""
    lines = [describe(run) for run in runs]
    if len(set(lines)) == 1:
        return lines[0]
    return [tag("div", swatch(index), tag("span", words)) for index, words in enumerate(lines) if words is not None]
