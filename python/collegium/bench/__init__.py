"""Comparisons that need Python: Collegium beside transformers, st-moe-pytorch and peer-pytorch, in turns of one process.

    python -m collegium.bench experts --turns 11
    collegium bench transformers --out bench.html     # the same on the page of `collegium bench`

Parts: experts, models, routers and demonstration (beside transformers), atomic (beside peer-pytorch) and cuda (experts on a
device). `python -m collegium.bench PART --help` shows what each takes.
"""
