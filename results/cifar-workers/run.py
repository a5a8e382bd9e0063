"""Four workers over PostgreSQL search on CIFAR-10; one is killed in the middle of a training.

    .venv/bin/python results/cifar-workers/run.py /tmp/cifar-run

The folder must not exist. The server is that of the tests, started here and stopped at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
SEARCH = ["search", "--budget-ms", "1.1", "--proxy", "accuracy-table,short-training", "--screen", "4", "--trials", "8"]
SEARCH += ["--option", "images=1024", "--workers", "4", "--data", str(ROOT.parent / "shared" / "data" / "cifar10_jpeg")]


def main() -> None:  # noqa: D103
    from tests.postgres import serving

    out = Path(sys.argv[1])
    with serving() as server:
        server.execute("CREATE DATABASE nas")
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "NAS_STORAGE": server.url("nas")}
        command = [sys.executable, "-c", "from nas.cli import main; main()", *SEARCH, "--out", str(out)]
        start, process = time.monotonic(), subprocess.Popen(command, env=environment)
        name = None
        while process.poll() is None:
            time.sleep(2)
            name = name or kill_one(out / "workers")
        print("exit code", process.returncode, "after", round(time.monotonic() - start), "s; killed", name)  # noqa: T201


def kill_one(logs: Path) -> str | None:
    """Kill a worker that trains; None if none does yet."""
    for log in sorted(logs.glob("*.log")):
        if log.read_text().strip().endswith("with short-training"):
            time.sleep(8)
            command = ["/usr/bin/env", "pgrep", "-f", log.stem]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
            return log.stem
    return None


if __name__ == "__main__":
    main()
