"""What does a search itself cost: seconds, writes to disk and memory beside the scores?

    python tests/benchmarks/bench_overhead.py [--candidates 1000] [--storage journal,sqlite,postgresql]
        [--sampler surrogate,random] [--memory-candidates 10000] [--profile]

Searches of the iformer space by the fake proxy, which takes no time, each in a process of its own: wall and CPU seconds
of a candidate, the CPU seconds also by quarters of the search, and the most memory. A shorter search under strace, or
where that is not installed by itself, counts fsync and fdatasync. PostgreSQL is a server of its own, which counts the
syncs of its write-ahead log. `--memory-candidates 0` leaves out the last search, a long one by the random sampler.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.proxies.fake import FakeProxy
from nas.search import plan_search
from nas.search.progress import Progress
from nas.search.run import run_search
from tests.postgres import Postgres, _other_user, _programs

BUDGET_MS = 1.1
SYNCED = 200  # candidates of the search whose writes are counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--storage", default="journal,sqlite,postgresql")
    parser.add_argument("--sampler", default="surrogate,random")
    parser.add_argument("--memory-candidates", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="print where the CPU time goes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        sys.stdout.write(json.dumps(search(**json.loads(asked.child))) + "\n")
        return
    for storage in asked.storage.split(","):
        for sampler in asked.sampler.split(","):
            with opened(storage) as (url, server, folder):
                name = f"{storage}, {sampler}"
                report(name, run(url, sampler, asked.candidates, folder / "run", profile=asked.profile))
                before = server.execute("SELECT wal_sync FROM pg_stat_wal") if server else [(0,)]
                syncs = run(url, sampler, SYNCED, folder / "short", count=True)["syncs"]
                after = server.execute("SELECT wal_sync FROM pg_stat_wal") if server else [(0,)]
                of_server = (int(str(after[0][0])) - int(str(before[0][0]))) / SYNCED
                words = f", and {of_server:.2f} of the server" if server else ""
                say(f"{name}: {syncs / SYNCED:.2f} fsyncs a candidate in its own process{words}")
    if asked.memory_candidates:
        with opened("journal") as (url, _, folder):
            report("journal, random", run(url, "random", asked.memory_candidates, folder / "run"))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def report(name: str, found: dict[str, Any]) -> None:
    number = found["candidates"]
    quarters = ", ".join(f"{1000 * one:.1f}" for one in found["quarters_s"])
    say(
        f"{name}, {number} candidates: {1000 * found['wall_s'] / number:.1f} ms a candidate, "
        f"{1000 * found['cpu_s'] / number:.1f} ms of CPU (by quarters {quarters}); "
        f"{found['memory_mib']:.0f} MiB at most, {found['start_mib']:.0f} MiB before the first"
    )


@contextmanager
def opened(storage: str) -> Iterator[tuple[str | None, Postgres | None, Path]]:
    """The URL of a new storage, its server if it has one, and a new folder."""
    with tempfile.TemporaryDirectory(prefix="nas-bench-") as name:
        folder = Path(name)
        if storage != "postgresql":
            yield f"sqlite:///{folder}/studies.db" if storage == "sqlite" else None, None, folder
            return
        programs, user = _programs(), _other_user()
        if programs is None:
            raise SystemExit("PostgreSQL is not installed; leave it out by --storage journal,sqlite")
        (folder / "server").mkdir()
        folder.chmod(0o755)
        if user is not None:
            os.chown(folder / "server", user.pw_uid, user.pw_gid)
        server = Postgres(programs, folder / "server")
        try:
            server.execute("CREATE DATABASE bench")
            yield server.url("bench"), server, folder
        finally:
            server.stop()


def run(
    url: str | None, sampler: str, candidates: int, out: Path, *, count: bool = False, profile: bool = False
) -> dict[str, Any]:
    """A search in a process of its own."""
    asked = {"storage": url, "sampler": sampler, "candidates": candidates, "out": str(out), "profile": profile}
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    counts = out.with_name("strace.txt")
    if count and shutil.which("strace"):
        command = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", str(counts), *command]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if counts.exists():
        lines = re.findall(
            r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+).*\b(?:fsync|fdatasync)$", counts.read_text(), re.MULTILINE
        )
        found["syncs"] = sum(map(int, lines))
        counts.unlink()
    return found


def search(storage: str | None, sampler: str, candidates: int, out: str, *, profile: bool) -> dict[str, Any]:
    """What a search by the fake proxy costs in this process."""
    space, (table, _) = SearchSpace.find("iformer"), LatencyTable.find("iphone13")
    proxy, syncs, sync = FakeProxy(), 0, os.fsync

    def counting(handle: Any) -> None:
        nonlocal syncs
        syncs += 1
        sync(handle)

    os.fsync = counting  # type: ignore[assignment]
    plan = plan_search(space, table, proxy, budget_ms=BUDGET_MS, trials=candidates, time_limit_s=None)
    marks: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.last is not None and len(progress.result.candidates) % max(1, candidates // 4) == 0:
            marks.append(time.process_time())

    start_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    wall, cpu = time.perf_counter(), time.process_time()
    marks.append(cpu)
    run_search(
        space,
        table,
        proxy,
        plan=plan,
        seed=0,
        out=Path(out),
        names={"space": "iformer", "table": "iphone13", "proxy": "fake"},
        storage=storage,
        sampler=sampler,
        on_progress=on_progress,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    profiler.disable()
    if profile:
        stats = pstats.Stats(profiler, stream=sys.stderr)
        stats.sort_stats("cumulative").print_stats(60)
        stats.sort_stats("tottime").print_stats(40)
    return {
        "candidates": candidates,
        "wall_s": wall,
        "cpu_s": cpu,
        "quarters_s": [(after - before) / (candidates / 4) for before, after in pairwise(marks[:5])],
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start_mib": start_kib / 1024,
        "syncs": syncs,
    }


if __name__ == "__main__":
    main()
