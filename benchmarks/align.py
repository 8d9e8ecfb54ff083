"""Does a policy aligned to one group move that group most, and maximin the worst group most?

For each seed a federated run gives the reward model (unless it is there already), and a policy that
is made from a config is aligned to single groups, and to all groups under every rule. Scores are on
held-out questions, intervals are 95 % t intervals over seeds. Finished seeds are kept in `--work`.

    python -m benchmarks.align --data global_opinions.csv --encoder path/to/all-MiniLM-L6-v2 \
        --rewards runs/align --work runs/align-policies --output benchmarks/results/align.json

Without `--data` the survey is the synthetic one, another for each seed. With reward models that are
there already (`--rewards` holds `seed0`, `seed1`, ...: runs or exports) this needs no Flower, for
example on a GPU: `--device cuda --policy-size 350M`.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from alignment.config import AlignConfig
from alignment.policy import load_policy
from alignment.prompts import prompt_of
from alignment.questions import QuestionSplit
from alignment.reward_model import load_rewards
from alignment.rewards import GroupReward
from alignment.run import METRICS, run_alignment
from benchmarks.align_summary import summary
from benchmarks.minority import MINORITY, by_role, majority_and_minority
from task.config import RunConfig, RunSettings, split_names
from task.settings import Scalar
from task.sources import load_survey

CONF = Path(__file__).parents[1] / "conf" / "global-opinions.toml"
RULES = ("mean", "min", "max", "nash", "adaptive-alpha")
SIZES: dict[str, dict[str, Scalar]] = {
    "tiny": {},
    "25M": {"policy.layers": 6, "policy.width": 512, "policy.heads": 8},
    "125M": {"policy.layers": 12, "policy.width": 768, "policy.heads": 12},
    "350M": {"policy.layers": 20, "policy.width": 1024, "policy.heads": 16},
    "1B": {"policy.layers": 16, "policy.width": 2048, "policy.heads": 16},
}
"""Settings of the policy; a layer of width w has 16 w^2 parameters."""
PATHS = (
    "align.directory",
    "data.path",
    "policy.path",
    "reward.encoder",
    "reward.held-out-path",
    "reward.path",
)
LEARNING_RATES = {"25M": 1e-3, "125M": 5e-4, "350M": 3e-4, "1B": 2e-4}


def main() -> None:
    """Run what is missing, print the summary, and save it."""
    arguments = _arguments()
    for seed in range(arguments.seeds):
        _require_reward(arguments, seed)
    configs = [_config(arguments, seed) for seed in range(arguments.seeds)]
    own, roles = arguments.group, [dict[str, str]()] * arguments.seeds
    if arguments.majority:
        own = [MINORITY]
        roles = [majority_and_minority(config, arguments.majority) for config in configs]
        configs = list(map(_with_groups, configs, roles))
    per_seed: dict[int, dict[str, Any]] = {}
    throughput: dict[str, float] | None = None
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        for seed, metrics in enumerate(pool.map(_aligned, configs)):
            per_seed[seed] = metrics
            if throughput is None and arguments.jobs == 1 and arguments.free_text_steps:
                throughput = free_text_throughput(configs[0], arguments)
            results = {
                "settings": _without_paths(configs[0].to_flat()),
                "machine": _machine(arguments),
                "free_text": throughput,
                **summary({s: by_role(m, roles[s]) for s, m in per_seed.items()}, own),
                "roles": roles,
                "seeds": {
                    s: {**m, "settings": _without_paths(m["settings"])} for s, m in per_seed.items()
                },
            }
            if arguments.output:
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(
        json.dumps({k: v for k, v in results.items() if k not in ("seeds", "settings")}, indent=1)
    )


def free_text_throughput(config: AlignConfig, arguments: argparse.Namespace) -> dict[str, float]:
    """Time the policy generating free text against `GroupReward` scoring it.

    The texts are new to the encoder. A GRPO step also computes log probabilities and gradients, so
    that the reward's share of a step is below its share of the two.
    """
    data = RunConfig(data=config.data, run=RunSettings(seed=config.questions.survey_seed))
    survey = load_survey(data)
    split = QuestionSplit.of(survey, config.questions, config.align.seed)
    model, _, groups = load_rewards(config, survey, split)
    policy = load_policy(str(Path(config.align.directory) / "base"), config.policy)
    reward = GroupReward(model, groups[0])
    generated = scored = 0.0
    number = 0
    for step in range(arguments.free_text_steps + 1):
        asked = split.train[step * config.train.prompts : (step + 1) * config.train.prompts]
        prompts = [prompt_of(q) for q in asked for _ in range(config.train.generations)]
        if not prompts:
            break
        inputs = policy.tokenizer(prompts, padding=True, return_tensors="pt").to(policy.device)
        started = time.perf_counter()
        with torch.inference_mode():
            tokens = policy.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                min_new_tokens=arguments.free_text_tokens,
                max_new_tokens=arguments.free_text_tokens,
            )[:, inputs["input_ids"].shape[1] :].cpu()
        middle = time.perf_counter()
        texts = policy.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        before = reward.seconds
        reward(prompts, texts)
        if step:  # the first warms up
            generated += middle - started
            scored += reward.seconds - before
            number += len(prompts)
    return {
        "tokens": arguments.free_text_tokens,
        "scored_pairs_per_second": number / scored,
        "generated_completions_per_second": number / generated,
        "reward_share_of_generation_and_reward": scored / (scored + generated),
    }


def _aligned(config: AlignConfig) -> dict[str, Any]:
    """Return the metrics of an alignment that is finished, or is now."""
    file = Path(config.align.directory) / METRICS
    if file.exists():
        metrics: dict[str, Any] = json.loads(file.read_text())
        asked = {name.strip() for name in config.align.targets.split("|")}
        if set(metrics["targets"]) >= asked:
            return metrics
        raise SystemExit(f"{file.parent} is not finished: remove it and start again.")
    return run_alignment(config)


def _require_reward(arguments: argparse.Namespace, seed: int) -> None:
    """Train the reward model of a seed, unless it is there."""
    folder = arguments.rewards / f"seed{seed}"
    if folder.exists():
        return
    command = [sys.executable, "-c", "from cli.main import main; main()", "run"]
    if arguments.data:
        command += [str(CONF), f"data.path={arguments.data}", f"encoder.name={arguments.encoder}"]
    command += ["engine.name=cohort", f"run.seed={seed}", f"run.directory={folder}"]
    subprocess.run([*command, *arguments.run_setting], check=True)


def _config(arguments: argparse.Namespace, seed: int) -> AlignConfig:
    flat: dict[str, Scalar] = {
        "align.seed": seed,
        "align.directory": str(arguments.work / f"seed{seed}"),
        "align.targets": " | ".join([*(f"group:{g}" for g in arguments.group), *arguments.rules]),
        "reward.path": str(arguments.rewards / f"seed{seed}"),
        "reward.encoder": arguments.encoder if arguments.encoder != "hashing" else "",
        "questions.survey-seed": 0 if arguments.data else seed,
        "data.source": "global-opinions" if arguments.data else "synthetic",
        "data.path": str(arguments.data or ""),
        "policy.device": arguments.device,
        "policy.dtype": "bfloat16" if arguments.device == "cuda" else "float32",
        **SIZES[arguments.policy_size],
    }
    if rate := LEARNING_RATES.get(arguments.policy_size):
        flat |= {"policy.warm-up-learning-rate": rate, "train.learning-rate": rate}
    given = AlignConfig.parse(
        [*arguments.align_setting, f"reward.path={flat['reward.path']}"]
    ).to_flat()
    named = {text.partition("=")[0].strip() for text in arguments.align_setting}
    return AlignConfig.from_flat(flat | {key: given[key] for key in named})


def _without_paths(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return settings without the places where files are on this machine."""
    return {key: value for key, value in settings.items() if key not in PATHS}


