"""Loads the pack under the one name `concept_loom`; see tools/pack.py. Works however pytest is called."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)

# Read by torch when first imported, here and in the server that the tests start. The tensors are small, and two
# processes with two threads each on two cores run many times slower than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, ROOT)
from tools.pack import register_pack  # noqa: E402

register_pack()
