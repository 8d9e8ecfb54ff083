"""Pairwise accuracy and calibration of the federated reward on held-out groups and new questions.

A survey is turned into comparisons (`task/sampled_pairs.py`), a predictor is trained on those of
the training groups by federated learning, and tells of the held-out groups' comparisons which
response they prefer. Beside it, on the same features: Bradley-Terry reward heads trained centrally
on the same episodes, with and without the group's context; the federated reward without context or
with another group's; chance; and the true shares, which no reward can beat. The same command goes
on where it was interrupted.

    python benchmarks/pairwise.py conf/global-opinions.toml data.path=global_opinions.csv \
        encoder.name=path/to/all-MiniLM-L6-v2 --output benchmarks/results/pairwise.json
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bradley_terry import BradleyTerryHead
from make_pairs import write_pairs
from measure import measure_missing, write_results
from numpy.typing import NDArray
from pair_outcomes import NUM_BINS, Outcomes, numbers, true_chances, with_context_of

from cli.settings import parse_settings
from server_app.cohort import simulate
from task.centralized import Progress, train_centralized
from task.config import RunConfig
from task.episodes import Split
from task.evaluation import Predict, evaluation_splits, predict_with
from task.feature_cache import FeatureCache
from task.features import GroupData, feature_sums, load_group, load_roles
from task.probes import MlpProbe
from task.sampled_pairs import sample_pairs
from task.saved_predictor import load_predictor
from task.sources import load_survey
from task.statistics import paired_interval, student_interval
from task.survey import Survey
from task.temperature import fit_temperature

PATHS = ("data.path", "encoder.name", "encoder.cache-directory", "run.directory")
PAIRS = {
    "evaluation.num-context": 50,
    "evaluation.num-draws": 2,
    "train.min-context": 20,
    "train.max-context": 200,
    "train.min-target": 20,
    "train.max-target": 200,
    "predictor.population-weight": 0.0,
    "engine.name": "cohort",
    "engine.num-workers": 1,
}
"""Comparisons say less than answer distributions: more of them in an episode."""

LEARNING_RATES = (0.001, 0.004)
"""Of the centrally trained heads: the best on questions held back of the training groups."""

FEDERATED, BLIND = "federated", "bt-mlp"


class Planned(NamedTuple):
    """The comparisons drawn with one seed."""

    seed: int
    config: RunConfig
    per_question: int


def measure(planned: Planned) -> dict[str, Any]:
    """Train on one draw of comparisons, and score everything on the held-out groups."""
    torch.set_num_threads(1)
    survey = load_survey(planned.config)
    _encode_once(planned.config, survey)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.parquet"
        write_pairs(list(sample_pairs(survey, planned.per_question, 1, planned.seed)), file)
        own = {"data.source": "pairs", "data.path": str(file), "data.min-questions": 0, **PAIRS}
        own["run.directory"] = f"{folder}/run"
        config = RunConfig.from_flat(planned.config.to_flat() | own)
        with redirect_stdout(StringIO()):
            simulate(config)
        roles = load_roles(config.data, config.evaluation, config.run.seed)
        groups = {group: load_group(config, group) for group in roles}
        train = [data for group, data in groups.items() if roles[group] == "train"]
        held_out = [data for group, data in groups.items() if roles[group] == "held-out"]
        predictor = load_predictor(Path(folder) / "run", "best")
        pairs = load_survey(config)
    truth = true_chances(survey)
    texts = [(question.text, *question.options) for question in pairs.questions]
    known = {texts[p][0] for data in train for p in data.answers.questions}
    sums = sum((feature_sums(data) for data in train[1:]), feature_sums(train[0]))
    heads: dict[str, Callable[[], Any]] = {
        "bt-linear": partial(BradleyTerryHead, config.predictor, sums, planned.seed, depth=1),
        BLIND: partial(BradleyTerryHead, config.predictor, sums, planned.seed),
        "bt-mlp-context": partial(MlpProbe, config.predictor, sums, planned.seed),
    }
    federated = predict_with(predictor)
    temperature = fit_temperature(predictor, train, config.evaluation, config.run.seed)
    predictions: dict[str, Predict] = {FEDERATED: federated}
    rates = {}
    for name, make in heads.items():
        rates[name], head = best_head(make, train, config)
        predictions[name] = predict_with(head)
    predictions["federated, calibrated"] = partial(tempered, federated, temperature)
    predictions["federated, no context"] = lambda data, split: federated(
        data, Split(split.context[:0], split.target)
    )
    groups_scores: dict[str, Any] = {}
    bins: dict[str, NDArray[np.float64]] = {}
    for data, other in zip(held_out, [*held_out[1:], held_out[0]], strict=True):
        asked = [texts[p] for p in data.answers.questions]
        new = np.array([prompt not in known for prompt, *_ in asked])
        chances = np.array([truth[data.group, *texts_of] for texts_of in asked])
        stranger = partial(with_context_of, other, federated)
        for name, predict in {
            **predictions,
            "federated, another group's context": stranger,
            "chance": lambda _, split: np.full((len(split.target), 1), 0.5),
            "true shares": lambda _, split, true=chances: true[split.target, None],  # type: ignore[misc]
        }.items():
            outcomes = [
                Outcomes.of(data, split.target, predict(data, split)[:, 0], new[split.target])
                for split in evaluation_splits(data, config.evaluation, config.run.seed)
            ]
            joined = Outcomes(*(np.concatenate(each) for each in zip(*outcomes, strict=True)))
            groups_scores.setdefault(name, {})[data.group] = {
                "all": joined.scores(),
                "new": Outcomes(*(column[joined.new] for column in joined)).scores(),
            }
            bins[name] = bins.get(name, np.zeros((3, NUM_BINS))) + joined.reliability()
    return {
        "seed": planned.seed,
        "comparisons": {
            role: int(sum(numbers(data).sum() for data in those))
            for role, those in (("train", train), ("held_out", held_out))
        },
        "learning_rates": rates,
        "temperature": temperature,
        "groups": groups_scores,
        "reliability": {name: np.round(table, 1).tolist() for name, table in bins.items()},
    }


class KeepBest:
    """Keeps a head as it was when it did best on the comparisons held back of training groups.

    Federated training keeps its best predictor by the same questions.
    """

    def __init__(self, head: Any, train: Sequence[GroupData], config: RunConfig) -> None:
        self.head, self.loss = head, np.inf
        self._state: dict[str, torch.Tensor] = {}
        self._every = config.evaluation.every
        seed = config.run.seed
        self._asked = [
            (data, evaluation_splits(data, config.evaluation, seed)[0]) for data in train
        ]

    def __call__(self, progress: Progress) -> None:
        """Look after a round how well the head does."""
        if progress.round % self._every:
            return
        predict = predict_with(self.head)
        losses = [
            Outcomes.of(data, split.target, predict(data, split)[:, 0]).scores()["log_loss"]
            for data, split in self._asked
        ]
        if np.mean(losses) < self.loss:
            self.loss = float(np.mean(losses))
            self._state = {name: v.clone() for name, v in self.head.state_dict().items()}

    def restore(self) -> Any:
        """Return the head as it did best."""
        self.head.load_state_dict(self._state)
        return self.head


def _encode_once(config: RunConfig, survey: Survey) -> None:
    """Let comparisons look up the features of the survey's options, which are kept on disk.

    Each draw has questions of its own, whose texts have all been encoded: minutes a seed.
    """
    cache = FeatureCache(config.encoder)
    cache.preload(survey.questions)
    type(cache.encoder).encode = lambda _, questions: cache.features(questions)  # type: ignore[method-assign,assignment,misc]


def tempered(
    predict: Predict, temperature: float, data: GroupData, split: Split
) -> NDArray[np.floating]:
    """Return distributions as they are when logits are divided by a temperature."""
    scaled_QO = predict(data, split) ** (1 / temperature)
    return np.asarray(scaled_QO / scaled_QO.sum(1, keepdims=True))


def best_head(
    make: Callable[[], Any], train: Sequence[GroupData], config: RunConfig
) -> tuple[float, Any]:
    """Train a head with each learning rate; return the rate and head that did best."""
    kept = {}
    for rate in LEARNING_RATES:
        kept[rate] = KeepBest(make(), train, config)
        train_centralized(
            kept[rate].head,
            train,
            replace(config.train, learning_rate=rate),
            seed=config.run.seed,
            after_round=kept[rate],
        )
    rate = min(kept, key=lambda each: kept[each].loss)
    return rate, kept[rate].restore()


def report(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over groups and seeds with intervals, and differences to the blind head."""
    tables: dict[str, Any] = {}
    for where in ("all", "new"):
        for metric in ("accuracy", "brier", "log_loss", "ece"):
            scores = {
                name: np.array(
                    [[each[where][metric] for each in row["groups"][name].values()] for row in rows]
                )
                for name in rows[0]["groups"]
            }
            tables[f"{metric} {where}"] = {
                name: {
                    "mean": round(float(table.mean()), 4),
                    "interval": [round(v, 4) for v in student_interval(table.mean(1).tolist())],
                    "minus_blind": round(float((table - scores[BLIND]).mean()), 4),
                    "minus_blind_interval": [
                        round(v, 4) for v in paired_interval(table - scores[BLIND])
                    ],
                }
                for name, table in scores.items()
            }
    return tables


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("settings", nargs="*", help="a .toml file, key=value")
    parser.add_argument("--output", type=Path, help="file of results (JSON)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-question", type=int, default=4, help="comparisons of a question")
    parser.add_argument("--workers", type=int, default=1, help="seeds at a time")
    given = parser.parse_args()
    config = parse_settings(given.settings)
    flat = config.to_flat()
    figures = {
        "settings": {k: v for k, v in (flat | PAIRS).items() if k not in PATHS},
        "per_question": given.per_question,
    }
    planned = [
        Planned(seed, RunConfig.from_flat(flat | {"run.seed": seed}), given.per_question)
        for seed in range(given.seeds)
    ]
    rows = measure_missing(parser, given, figures, planned, ("seed",), measure)
    tables = report(sorted(rows, key=lambda row: row["seed"]))
    write_results(given.output, {**figures, "rows": rows, "tables": tables})
    for name, table in tables.items():
        print(name)
        for method, entry in table.items():
            print(f"  {method:36} {entry['mean']:.4f} {entry['interval']}", end="")
            print(f"  minus blind {entry['minus_blind']:+.4f} {entry['minus_blind_interval']}")


if __name__ == "__main__":
    main()
