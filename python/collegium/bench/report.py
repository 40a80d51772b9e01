"""Where measurements go: as text for a person, or one JSON line an event for `collegium bench` (cli/bench/record.h)."""

import json
import signal


class Report:
    """Sections of rows. `stopped` becomes true at Ctrl-C: measurements then end after the turn under way, and their rows
    are still given; a second Ctrl-C ends the program."""

    def __init__(self, events):
        self.events, self.stopped = events, False
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_):
        self.stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _say(self, event, **rest):
        if self.events:
            print(json.dumps({"event": event, **rest}), flush=True)

    def stretch(self, turns):
        """So many turns follow."""
        self._say("stretch", turns=turns)

    def turn(self, what):
        """One turn is done; false = measure nothing more."""
        self._say("turn", what=what)
        return not self.stopped

    def section(self, id, name, title, note, columns, labels=1, unit=""):
        """Begins a section; the first `labels` columns are words. With a unit, bars are values and not ratios."""
        self._say("section", id=id, name=name, title=title, note=note, unit=unit, labels=labels, columns=columns)
        if not self.events:
            print(f"\n{title}\n{note}\n" + " | ".join(columns), flush=True)

    def row(self, label, cells, facts, bars=None, aside=""):
        """cells: text, one a column. bars: {who: spread}. facts: what a program reads."""
        bars = [{"who": who, **spread} for who, spread in (bars or {}).items()]
        self._say("row", label=label, cells=[str(cell) for cell in cells], bars=bars, aside=aside, facts=facts)
        if not self.events:
            print(" | ".join(str(cell) for cell in cells), flush=True)

    def skip(self, what, why):
        """What is not measured, and why."""
        self._say("skip", what=what, why=why)
        if not self.events:
            print(f"not measured: {what}: {why}", flush=True)
