"""What this machine has, asked without importing torch: answers within milliseconds."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

from sds3d.errors import BackendError

_CUDA_DRIVERS = {"win32": ("nvcuda.dll",)}.get(sys.platform, ("libcuda.so.1", "libcuda.so"))


_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow each other down
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}


def prepare_environment() -> None:
    """Set what torch and the Hugging Face libraries read when they are imported; what the user has set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def cuda_cards() -> tuple[list[str], str]:
    """Return the names of the CUDA cards the driver shows, and why there are none ("" if there are some)."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return [], "CUDA_VISIBLE_DEVICES hides all cards"
    driver = None
    for name in _CUDA_DRIVERS:
        try:
            driver = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if driver is None:
        return [], "no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return [], f"the NVIDIA driver finds no card (code {code})"
    return [_card_name(driver, index) for index in range(count.value)], ""


def _card_name(driver: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    failed = driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetName(name, 100, device)
    return f"card {index}" if failed else name.value.decode(errors="replace")


def torch_cuda_version() -> str | None:
    """Return the CUDA version torch was built for, None for a CPU build or no torch; reads a file, imports nothing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    found = re.search(r"^cuda[^=\n]*=\s*'([^']+)'", file.read_text(encoding="utf-8"), re.M) if file.exists() else None
    return found.group(1) if found else None


def check_device(device: str) -> None:
    """Raise BackendError if `device` ("auto", "cpu", "cuda") is asked for by name and cannot work here."""
    if device != "cuda":
        return
    cards, reason = cuda_cards()
    if not cards:
        raise BackendError(
            f"Device 'cuda' is not available: {reason}. Use --device cpu, or auto to take what there is."
        )
    if torch_cuda_version() is None:
        raise BackendError(
            "Device 'cuda' is not available: the installed torch is a CPU build. Install a CUDA build "
            "(https://pytorch.org/get-started), or use --device cpu."
        )


def check_rasteriser(backend: str, device: str) -> None:
    """Raise BackendError if a rasteriser chosen by hand lacks its package or its device. A quick first look only."""
    package = "numba" if backend == "cpu" else backend
    if package in _SOURCES and importlib.util.find_spec(package) is None:
        raise BackendError(
            f"renderer.backend '{backend}' needs the package '{package}', which is not installed. "
            f"Run 'pip install {_SOURCES[package]}', or use renderer.backend=auto."
        )
    if backend in _CARDS_ONLY:
        if device == "cpu":
            raise BackendError(
                f"renderer.backend '{backend}' runs on CUDA cards only, but device is 'cpu'. Use 'auto'."
            )
        check_device("cuda")


_SOURCES = {
    "numba": "numba",
    "gsplat": "gsplat",
    "nerfacc": "nerfacc",
    "nvdiffrast": "git+https://github.com/NVlabs/nvdiffrast --no-build-isolation",
    "pytorch3d": "git+https://github.com/facebookresearch/pytorch3d",
}
_CARDS_ONLY = ("gsplat", "nerfacc", "nvdiffrast")


def memory_gb() -> tuple[float, float] | None:
    """Return (free, total) memory in gigabytes, or None where the system does not say."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return tuple(int(rows[name].split()[0]) / 1024**2 for name in ("MemAvailable", "MemTotal"))  # type: ignore
    except (OSError, KeyError, ValueError):
        return None


def threads() -> int:
    """Return how many CPU threads this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else allowed


def processor() -> str:
    """Return the name of the CPU."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python and of the installed ones of `packages`."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary() -> dict[str, object]:
    """Return processor, threads, memory, cards and system as plain data, for run.json."""
    memory = memory_gb()
    return {
        "system": platform.platform(),
        "processor": processor(),
        "threads": threads(),
        "memory_gb": round(memory[1], 1) if memory else None,
        "cards": cuda_cards()[0],
    }
