"""Does a policy aligned to one group move that group most, and maximin the worst group most?

For each seed a federated run gives the reward model (unless it is there already), and a policy that
is made from a config is aligned to one group, and to all groups under every rule. Scores are on
held-out questions, intervals are 95 % t intervals over seeds. Finished seeds are kept in `--work`.

    python benchmarks/align.py --data global_opinions.csv --encoder path/to/all-MiniLM-L6-v2 \
        --rewards runs/align --work runs/align-policies --output benchmarks/results/align.json

With reward models that are there already (`--rewards` holds `seed0`, `seed1`, ...: runs or exports)
this needs no Flower, for example on a GPU: `--device cuda --policy-size 350M`.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from alignment.config import AlignConfig
from alignment.policy import load_policy
from alignment.prompts import prompt_of
from alignment.questions import QuestionSplit
from alignment.reward_model import load_rewards
from alignment.rewards import GroupReward
from alignment.run import METRICS, run_alignment
from task.config import RunConfig, RunSettings
from task.settings import Scalar
from task.sources import load_survey
from task.statistics import student_interval

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
LEARNING_RATES = {"25M": 1e-3, "125M": 5e-4, "350M": 3e-4, "1B": 2e-4}


def main() -> None:
    """Run what is missing, print the summary, and save it."""
    arguments = _arguments()
    per_seed = {}
    throughput = None
    for seed in range(arguments.seeds):
        config = _config(arguments, seed)
        _require_reward(arguments, seed)
        metrics = _aligned(config)
        per_seed[seed] = metrics
        if throughput is None:
            throughput = free_text_throughput(config, arguments)
        results = {
            "settings": config.to_flat(),
            "machine": _machine(arguments),
            "free_text": throughput,
            **summary(per_seed, arguments.group),
            "seeds": per_seed,
        }
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(
        json.dumps({k: v for k, v in results.items() if k not in ("seeds", "settings")}, indent=1)
    )


def summary(per_seed: Mapping[int, Mapping[str, Any]], group: str) -> dict[str, Any]:
    """Return gains of groups under each target, and the two claims.

    Args:
        per_seed: `metrics.json` of each seed.
        group: the group that is aligned to alone.
    """
    runs = list(per_seed.values())
    own = f"group:{group}"
    groups = sorted(set.intersection(*(set(run["base"]["groups"]) for run in runs)))
    gains = {
        target: {g: [_gain(run, target, g) for run in runs] for g in groups}
        for target in runs[0]["targets"]
    }
    worst = {
        target: [
            run["targets"][target]["alignment"]["worst"] - run["base"]["worst"] for run in runs
        ]
        for target in runs[0]["targets"]
    }
    found: dict[str, Any] = {
        "base": {g: _interval([run["base"]["groups"][g] for run in runs]) for g in groups},
        "gain": {t: {g: _interval(v) for g, v in of.items()} for t, of in gains.items()},
        "mean_gain": {
            t: _interval(np.mean(list(of.values()), axis=0).tolist()) for t, of in gains.items()
        },
        "worst_gain": {t: _interval(v) for t, v in worst.items()},
        "figures": {
            t: {
                name: _interval([run["targets"][t][name] for run in runs])
                for name in ("win_rate", "kl_answers", "similarity_to_optimum", "outside")
            }
            for t in gains
        },
        "training": {
            t: {
                name: _interval([run["targets"][t]["training"][name] for run in runs])
                for name in (
                    "reward_share_of_step",
                    "scored_pairs_per_second",
                    "generated_completions_per_second",
                )
            }
            for t in gains
        },
    }
    if own in gains and len(groups) > 1:
        others = [g for g in groups if g != group]
        margins = np.array(gains[own][group]) - np.mean([gains[own][g] for g in others], axis=0)
        found["one_group"] = {
            "own_gain_minus_mean_gain_of_others": _interval(margins.tolist()),
            "own_gain_is_largest_in_seeds": sum(
                gains[own][group][s] == max(gains[own][g][s] for g in groups)
                for s in range(len(runs))
            ),
            "own_gain_minus_its_gain_under": {
                t: _interval((np.array(gains[own][group]) - np.array(of[group])).tolist())
                for t, of in gains.items()
                if t != own
            },
        }
    if "min" in worst:
        found["maximin"] = {
            "worst_gain_minus_that_under": {
                t: _interval((np.array(worst["min"]) - np.array(v)).tolist())
                for t, v in worst.items()
                if t != "min"
            },
        }
    return found


def free_text_throughput(config: AlignConfig, arguments: argparse.Namespace) -> dict[str, float]:
    """Time the policy generating free text against `GroupReward` scoring it.

    The texts are new to the encoder. A GRPO step also computes log probabilities and gradients, so
    that the reward's share of a step is below its share of the two.
    """
    survey = load_survey(
        RunConfig(data=config.data, run=RunSettings(seed=config.questions.survey_seed))
    )
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
    command = [sys.executable, "-c", "from cli.main import main; main()", "run", str(CONF)]
    command += ["engine.name=cohort", f"run.seed={seed}", f"run.directory={folder}"]
    command += [f"data.path={arguments.data}", f"encoder.name={arguments.encoder}"]
    subprocess.run([*command, *arguments.run_setting], check=True)


def _config(arguments: argparse.Namespace, seed: int) -> AlignConfig:
    flat: dict[str, Scalar] = {
        "align.seed": seed,
        "align.directory": str(arguments.work / f"seed{seed}"),
        "align.targets": " | ".join([f"group:{arguments.group}", *arguments.rules]),
        "reward.path": str(arguments.rewards / f"seed{seed}"),
        "reward.encoder": arguments.encoder if arguments.encoder != "hashing" else "",
        "data.source": "global-opinions",
        "data.path": str(arguments.data),
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


def _gain(run: Mapping[str, Any], target: str, group: str) -> float:
    after: float = run["targets"][target]["alignment"]["groups"][group]
    before: float = run["base"]["groups"][group]
    return after - before


def _interval(values: Sequence[float]) -> dict[str, float]:
    """Return mean and 95 % t interval over seeds; of one seed there is no interval."""
    found = {"mean": float(np.mean(values))}
    if len(values) > 1:
        found["low"], found["high"] = student_interval(values)
    return found


def _machine(arguments: argparse.Namespace) -> dict[str, Any]:
    cuda = arguments.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a copy of GlobalOpinionQA")
    parser.add_argument("--encoder", default="hashing", help="folder of a sentence encoder")
    parser.add_argument("--rewards", type=Path, required=True, help="holds seed0, seed1, ...")
    parser.add_argument("--work", type=Path, required=True, help="where policies are kept")
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--group", default="Brazil", help="aligned to alone")
    parser.add_argument("--rules", nargs="*", default=RULES, choices=RULES)
    parser.add_argument("--policy-size", default="tiny", choices=SIZES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--free-text-tokens", type=int, default=32, help="length of a completion")
    parser.add_argument("--free-text-steps", type=int, default=3, help="batches that are timed")
    parser.add_argument(
        "--run-setting", action="append", default=[], help="of `pluralllm run`: train.num-rounds=5"
    )
    parser.add_argument(
        "--align-setting", action="append", default=[], help="of `pluralllm align`: train.steps=50"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
