#!/usr/bin/env python3
"""Checks that every include follows the order of the rooms (docs/architecture.md) and that no mechanism includes a
sibling. Prints each offence as file:line and exits with 1 if there is any."""
import pathlib
import re
import sys

MAY_USE = {
    "base": [],
    "kernels": ["base"],
    "io": ["base"],
    "data": ["base", "io"],
    "route": ["base", "kernels"],
    "layer": ["base", "kernels", "route"],
    "model": ["base", "kernels", "route", "layer"],
    "train": ["base", "io", "data", "route", "layer", "model"],
    "infer": ["base", "data", "route", "layer", "model"],
    "inspect": ["base", "io", "route"],
    "recipe": ["base", "io", "data", "kernels", "route", "layer", "model", "train", "infer", "inspect"],
}

root = pathlib.Path(__file__).resolve().parent.parent / "collegium"
offences = []
seen = 0
for path in sorted(root.rglob("*")):
    if path.suffix not in (".h", ".cpp", ".inc"):
        continue
    seen += 1
    room = path.relative_to(root).parts[0]
    is_mechanism = len(path.relative_to(root).parts) > 2
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r'#include "collegium/([a-z]+)/([^"]+)"', line)
        if not found:
            continue
        other, rest = found.groups()
        if other != room and other not in MAY_USE.get(room, []):
            offences.append(f"{path.relative_to(root.parent)}:{number}: {room} may not use {other}")
        if is_mechanism and other == room and "/" in rest:
            offences.append(f"{path.relative_to(root.parent)}:{number}: a mechanism may not include a sibling ({rest})")
unknown = sorted({p.name for p in root.iterdir() if p.is_dir()} - set(MAY_USE))
offences += [f"collegium/{name}: a room that tools/check_layers.py does not know" for name in unknown]
print("\n".join(offences) if offences else f"{seen} files follow the order of the rooms")
sys.exit(1 if offences or seen == 0 else 0)
