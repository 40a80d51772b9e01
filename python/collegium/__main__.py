"""``python -m collegium …`` is the command line, where it is installed."""

import os
import shutil
import sys
import sysconfig


def main() -> None:
    program = os.path.join(sysconfig.get_path("scripts"), "collegium")
    if not os.path.exists(program):
        program = os.environ.get("COLLEGIUM_CLI") or shutil.which("collegium")
    if not program:
        sys.exit("collegium: the command line is not installed beside this Python; `pip install .` or `make build` "
                 "makes it")
    os.execv(program, [program, *sys.argv[1:]])


if __name__ == "__main__":
    main()
