"""Contenders that take turns, so that a busy machine slows all of them alike."""

import statistics
import time

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def take_turns(contenders, turns, clock, report, what, repeats=1):
    """{name: seconds of one run in each turn}. contenders: {name: function}, run `repeats` times a turn; every one has run
    once before the first turn. Who begins changes from turn to turn, so that a slow stretch of the machine does not
    always hit the same one."""
    now, names = CLOCKS[clock], list(contenders)
    seconds = {name: [] for name in names}
    for run in contenders.values():
        run()
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run, start = contenders[name], now()
            for _ in range(repeats):
                run()
            seconds[name].append((now() - start) / repeats)
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
