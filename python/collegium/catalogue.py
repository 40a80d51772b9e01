"""The lists of mechanisms: every router, stage, kind of expert, layer, attention, model, optimiser, schedule and task.

All of it comes from the C++ catalogues, so a new mechanism appears here by itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from . import _core, check
from .errors import UsageError

Catalogues = dict[str, dict[str, dict[str, Any]]]


def _read() -> tuple[Catalogues, dict[str, str]]:
    everything: Catalogues = {}
    full_name: dict[str, str] = {}
    for catalogue in _core.catalogues():
        name = catalogue["name"]
        everything[name] = {entry["name"]: entry for entry in catalogue["entries"]}
        full_name[name] = full_name[catalogue["singular"]] = name
    return everything, full_name


_everything, _full_name = _read()


def _near(word: str, known: Iterable[str]) -> str:
    near = _core.nearest(word, [*known])
    return f"; did you mean '{near}'?" if near else ""


def _known(catalogue: str) -> str:
    if check.word(catalogue, "catalogue") not in _full_name:
        raise UsageError(f"unknown catalogue '{catalogue}'{_near(catalogue, _everything)} "
                         f"(known: {', '.join(_everything)})")
    return _full_name[catalogue]


def names(catalogue: str | None = None) -> list[str] | dict[str, list[str]]:
    """``collegium.list``: the names in a catalogue, ``collegium.list("routers")``; without one, all as a dict.

    Raises:
        UsageError: there is no such catalogue.
    """
    if catalogue is None:
        return {name: list(entries) for name, entries in _everything.items()}
    return list(_everything[_known(catalogue)])


def describe(name: str, catalogue: str | None = None) -> dict[str, Any]:
    """What is known of a mechanism.

    Args:
        name: "switch".
        catalogue: which list; needed only where a name is in several ("top_k" is a router and a selector). Without
            it the first list counts, in the order of ``collegium.list()``: routers come first.

    Returns:
        dict with ``catalogue, name, paper, source, taxonomy, summary, equation`` (one or two lines; empty for a
        task), ``claims`` (name to text) and ``fields``: a list of dicts with ``name, type, default, unit, help, min,
        max, choices, catalogue, fields``.

    Raises:
        UsageError: there is no such catalogue, or nothing of this name.
    """
    check.word(name, "name")
    places = [_known(catalogue)] if catalogue is not None else list(_everything)
    for place in places:
        if name in _everything[place]:
            return _everything[place][name]
    if catalogue is not None:  # one list is short enough to be named
        _core.resolve(places[0], name, {})
    known = {entry for place in places for entry in _everything[place]}
    raise UsageError(f"nothing is called '{name}'{_near(name, sorted(known))}", "collegium.list() names everything")


def _bounds(field: dict[str, Any]) -> str:
    low, high = field["min"], field["max"]
    if field["choices"]:
        return "one of " + ", ".join(field["choices"])
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else ""


def _field_lines(fields: list[dict[str, Any]], prefix: str = "") -> list[str]:
    lines = []
    for field in fields:
        notes = [field["unit"], _bounds(field), f"from {field['catalogue']}" if field["catalogue"] else ""]
        notes = ", ".join(note for note in notes if note)
        lines.append(f"  {prefix}{field['name']} = {field['default']}" + (f"  ({notes})" if notes else ""))
        lines += textwrap.wrap(field["help"], 100, initial_indent="      ", subsequent_indent="      ")
        lines += _field_lines(field["fields"], f"{prefix}{field['name']}.")
    return lines


def show(name: str, catalogue: str | None = None) -> str:
    """``describe`` as text for people: ``print(collegium.show("switch"))``."""
    entry = describe(name, catalogue)
    lines = [f"{entry['name']} ({entry['catalogue']}): {entry['summary']}"]
    lines += [f"  {line}" for line in entry["equation"].splitlines()]
    lines.append(f"  from: {entry['source']}" + (f"  [paper {entry['paper']}]" if entry["paper"] else ""))
    lines.append(f"  place: {entry['taxonomy']}")
    lines += [f"  {claim}: {value}" for claim, value in entry["claims"].items()]
    if entry["fields"]:
        lines += ["fields:", *_field_lines(entry["fields"])]
    others = [place for place, entries in _everything.items() if name in entries and place != entry["catalogue"]]
    lines += [f"also in {place}: collegium.show('{name}', '{place}')" for place in others]
    return "\n".join(lines)
