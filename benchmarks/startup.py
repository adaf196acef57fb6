"""`bench startup`: what the pack adds to ComfyUI's start.

In fresh processes, with all of ComfyUI's own nodes loaded already, its own loader loads this pack.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from .gauge import device_name, on_gpu
from .table import Table, arguments, print_table

ROOT = Path(__file__).resolve().parent.parent
RUNS, QUICK_RUNS = 9, 3
LOADS = """
import asyncio, json, sys, time
root, cpu = sys.argv[1], sys.argv[2] == "cpu"
sys.path.insert(0, root)
from tools import pack
pack.attach_comfyui(cpu)
sys.path.remove(root)
import execution, nodes, server
asyncio.run(nodes.init_builtin_extra_nodes())
before, began, worked = set(sys.modules), time.perf_counter(), time.process_time()
loaded = asyncio.run(nodes.load_custom_node(root))
told = {"wall_ms": 1e3 * (time.perf_counter() - began), "cpu_ms": 1e3 * (time.process_time() - worked)}
ours = root.replace(".", "_x_")
foreign = sorted({name.partition(".")[0] for name in set(sys.modules) - before if not name.startswith(ours)})
print(json.dumps({**told, "loaded": loaded, "modules": foreign}))
"""


def one_start() -> dict[str, Any]:
    """Compiled files are kept and found again, as for everybody who does not forbid it."""
    command = [sys.executable, "-c", LOADS, str(ROOT), "gpu" if on_gpu() else "cpu"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=kept)
    told = json.loads(done.stdout.splitlines()[-1])
    if not told["loaded"]:
        raise RuntimeError("ComfyUI did not load the pack; what it said stands in its log.")
    return told


def main(argv: list[str]) -> int:
    wanted = arguments("startup").parse_args(argv)
    table = Table(wanted.json, {"bench": "startup", "quick": wanted.quick})
    table.values["device"] = device_name()
    table.once("starts", lambda: [one_start() for _ in range(1 + (QUICK_RUNS if wanted.quick else RUNS))][1:])
    starts = table.values["starts"]  # the first one compiled, and was left out
    for name in ("cpu_ms", "wall_ms"):
        table.values[name] = round(median(one[name] for one in starts), 1)
    table.values["import_ms"] = table.values["cpu_ms"]  # others may be busy on the machine while it waits
    table.write()
    print_table(("ms", "CPU", "wall"), [("median", table.values["cpu_ms"], table.values["wall_ms"])])
    print(f"Brought along: {', '.join(starts[0]['modules']) or 'nothing that ComfyUI had not imported'}.")
    return 0
