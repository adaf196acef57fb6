"""Rows of a table made by several processes at once: each makes one on a copy of the table's file and hands it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .table import Table

DEV = Path(__file__).parents[1] / "dev.py"


def fill(table: Table, bench: str, arguments: Sequence[str], names: Sequence[str], jobs: int) -> None:
    """Has `bench` make the rows `names` (its option --rows), `jobs` at a time on equal shares of the cores.

    CalledProcessError where one fails, after those that run have ended; what they made is in the table.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    own = {**os.environ, "OMP_NUM_THREADS": threads}

    def make(name: str, file: Path) -> tuple[str, Path]:
        file.write_text(json.dumps(table.values))
        command = [sys.executable, str(DEV), "bench", bench, *arguments, "--json", str(file), "--rows", name]
        subprocess.run([*command, "--jobs", "1"], env=own, stdout=subprocess.DEVNULL, check=True)
        return name, file

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        files = (Path(folder) / f"{number}.json" for number in range(len(names)))
        for done in as_completed([pool.submit(make, *one) for one in zip(names, files, strict=False)]):
            name, file = done.result()
            table.join(json.loads(file.read_text()), name)
            print(f"{name}: done", flush=True)
