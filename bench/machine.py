"""What a benchmark ran on, and how busy it was. A folder enters, figures for JSON leave."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PROGRAMS = {"DCMTK": "/usr/bin/storescp", "Orthanc": "/usr/sbin/Orthanc"}


def describe(folder: Path) -> dict[str, Any]:
    """Return processor, kernel, the folder's file system, and versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(mount[1]), mount[2]) for mount in mounts if folder.is_relative_to(mount[1])]
    versions = {"pynetdicom": version("pynetdicom")}
    for name, program in _PROGRAMS.items():
        if shutil.which(program):
            said = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False
            )
            found = re.search(r"\d+\.\d+\.\d+", said.stdout)
            versions[name] = found.group() if found else "?"
    return {
        "cpu": model.group(1).strip() if model else "?",
        "cores": os.cpu_count(),
        "kernel": platform.release().split("-")[0],
        "file_system": max(above)[1],
        "python": platform.python_version(),
        "versions": versions,
    }


def busy_s() -> float:
    """Return for how long the processors have worked, of all programs together, in s."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq = map(int, ticks[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
