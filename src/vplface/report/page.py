"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vplface.errors import import_extra
from vplface.files import replacing
from vplface.report import plots, sphere
from vplface.report.chart import ink
from vplface.report.markup import Child, Markup, join, tag
from vplface.report.plots import Figure
from vplface.report.record import RunRecord, read_comparison
from vplface.report.verdict import (
    Difference,
    cautions,
    differences,
    metric_name,
    metric_order,
    metric_value,
    verdict,
)

PictureOf = Callable[[str, str], UInt8[np.ndarray, "112 112 3"] | None]
"""(set name, picture name) → the picture in RGB, or None if it cannot be had."""

PICTURE_BYTES = 1_500_000
"""What the pictures of one page may weigh; beyond it, names and similarities stand alone."""
WORST = 8
UNCOUNTED_SETTINGS = ("name", "output", "arms")


def write_report(
    path: str | Path, runs: Sequence[RunRecord], title: str, *, picture_of: PictureOf | None = None
) -> str:
    """Write one self-contained page about one run, or about several arms side by side.

    Paired differences are taken from ``comparison.json`` in the folder that holds the runs, second arm minus
    first. What the runs lack is left out of the page, or said to be missing where a reader would look for it.

    Args:
        path: the HTML file; written at once, or not at all.
        runs: the arms, the baseline first; see ``read_run``.
        title: the headline.
        picture_of: where the pictures of the most wrong pairs come from; None leaves names alone.

    Returns:
        The verdict, the sentence that stands at the head of the page.

    Raises:
        ValueError: there are no runs.
        DataError: ``comparison.json`` is damaged.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    runs = _distinct(runs)
    used, notes = differences(runs, read_comparison(runs))
    sentence = verdict(runs, used)
    faces = _Faces(picture_of, PICTURE_BYTES)
    body = tag(
        "main",
        _headline(runs, title, sentence, [*cautions(runs, used), *notes]),
        _results(runs, used),
        _method(runs),
        _training(runs),
        [_evaluation(runs, set_name, faces) for set_name in _set_names(runs)],
        _settings(runs),
        _provenance(runs),
        _limits(),
    )
    script = files("vplface.report").joinpath("sphere.js").read_text(encoding="utf-8")
    _write(Path(path), _document(title, body, script))
    return sentence


def _document(title: str, body: Markup, script: str) -> str:
    style = files("vplface.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is loaded from anywhere, and no script runs but ours: a hostile file name cannot change that.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    gradient = tag(
        "svg",
        tag(
            "defs",
            tag(
                "radialGradient",
                tag("stop", offset="0%", class_="ball-in"),
                tag("stop", offset="55%", class_="ball-in"),
                tag("stop", offset="100%", class_="ball-out"),
                id="ball",
                cx="38%",
                cy="32%",
                r="75%",
            ),
        ),
        width=0,
        height=0,
        style="position:absolute",
        aria_hidden="true",
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    page = tag("html", head, tag("body", gradient, body, tag("script", Markup(script))), lang="en")
    return f"<!doctype html>\n{page}\n"


def _headline(runs: Sequence[RunRecord], title: str, sentence: str, notes: Sequence[str]) -> Markup:
    facts = {
        "Network": _each(runs, _network),
        "Loss": _each(runs, _loss),
        "Trained on": _each(runs, _data),
        "Training": _each(runs, _length),
        "Evaluated on": ", ".join(_set_names(runs)) or None,
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
        tag("p", sentence, class_="verdict"),
        [tag("p", note, class_="caution") for note in notes],
        tag(
            "dl",
            [[tag("dt", term), tag("dd", fact)] for term, fact in facts.items() if fact],
            class_="facts",
        ),
    )


def _results(runs: Sequence[RunRecord], used: Sequence[Difference]) -> Markup:
    tables = [_results_table(runs, set_name, used) for set_name in _set_names(runs)]
    if not tables:
        tables = [tag("p", "No evaluation was found in these runs: `vplface evaluate` measures one.", class_="note")]
    return join(tag("h2", "Results"), tables)


def _results_table(runs: Sequence[RunRecord], set_name: str, used: Sequence[Difference]) -> Markup:
    metrics = sorted(
        {
            metric
            for run in runs
            for metric in _mapping(run.evaluations.get(set_name, {}).get("metrics"))
            if metric_value(run, set_name, metric) is not None or _entry(run, set_name, metric).get("reason")
        },
        key=metric_order,
    )
    cells = {(run.name, metric): _entry(run, set_name, metric) for run in runs for metric in metrics}
    rows: list[Markup] = []
    for index, run in enumerate(runs):
        row: list[Child] = [tag("th", _arm(run, index), scope="row")]
        for metric in metrics:
            of_column = [cells[other.name, metric] for other in runs]
            row.append(tag("td", _measured(cells[run.name, metric], of_column, index)))
        row.append(tag("td", _coverage(run) or "—"))
        row.append(tag("td", _training_time(run) or "—"))
        rows.append(tag("tr", row))
    of_set = {difference.metric: difference for difference in used if difference.set_name == set_name}
    if of_set:
        reach = 1.05 * max(max(abs(end) for end in d.ci95) for d in of_set.values())
        row = [
            tag(
                "th",
                f"{runs[1].name} − {runs[0].name}",
                tag("span", "paired, same pairs", class_="range"),
                scope="row",
            )
        ]
        row += [tag("td", _paired(of_set[metric], reach) if metric in of_set else "—") for metric in metrics]
        rows.append(tag("tr", row, tag("td"), tag("td"), class_="paired"))
    heads = ["", *(_capitalised(metric_name(metric)) for metric in metrics), "Coverage reached", "Training time"]
    return join(
        tag("h3", set_name),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
                tag("tbody", rows),
                class_="results",
            ),
            class_="wide",
        ),
        tag("p", "Percent, with 95\N{NO-BREAK SPACE}% intervals. " + _protocol(runs, set_name), class_="note"),
    )


def _measured(entry: Mapping[str, Any], of_column: Sequence[Mapping[str, Any]], index: int) -> Child:
    value = plots.number(entry.get("value"))
    if value is None:
        return [
            _value(None),
            tag("span", str(entry["reason"]), class_="reason") if entry.get("reason") else None,
        ]
    ci95 = plots.interval(entry)
    spans = [ci for other in of_column if (ci := plots.interval(other))]
    values = [v for other in of_column if (v := plots.number(other.get("value"))) is not None]
    low = min([*values, *(ci[0] for ci in spans)])
    high = max([*values, *(ci[1] for ci in spans)])
    digits = 1 if any(ci[1] - ci[0] > 0.01 for ci in spans) else 2
    return [
        _value(f"{100 * value:.{digits}f}"),
        tag("span", f"{100 * ci95[0]:.{digits}f} – {100 * ci95[1]:.{digits}f}", class_="range") if ci95 else None,
        plots.whisker(value, ci95, low, high, index) if len(of_column) > 1 and spans and high > low else None,
    ]


def _paired(difference: Difference, reach: float) -> Child:
    value, *ends = (
        f"{100 * x:+.1f}".replace("-", "−") for x in (difference.value, difference.ci95[0], difference.ci95[1])
    )
    return [
        tag("span", value, class_="value" if difference.distinguishable else "value unclear"),
        tag("span", f"{ends[0]} … {ends[1]}", class_="range"),
        plots.difference_whisker(difference.ci95, difference.value, reach) if reach > 0 else None,
        tag("span", "excludes 0" if difference.distinguishable else "contains 0", class_="range"),
    ]


def _method(runs: Sequence[RunRecord]) -> Markup | None:
    with_sphere = [(run, run.sphere) for run in runs if run.sphere is not None]
    if not with_sphere:
        return None
    run, shown = max(with_sphere, key=lambda found: bool((found[1].timer > 0).any()))
    drawn = sphere.pictures(shown)
    point, distribution = (_figure(figure) for figure in drawn[:2])
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
        tag("h2", "What a class is"),
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
        _legend(runs),
        tag("div", [_figure(figure) for figure in figures], class_="figures"),
    )


def _evaluation(runs: Sequence[RunRecord], set_name: str, faces: _Faces) -> Markup | None:
    quoted = {
        run.name: {
            metric: _entry(run, set_name, metric)
            for metric in _mapping(run.evaluations.get(set_name, {}).get("metrics"))
        }
        for run in runs
    }
    roc = plots.roc(runs, set_name, quoted)
    histograms = list(plots.histograms(runs, set_name))
    parts: list[Child] = []
    if roc is not None or histograms:
        stack = tag("div", [_figure(figure) for figure in histograms], class_="stack") if histograms else None
        parts.append(tag("div", _figure(roc) if roc else None, stack, class_="pair"))
    for kind, heading, words in (
        ("genuine", "Same person, scored lowest", "Pairs of one person that the model thinks least alike."),
        ("impostor", "Different people, scored highest", "Pairs of two people that the model thinks most alike."),
    ):
        shown = [(index, run, _worst(run, set_name, kind)) for index, run in enumerate(runs)]
        if any(pairs for _, _, pairs in shown):
            parts += [tag("h3", heading), tag("p", words, class_="note")]
            for index, run, pairs in shown:
                if pairs:
                    cards = [faces.card(set_name, pair) for pair in pairs]
                    parts += [
                        tag("p", _arm(run, index), class_="arms") if len(runs) > 1 else None,
                        tag("div", cards, class_="faces"),
                    ]
    if not parts:
        return None
    return join(tag("h2", f"Evaluation on {set_name}"), _legend(runs), parts)


def _worst(run: RunRecord, set_name: str, kind: str) -> list[Mapping[str, Any]]:
    pairs = _mapping(run.evaluations.get(set_name, {}).get("worst")).get(kind)
    if not isinstance(pairs, list):
        return []
    return [pair for pair in pairs if isinstance(pair, Mapping) and "left" in pair and "right" in pair][:WORST]


def _settings(runs: Sequence[RunRecord]) -> Markup:
    parts: list[Child] = [tag("h2", "Configuration")]
    flat = [_flattened(run.config) for run in runs]
    if not any(flat):
        return join(*parts, tag("p", "These runs hold no configuration.", class_="note"))
    differing = _differing(flat, ignoring=UNCOUNTED_SETTINGS)
    if len(runs) > 1:
        if differing:
            parts.append(tag("p", "The arms differ in these settings and in no others:"))
            parts.append(_settings_table(runs, [{key: side.get(key, "—") for key in differing} for side in flat], []))
        else:
            parts.append(tag("p", "All arms have the same settings."))
    count = len(dict.fromkeys(key for side in flat for key in side))
    parts.append(tag("details", tag("summary", f"All {count} settings"), _settings_table(runs, flat, differing)))
    return join(*parts)


def _provenance(runs: Sequence[RunRecord]) -> Markup:
    parts: list[Child] = [tag("h2", "Where it comes from")]
    flat = [_flattened(run.environment) for run in runs]
    if any(flat):
        differing = _differing(flat, ignoring=())
        words = "Environment"
        note = f" · {len(differing)} entries differ between the arms" if differing and len(runs) > 1 else ""
        parts.append(
            tag(
                "details",
                tag("summary", words, tag("span", note, class_="note")),
                _settings_table(runs, flat, differing if len(runs) > 1 else []),
            )
        )
    else:
        parts.append(tag("p", "These runs hold no record of their environment.", class_="note"))
    hashes = [dict(run.files) for run in runs]
    if any(hashes):
        parts.append(
            tag(
                "details",
                tag("summary", "Files and their SHA-256"),
                _settings_table(runs, hashes, [], "settings files"),
            )
        )
    protocols = [
        tag("details", tag("summary", f"Protocol of {set_name}"), _protocol_table(runs, set_name))
        for set_name in _set_names(runs)
        if any(_mapping(run.evaluations.get(set_name, {}).get("protocol")) for run in runs)
    ]
    return join(*parts, protocols)


def _protocol_table(runs: Sequence[RunRecord], set_name: str) -> Markup:
    flat = [_flattened(_mapping(run.evaluations.get(set_name, {}).get("protocol"))) for run in runs]
    return _settings_table(runs, flat, _differing(flat, ignoring=()) if len(runs) > 1 else [])


def _settings_table(
    runs: Sequence[RunRecord], sides: Sequence[Mapping[str, str]], marked: Sequence[str], kind: str = "settings"
) -> Markup:
    keys = dict.fromkeys(key for side in sides for key in side)
    rows = [
        tag(
            "tr",
            tag("th", key, scope="row"),
            [tag("td", side.get(key, "—")) for side in sides],
            class_="differs" if key in marked else None,
        )
        for key in keys
    ]
    head = tag(
        "thead",
        tag("tr", tag("th"), [tag("th", _arm(run, index), scope="col") for index, run in enumerate(runs)]),
    )
    table = tag("table", head if len(runs) > 1 else None, tag("tbody", rows), class_=kind)
    return tag("div", table, class_="wide")


def _limits() -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            "Models and figures on this page are for research. They describe these pictures under this protocol; error "
            "rates differ between groups of people, cameras and conditions, and must be measured on data like that of "
            "the intended use before a decision about anybody rests on them.",
        ),
        tag("p", "This page contains everything it shows and loads nothing from elsewhere."),
    )


@dataclass
class _Faces:
    """The pictures of the most wrong pairs, as long as the page stays small."""

    picture_of: PictureOf | None
    bytes_left: int

    def card(self, set_name: str, pair: Mapping[str, Any]) -> Markup:
        """Two pictures, their similarity and their names."""
        names = [str(pair["left"]), str(pair["right"])]
        show = self.picture_of is not None and self.bytes_left > 0
        shown = tag("div", [self._picture(set_name, name) for name in names], class_="two") if show else None
        similarity = plots.number(pair.get("similarity"))
        words: list[Child] = []
        if similarity is not None:
            words = [tag("b", f"{similarity:.3f}".replace("-", "−")), tag("br")]
        return tag("figure", shown, tag("figcaption", words, names[0], tag("br"), names[1]))

    def _picture(self, set_name: str, name: str) -> Markup:
        picture = None if self.picture_of is None else self.picture_of(set_name, name)
        if picture is None:
            return tag("div", "no picture", class_="absent")
        cv2 = import_extra("cv2", "train")
        encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        self.bytes_left -= len(encoded) * 4 // 3
        source = "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
        return tag("img", src=source, alt=name, width=112, height=112, loading="lazy")


def _figure(figure: Figure) -> Markup:
    return tag("figure", tag("h4", figure.title), figure.picture, tag("figcaption", figure.note))


def _legend(runs: Sequence[RunRecord]) -> Markup | None:
    if len(runs) < 2:
        return None
    return tag("ul", [tag("li", _swatch(index), run.name) for index, run in enumerate(runs)], class_="arms")


def _arm(run: RunRecord, index: int) -> Markup:
    return tag("span", _swatch(index), run.name, class_="armname")


def _swatch(index: int) -> Markup:
    return tag("span", class_=f"swatch {ink(index)}")


def _value(text: str | None) -> Markup:
    return tag("span", text or "—", class_="value" if text else "value unclear")


def _set_names(runs: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.evaluations))


def _metric_titles(runs: Sequence[RunRecord]) -> dict[str, str]:
    found = {
        metric
        for run in runs
        for line in run.validation
        for metrics in _mapping(line.get("validation")).values()
        for metric in _mapping(metrics)
    }
    return {metric: _capitalised(metric_name(metric)) for metric in found}


def _entry(run: RunRecord, set_name: str, metric: str) -> Mapping[str, Any]:
    return _mapping(_mapping(run.evaluations.get(set_name, {}).get("metrics")).get(metric))


def _protocol(runs: Sequence[RunRecord], set_name: str) -> str:
    """What the figures mean, in sentences, as far as all arms agree on it."""
    told = [protocol for run in runs if (protocol := _mapping(run.evaluations.get(set_name, {}).get("protocol")))]
    if not told:
        return ""
    shared = {key: _counted(value) for key, value in told[0].items() if all(key in p and p[key] == value for p in told)}
    sentences = (
        ("kind", "Question: {kind}"),
        ("identities", "{identities} people"),
        ("genuine", "{genuine} genuine pairs"),
        ("impostors", "{impostors} impostor pairs"),
        ("threshold_from", "threshold chosen on {threshold_from}"),
        ("accuracy_rule", "accuracy rule {accuracy_rule}"),
        ("far_rule", "FAR rule {far_rule}"),
        ("flip", "flip {flip}"),
        ("bootstrap", "intervals from {bootstrap} resamples of the people"),
    )
    said = [words.format(**{key: shared[key]}) for key, words in sentences if key in shared]
    differ = "" if all(protocol == told[0] for protocol in told) else " The arms' protocols differ: see below."
    return f"{_capitalised('; '.join(said))}.{differ}" if said else differ.strip()


def _counted(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _plain(value)


def _network(run: RunRecord) -> str | None:
    backbone = _mapping(run.config.get("backbone"))
    name = run.card.get("backbone") or backbone.get("name")
    dim = run.card.get("embedding_dim") or backbone.get("embedding_dim")
    return f"{name}, {dim} dimensions" if name and dim else str(name) if name else None


def _loss(run: RunRecord) -> str | None:
    margin = _mapping(run.config.get("margin"))
    if "name" not in margin:
        return None
    options = ", ".join(f"{key} {value}" for key, value in margin.items() if isinstance(value, int | float))
    injection = _mapping(run.config.get("variational"))
    words = f"{margin['name']} ({options})" if options else str(margin["name"])
    if injection:
        words += f" + VPL (λ {injection.get('lam')}, Δt {injection.get('delta_t')}, start {injection.get('start')})"
    return words


def _data(run: RunRecord) -> str | None:
    if told := run.card.get("training_data"):
        people, pictures = (plots.number(run.card.get(key)) for key in ("identities", "pictures"))
        return f"{told}: {people:,.0f} people, {pictures:,.0f} pictures" if people and pictures else str(told)
    sources = _mapping(run.config.get("data")).get("train")
    if not isinstance(sources, list):
        return None
    return ", ".join(str(_mapping(source).get("folder", source)) for source in sources) or None


def _length(run: RunRecord) -> str | None:
    if not run.training:
        return None
    words = f"{run.card.get('step') or run.training[-1]['step']:,} steps"
    batch = run.config.get("batch_size")
    return f"{words} of {batch} pictures" if batch else words


def _coverage(run: RunRecord) -> str | None:
    """The last logged coverage of a run that has a memory."""
    reached = run.last("coverage")
    return (
        None
        if reached is None or (reached == 0 and not run.config.get("variational"))
        else f"{100 * reached:.1f}\N{NO-BREAK SPACE}%"
    )


def _training_time(run: RunRecord) -> str | None:
    """The time spent in training steps, from their logged speed: pauses and validation do not count."""
    steps, speed = run.series("pictures_per_second")
    batch = plots.number(run.config.get("batch_size"))
    if batch is None or not (speed > 0).any():
        return None
    taken = np.diff(steps, prepend=0.0)
    counted = speed > 0
    minutes, rest = divmod(round(float((taken[counted] * batch / speed[counted]).sum())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _each(runs: Sequence[RunRecord], describe: Callable[[RunRecord], str | None]) -> Child:
    """What holds for all runs once, or what holds for each."""
    told = [describe(run) for run in runs]
    if len(set(told)) == 1:
        return told[0]
    return [tag("div", _swatch(index), tag("span", words)) for index, words in enumerate(told) if words is not None]


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted keys, as text."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            flat |= _flattened({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return "none" if value == {} else str(value)


def _differing(sides: Sequence[Mapping[str, str]], ignoring: Sequence[str]) -> list[str]:
    keys = dict.fromkeys(key for side in sides for key in side)
    return [key for key in keys if len({side.get(key) for side in sides}) > 1 and key.partition(".")[0] not in ignoring]


def _distinct(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs whose names differ: two folders of one name are told apart by what holds them."""
    names = [run.name for run in runs]
    distinct: list[RunRecord] = []
    for run in runs:
        name = run.name if names.count(run.name) == 1 else f"{run.folder.resolve().parent.name}/{run.name}"
        taken = [other.name for other in distinct]
        attempts: Iterator[str] = (name if k == 1 else f"{name} ({k})" for k in range(1, len(runs) + 1))
        distinct.append(replace(run, name=next(attempt for attempt in attempts if attempt not in taken)))
    return distinct


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _capitalised(words: str) -> str:
    return words[:1].upper() + words[1:]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
