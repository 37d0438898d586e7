"""What is in the image and how it is run, seen from inside: python .ci/check_contents.py, as .ci/run_read_only does."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path("/opt/unrolled")  # all that the image adds to its base
OF_KERNELS = ("/llvmlite/", "/llvmlite-", "/share/unrolled/kernels/")  # in paths of what KERNELS=no leaves out
MOST_MB, MOST_MB_WITHOUT_KERNELS = 350, 150
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "ld", "as", "make")


def faults() -> Iterator[str]:
    """What is not as it should be."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if 0 in (os.getuid(), os.getgid()):
        yield "runs as root"
    if any(int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")):
        yield "has capabilities"
    if int(status["NoNewPrivs"]) != 1:
        yield "can come by new privileges"
    yield from (f"{folder} can be written to" for folder in ("/", "/usr", "/home", ROOT) if writable(folder))
    yield from (f"{folder} cannot be written to" for folder in ("/tmp", "/models") if not writable(folder))
    yield from (f"there is {name}" for name in COMPILERS if shutil.which(name))
    yield from (f"{name} is installed" for name in ("pip", "setuptools", "cyclonedx_py") if find_spec(name))
    installed = {found.name for found in distributions()}
    listed = json.loads((ROOT / "sbom.json").read_text())
    told = {component["name"] for component in (listed["metadata"]["component"], *listed["components"])}
    if told != installed:
        yield f"the bill of materials and what is installed differ by {sorted(told ^ installed)}"


def writable(folder: str | Path) -> bool:
    # tried, since os.access() does not tell what a file system would take from others
    try:
        (Path(folder) / ".checked").touch()
    except OSError:
        return False
    return True


def too_large() -> Iterator[str]:
    """Which size is over its limit. The sizes are those of files: the base has its own Python."""
    sizes = {path: path.lstat().st_size for path in ROOT.rglob("*") if path.is_symlink() or path.is_file()}
    of_kernels = sum(size for path, size in sizes.items() if any(part in str(path) for part in OF_KERNELS))
    added = sum(sizes.values())
    for text, size, most in (
        ("with kernels", added, MOST_MB),
        ("without", added - of_kernels, MOST_MB_WITHOUT_KERNELS),
    ):
        print(f"{text}, the image adds {size / 1e6:.1f} MB to its base, at most {most}")
        if size > most * 1e6:
            yield f"{text}, it is too large"


if __name__ == "__main__":
    sys.exit("\n".join([*too_large(), *faults()]) or None)
