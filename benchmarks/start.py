"""What `import clinome` and `clinome --help` cost over a bare interpreter (bars: 150 ms and 800 ms).

.venv/bin/python benchmarks/start.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time


def milliseconds(*words: str, runs: int = 15) -> float:
    """Return the best wall time of a command over ``runs``."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        best = min(best, time.perf_counter() - start)
    return 1000 * best


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    bare = milliseconds("-c", "pass")
    print(f"bare interpreter      {bare:6.0f} ms")
    print(f"import clinome       +{milliseconds('-c', 'import clinome') - bare:6.0f} ms   (bar 150)")
    print(f"clinome --help       +{milliseconds('-m', 'clinome', '--help') - bare:6.0f} ms   (bar 800)")
