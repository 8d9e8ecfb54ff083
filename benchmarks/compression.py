"""Update compression: megabytes sent per round and alignment score, one row per way to compress.

python benchmarks/compression.py conf/global-opinions.toml data.path=global_opinions.csv \
        encoder.name=path/to/all-MiniLM-L6-v2 --output benchmarks/results/compression.json
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from measure import run_simulation, write_results

COMPRESSIONS = ("none", "bfloat16", "int8", "top-k")


def measure(settings: list[str], compression: str, seed: int) -> dict[str, Any]:
    """Train with one way to compress."""
    files = [text for text in settings if "=" not in text]
    given = dict(text.split("=", 1) for text in settings if "=" in text)
    figures = run_simulation(
        {
            **given,
            "engine.name": "cohort",
            "compression.name": compression,
            "run.seed": seed,
            "evaluation.every": 1000,
        },
        files,
    )
    scores = figures["summary"]["held_out"]["model"]
    return {
        "compression": compression,
        "seed": seed,
        # The second round: the last one's bytes would include the evaluation's.
        "megabytes_up_per_round": figures["rounds"][2]["megabytes_up"],
        "megabytes_down_per_round": figures["rounds"][2]["megabytes_down"],
        "held_out": scores,
    }


def main() -> None:
    """Run every way to compress with every seed; print a table of means, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    print("| compression | MB up per round | smaller | AS held-out | difference | worst group |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, Any]] = []
    plain: tuple[float, float] | None = None
    for compression in COMPRESSIONS:
        runs = [measure(arguments.settings, compression, seed) for seed in range(arguments.seeds)]
        rows += runs
        megabytes = runs[0]["megabytes_up_per_round"]
        score = statistics.fmean(run["held_out"]["alignment_score"] for run in runs)
        worst = statistics.fmean(run["held_out"]["worst_group"] for run in runs)
        plain = plain or (megabytes, score)
        print(
            f"| {compression} | {megabytes:.2f} | {plain[0] / megabytes:.2f}x | {score:.4f} |"
            f" {score - plain[1]:+.4f} | {worst:.4f} |",
            flush=True,
        )
        write_results(arguments.output, {"settings": arguments.settings, "rows": rows})


if __name__ == "__main__":
    main()
