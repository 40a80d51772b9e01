"""Draws what a router's choice costs over the number of experts, from the numbers of bench_kernels_product_keys.

    build/ci/bench/kernels/bench_kernels_product_keys 9 2 wall out.json
    .venv/bin/python bench/product_keys.py out.json out.svg

docs/product_keys.json holds the numbers of docs/benchmarks.md, docs/product_keys.svg the picture of them.
"""

import json
import math
import pathlib
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 62, 180, 18, 52
LINES = [("table", "#c0392b", "table of all N"), ("grid", "#1f5fa8", "grid: scores + search"), ("scores", "#7fa8d6", "its scores"),
         ("search", "#2a8f7a", "its search")]


def drawn(result):
    rows = result["rows"]
    counts = [row["n"] for row in rows]
    x_low, x_high = math.log10(counts[0]), math.log10(counts[-1])
    y_low, y_high = -1.0, 3.0

    def x_of(n):
        return LEFT + (math.log10(n) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(us):
        return HEIGHT - BOTTOM - (math.log10(us) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" '
           'role="img" aria-label="Cost of choosing experts over their number">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    for n in counts:
        out.append(f'<path d="M{x_of(n):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/><text x="{x_of(n):.1f}" '
                   f'y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#555">{n:,}</text>')
    for power in range(int(y_low), int(y_high) + 1):
        y = y_of(10.0**power)
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/><text x="{LEFT - 8}" y="{y + 4:.1f}" '
                   f'text-anchor="end" fill="#555">{10.0**power:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 10}" text-anchor="middle" fill="#333">experts N</text>')
    out.append(f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" text-anchor="middle" '
               'fill="#333">µs a token</text>')
    # The guide meets the grid at the most experts.
    last = rows[-1]
    guide = [(n, last["grid"] * math.sqrt(n / last["n"])) for n in (counts[0], counts[-1])]
    out.append(f'<path d="M{x_of(guide[0][0]):.1f} {y_of(guide[0][1]):.1f}L{x_of(guide[1][0]):.1f} {y_of(guide[1][1]):.1f}" '
               'stroke="#888" stroke-dasharray="5 4" fill="none"/>')
    labels = [(y_of(guide[1][1]) - 14, WIDTH - RIGHT, "#666", "guide: grows with √N")]
    for key, color, label in LINES:
        points = [(x_of(row["n"]), y_of(row[key])) for row in rows if row[key] is not None]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        out.append(f'<path d="{path}" stroke="{color}" stroke-width="2" fill="none"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        labels.append((points[-1][1], points[-1][0], color, label))
    # Labels that would touch are moved apart, downwards.
    floor = -math.inf
    for y, x, color, label in sorted(labels):
        floor = max(y + 4, floor + 15)
        out.append(f'<text x="{x + 9:.1f}" y="{floor:.1f}" fill="{color}">{label}</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    pathlib.Path(sys.argv[2]).write_text(drawn(json.loads(pathlib.Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
