"""`python -m collegium.bench PART`: one part, as text or as events for `collegium bench`."""

import argparse
import importlib
import sys

import torch

from .report import Report

PARTS = ("experts", "models", "routers", "demonstration", "atomic", "cuda")


def main():
    parser = argparse.ArgumentParser(prog="python -m collegium.bench",
                                     description="Speed beside other Python packages, in turns of one process.")
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    modules = {name: importlib.import_module(f".{name}", __package__) for name in PARTS}
    for name, module in modules.items():
        one = parts.add_parser(name, help=module.__doc__.splitlines()[0], description=module.__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        one.add_argument("--turns", type=int, default=11, help="turns of each contender")
        one.add_argument("--threads", type=int, default=0, help="of torch; 0 = its default")
        one.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                         help="cpu: this process's time, steadier on a busy machine with --threads 1")
        one.add_argument("--type", choices=("float32", "bfloat16", "all"), default="all", help="where there is a choice")
        one.add_argument("--skew", choices=("uniform", "zipf", "hot", "all"), default="uniform", help="load of the experts")
        one.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, not how fast")
        one.add_argument("--events", action="store_true", help="one JSON line an event, for programs")
        module.add_arguments(one)
    given = parser.parse_args()
    if given.turns < 1:
        parser.error(f"--turns {given.turns}: at least 1 wanted")
    if given.threads:
        torch.set_num_threads(given.threads)
    modules[given.part].measure(given, Report(given.events))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(141)  # nobody listens any more
