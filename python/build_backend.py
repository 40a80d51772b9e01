"""Build backend for `pip install .`: scikit-build-core, pointed at the torch of the interpreter that installs.

pip builds in isolation, where the environment's packages are hidden; they still lie in the interpreter's purelib
folder, so libtorch is found there. Only without any torch is the pinned one asked for.
"""
import os
import pathlib
import re
import sys
import sysconfig

from scikit_build_core import build as _backend

_PINNED_TORCH = "torch==2.13.0"


def _torch_cmake():
    """The folder of TorchConfig.cmake of the installing interpreter, or None."""
    folders = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *sys.path]
    for folder in folders:
        found = pathlib.Path(folder) / "torch" / "share" / "cmake" / "Torch"
        if (found / "TorchConfig.cmake").exists():
            return found
    return None


def _requires(config_settings):
    wanted = _backend.get_requires_for_build_wheel(config_settings)
    return wanted if _torch_cmake() else [*wanted, _PINNED_TORCH]


def dynamic_metadata(settings, project):
    """The extension works beside the torch it was built with; there is no promise of binary compatibility beyond."""
    found = _torch_cmake()
    if not found:
        return {"dependencies": [_PINNED_TORCH, "numpy"]}
    version = (found.parents[2] / "version.py").read_text()
    major, minor = re.search(r"__version__ = ['\"](\d+)\.(\d+)", version).groups()
    return {"dependencies": [f"torch=={major}.{minor}.*", "numpy"]}


def dynamic_wheel(settings):
    return {"dependencies": True}


def _limit_jobs():
    # One job a core, but a file that includes torch's headers takes about 1.5 GB.
    jobs = os.cpu_count() or 1
    try:
        free = re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    except OSError:
        free = None
    if free:
        jobs = min(jobs, int(free[1]) // 1_600_000)
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(max(1, jobs)))


def _point_at_torch():
    found = _torch_cmake()
    if not found:
        raise RuntimeError(f"no torch found; install {_PINNED_TORCH} (or 2.6 and newer) first")
    # Where torch is when the program runs, which is not where it is now if the build environment brought it.
    installed = pathlib.Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"
    relative = os.path.relpath(installed, sysconfig.get_paths()["scripts"])
    os.environ["CMAKE_ARGS"] = " ".join([os.environ.get("CMAKE_ARGS", ""), f"-DTorch_DIR={found}",
                                         f"-DCOLLEGIUM_SCRIPTS_TO_TORCH={relative}"])


def get_requires_for_build_wheel(config_settings=None):
    return _requires(config_settings)


def get_requires_for_build_sdist(config_settings=None):
    return _backend.get_requires_for_build_sdist(config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _point_at_torch()
    _limit_jobs()
    return _backend.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    return _backend.build_sdist(sdist_directory, config_settings)
