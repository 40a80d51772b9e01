"""Contenders that take turns, so that a busy machine slows all of them alike."""

import math
import statistics
import time

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def take_turns(contenders, turns, clock, report, what, repeats=1, at_least=0.0):
    """{name: seconds of one run in each turn}. contenders: {name: function}, run `repeats` times a turn; every one has run
    once before the first turn. Who begins changes from turn to turn, so that a slow stretch of the machine does not
    always hit the same one.

    at_least: for contenders of less than a few milliseconds, who would else be timed by what the one before them left in the
    caches and in the allocator: each runs so many seconds a turn, after one run that is not timed."""
    now, names = CLOCKS[clock], list(contenders)
    seconds = {name: [] for name in names}
    times = dict.fromkeys(names, repeats)
    for name, run in contenders.items():
        run()
        if at_least > 0:
            start = now()
            run()
            times[name] = max(repeats, math.ceil(at_least / max(now() - start, 1e-6)))
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run = contenders[name]
            if times[name] > repeats:
                run()
            start = now()
            for _ in range(times[name]):
                run()
            seconds[name].append((now() - start) / times[name])
        if not report.turn(what):
            break
    return seconds


def spread(values):
    """{"median", "quartiles": [low, high]}, interpolated between the values."""
    values = sorted(values)

    def at(share):
        place = share * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        return values[below] + (place - below) * (values[above] - values[below])

    return {"median": at(0.5), "quartiles": [at(0.25), at(0.75)]}


def ratio(other, ours):
    """Within each turn the other's time over ours: above 1, ours is faster."""
    return spread([a / b for a, b in zip(other, ours)])


def ratio_text(of):
    return f"{of['median']:.2f} [{of['quartiles'][0]:.2f}, {of['quartiles'][1]:.2f}]"


def median(values):
    return statistics.median(values)
