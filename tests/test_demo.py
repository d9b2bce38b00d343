"""`make demo` shows what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_demonstration_shows_a_cold_pull_a_warm_one_and_one_without_the_upstream(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w.*?) +[\d.]+ +([\d.]+) +(\d+) requests, ([\d.]+) MiB$", done.stdout, re.MULTILINE)
    assert [(title, requests, sent) for title, _, requests, sent in rows] == [
        ("cold", "6", "21.0"),
        ("warm", "0", "0.0"),
        ("warm, the upstream is down", "0", "0.0"),
    ]
    assert len({size for _, size, _, _ in rows}) == 1
    assert list(tmp_path.iterdir()) == []
