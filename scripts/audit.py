"""Runs pip-audit, and tells apart what it finds, and what it could not look up. See scripts/audit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

CLEAN, FOUND, NOT_LOOKED_UP = 0, 1, 3

COMMAND = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
PINNED = ["-r", "requirements/serve.txt", "-r", "requirements/fused.txt"]

#: What pip-audit ends with where its service does not answer, or not as that service would.
_UNREACHABLE = re.compile(r"^(requests|urllib3)\.exceptions\.|^pip_audit\._service\.|Tip: your network", re.MULTILINE)
_NOTHING = "nothing was looked up: the service that knows the vulnerabilities cannot be reached"


def verdict(stdout: str, stderr: str) -> tuple[int, str]:
    """An exit code and what to say, of pip-audit's JSON and of what it complained about."""
    try:
        packages = json.loads(stdout)["dependencies"]
    except ValueError:
        return (NOT_LOOKED_UP, _NOTHING) if _UNREACHABLE.search(stderr) else (FOUND, f"pip-audit failed: {stderr}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):  # what stands in for the service knows none of them
        return NOT_LOOKED_UP, _NOTHING
    found = [_told(package, fault) for package in packages for fault in package.get("vulns", ())]
    lines = [*found, f"{len(found)} known vulnerabilities in {len(packages) - len(skipped)} packages"]
    if skipped:
        lines.append(f"not looked up, as the service does not know them: {', '.join(skipped)}")
    return FOUND if found else NOT_LOOKED_UP if skipped else CLEAN, "\n".join(lines)


def _told(package: dict[str, Any], fault: dict[str, Any]) -> str:
    mended = ", ".join(fault["fix_versions"]) or "no version yet"
    return f"{package['name']} {package['version']}: {fault['id']}, mended in {mended}"


def main() -> int:
    done = subprocess.run([*COMMAND, "--format=json", *PINNED, *sys.argv[1:]], capture_output=True, text=True)
    code, text = verdict(done.stdout, done.stderr)
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
