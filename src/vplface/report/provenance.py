"""Settings, environment, protocols and file hashes of the runs on a page, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vplface.report.arms import arm, mapping, set_names
from vplface.report.markup import Child, Markup, join, tag
from vplface.report.record import RunRecord


def provenance(runs: Sequence[RunRecord]) -> Markup:
    """Environment, files and protocols, in a collapsed section."""
    parts: list[Child] = [tag("h2", "Provenance")]
    flat = [flattened(run.environment) for run in runs]
    if any(flat):
        differ = differing(flat, ignoring=())
        words = "Environment"
        note = f" · {len(differ)} entries differ between the arms" if differ and len(runs) > 1 else ""
        parts.append(
            tag(
                "details",
                tag("summary", words, tag("span", note, class_="note")),
                settings_table(runs, flat, differ if len(runs) > 1 else []),
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
                settings_table(runs, hashes, [], "settings files"),
            )
        )
    protocols = [
        tag("details", tag("summary", f"Protocol of {set_name}"), _protocol_table(runs, set_name))
        for set_name in set_names(runs)
        if any(mapping(run.evaluations.get(set_name, {}).get("protocol")) for run in runs)
    ]
    return join(*parts, protocols)


def _protocol_table(runs: Sequence[RunRecord], set_name: str) -> Markup:
    flat = [flattened(mapping(run.evaluations.get(set_name, {}).get("protocol"))) for run in runs]
    return settings_table(runs, flat, differing(flat, ignoring=()) if len(runs) > 1 else [])


def settings_table(
    runs: Sequence[RunRecord], sides: Sequence[Mapping[str, str]], marked: Sequence[str], kind: str = "settings"
) -> Markup:
    """Settings of the arms side by side; those that are ``marked`` are highlighted."""
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
        tag("tr", tag("th"), [tag("th", arm(run, index), scope="col") for index, run in enumerate(runs)]),
    )
    table = tag("table", head if len(runs) > 1 else None, tag("tbody", rows), class_=kind)
    return tag("div", table, class_="wide")


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted keys, as text."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            flat |= flattened({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = plain(value)
    return flat


def plain(value: object) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "none"
    return "none" if value == {} else str(value)


def differing(sides: Sequence[Mapping[str, str]], ignoring: Sequence[str]) -> list[str]:
    """The settings in which not all sides agree."""
    keys = dict.fromkeys(key for side in sides for key in side)
    return [key for key in keys if len({side.get(key) for side in sides}) > 1 and key.partition(".")[0] not in ignoring]
