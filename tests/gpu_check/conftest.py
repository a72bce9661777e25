from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# As scripts/gpu_check does: the package is of the repository, not of what is installed.
if str(ROOT / "benchmarks") not in sys.path:
    sys.path.append(str(ROOT / "benchmarks"))