def _with_groups(config: AlignConfig, roles: Mapping[str, str]) -> AlignConfig:
    """Return the settings with these groups alone, the minority in place of the single groups."""
    (minority,) = (group for group, role in roles.items() if role == MINORITY)
    rules = [name for name in split_names(config.align.targets) if name in RULES]
    changed = {
        "reward.groups": " | ".join(roles),
        "align.targets": " | ".join([f"group:{minority}", *rules]),
    }
    return AlignConfig.from_flat(config.to_flat() | changed)


def _machine(arguments: argparse.Namespace) -> dict[str, Any]:
    cuda = arguments.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "seeds_at_a_time": arguments.jobs,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a copy of GlobalOpinionQA; left out: synthetic")
    parser.add_argument("--encoder", default="hashing", help="folder of a sentence encoder")
    parser.add_argument("--rewards", type=Path, required=True, help="holds seed0, seed1, ...")
    parser.add_argument("--work", type=Path, required=True, help="where policies are kept")
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--group", nargs="+", default=["Brazil"], help="each aligned to alone")
    parser.add_argument(
        "--majority",
        type=int,
        default=0,
        help="of so many groups that agree, and a minority of one, aligned to alone; 0: all groups",
    )
    parser.add_argument("--rules", nargs="*", default=RULES, choices=RULES)
    parser.add_argument("--policy-size", default="tiny", choices=SIZES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--free-text-tokens", type=int, default=32, help="length of a completion")
    parser.add_argument("--free-text-steps", type=int, default=3, help="batches that are timed")
    parser.add_argument(
        "--jobs", type=int, default=1, help="seeds at a time; with several, no time means much"
    )
    parser.add_argument(
        "--run-setting", action="append", default=[], help="of `pluralllm run`: train.num-rounds=5"
    )
    parser.add_argument(
        "--align-setting", action="append", default=[], help="of `pluralllm align`: train.steps=50"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
