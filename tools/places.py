"""Where things lie. All that dev.py makes is in `.loom/` and `output/`, both ignored by git."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOM = ROOT / ".loom"
RUN = LOOM / "run"
OUTPUT = ROOT / "output"
EXAMPLES = ROOT / "example_workflows"
