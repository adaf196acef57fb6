"""Loads the pack under the one name `concept_loom`; see tools/pack.py. Works however pytest is called."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
THREADS = min(2, os.cpu_count() or 1)

# Read by torch when first imported, here and in the server that the tests start.
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

sys.path.insert(0, ROOT)
from tools.pack import register_pack  # noqa: E402

register_pack()
