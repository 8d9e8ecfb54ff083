"""The simulation that a deployment is compared with: the same groups, seed and settings."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.testbed.parties import Split

PLURALLLM = str(Path(sys.executable).with_name("pluralllm"))


def simulate_split(split: Split, settings: Mapping[str, Any], directory: Path) -> None:
    """Run the cohort engine, one client after another, on the parties' joined data.

    Raises:
        RuntimeError: the run failed.
    """
    given = {key: value for key, value in settings.items() if not key.startswith("nodes.")}
    given |= split.simulation_settings | {"run.directory": str(directory)}
    given |= {"engine.name": "cohort", "engine.stack-size": 1, "engine.num-workers": 1}
    words = [f"{key}={value}" for key, value in given.items()]
    done = subprocess.run(
        [PLURALLLM, "run", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the simulation failed: {done.stdout}{done.stderr}")
