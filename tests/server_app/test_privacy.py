"""Whole private runs: what they disclose, where they stop, and what a crash leaves."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dp_accounting as dp
import pytest
from dp_accounting.rdp import RdpAccountant
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from server_app.central_privacy import CentralPrivacy
from server_app.cohort import CohortGrid
from server_app.federation import run_federation
from server_app.population import PopulationGrid
from server_app.privacy import LEDGER, RunPrivacy, require_private_strategy
from server_app.run_directory import RunDirectory
from server_app.strategies import FedAvg, make_strategy
from server_app.strategies.averaging import reduction_of
from task import records
from task.aggregation import Reduction
from task.config import RunConfig
from task.errors import BudgetError, ConfigError
from task.ledger import SCORES, UPDATE, Ledger
from task.question_ledger import question_epsilon
from task.saved_predictor import load_predictor
from tests.server_app.cohort_runs import cohort_grid
from tests.server_app.in_process_grid import InProcessGrid, make_population, tiny_config
from tests.server_app.private_rounds import private_config
from tests.server_app.test_app import HELD_OUT, TRAIN_GROUPS, metrics, parameters, read, run_app
from tests.server_app.training import Parameters, identical, train_federated

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPS = [*TRAIN_GROUPS, HELD_OUT]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    return tmp_path


def epsilon(
    updates: int, scores: int = 0, multiplier: float = 1.0, of_scores: float = 5.0
) -> float:
    """Of 3 clients that all take part, by dp-accounting."""
    accountant = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_SPECIAL)
    for number, each in ((updates, 1.0), (scores, 5.0)):
        if number:
            accountant.compose(dp.SelfComposedDpEvent(dp.GaussianDpEvent(each), number))
    return float(accountant.get_epsilon(1e-5))


# -- Disclosure ------------------------------------------------------------------------------------


def disclosed(directory: Path) -> str:
    """All text of the run that is not the operator's settings."""
    files = [*directory.glob("*.json"), *directory.glob("*.jsonl")]
    return "".join(file.read_text() for file in files if file.name != "environment.json")


def leaves(value: Any, path: str = "") -> Iterable[str]:
    """Dotted keys of all values."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}".strip("."))
    else:
        yield path


def test_noisy_metrics_are_two_means_an_evaluation_paid_for(project: Path) -> None:
    # Exact scores beside noisy parameters would be outside of every guarantee.
    config = private_config(privacy__metrics="noisy", train__num_rounds=3, evaluation__every=2)
    run_app(config, project / "run")
    lines = [json.loads(line) for line in (project / "run/metrics.jsonl").read_text().splitlines()]
    promise = {f"privacy.{key}" for key in lines[0]["privacy"]}
    often = {"round", *promise}
    scores = {"train.alignment_score", "held_out.alignment_score"}
    assert [set(leaves(line)) for line in lines] == [
        often | scores,
        often,
        often | scores,
        often | scores,
    ]
    spent = [epsilon(0, 1), epsilon(1, 1), epsilon(2, 2), epsilon(3, 3)]
    assert [line["privacy"]["epsilon"] for line in lines] == pytest.approx(spent)
    summary = read(project / "run" / "summary.json")
    assert summary["groups"] == {}
    assert summary["train"] == {"model": lines[-1]["train"]}
    assert set(summary) == {"train", "held_out", "groups", "privacy", "round", "best_round"}
    assert not list((project / "run").glob("groups*"))
    for group in GROUPS:
        assert group not in disclosed(project / "run")
    ledger = Ledger(project / "run" / LEDGER, repeats=True)
    assert (ledger.count(UPDATE), ledger.count(SCORES)) == (3, 3)


def test_metrics_that_are_off_ask_no_client(project: Path) -> None:
    config = private_config(privacy__metrics="off")
    grid = run_app(config, project / "run")
    assert grid.messages("evaluate") == []
    assert len(grid.messages("train")) == 6
    for line in metrics(project / "run"):
        assert set(line) == {"round", "privacy"}
    for group in GROUPS:
        assert group not in disclosed(project / "run")
    final, best = (parameters(project / "run", which) for which in ("final", "best"))
    assert all(final[name].equal(best[name]) for name in final)
    assert read(project / "run" / "summary.json")["privacy"]["epsilon"] == epsilon(2)


@pytest.mark.parametrize(
    ("disclosure", "secure"), [("full", False), ("full", True), ("noisy", True), ("off", False)]
)
def test_a_guarantee_says_what_it_needs_and_what_it_leaves_out(
    project: Path, disclosure: str, secure: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = private_config(
        privacy__metrics=disclosure,
        privacy__secure_noise=secure,
        privacy__delta=1e-4,
        train__num_rounds=1,
        train__sampling="poisson",
        train__clients_per_round=2,
    )
    run_app(config, project / "run")
    promise = read(project / "run" / "summary.json")["privacy"]
    assert (promise["unit"], promise["delta"]) == ("client", 1e-4)
    assert "zero-out" in promise["relation"]
    assert "Poisson, 2 of 3 clients" in promise["sampling"]
    excludes = " ".join(promise["excludes"])
    assert ("exact scores and losses of groups, who took part" in excludes) == (
        disclosure == "full"
    )
    assert ("whoever knows run.seed" in excludes) == (not secure)
    assert "held out" in excludes
    assert "the server, which sees every update" in excludes
    printed = capsys.readouterr().out
    for part in ("at delta = 0.0001 for one client", "relation:", "sampling:", "Not covered:"):
        assert part in printed


def test_without_noise_the_epsilon_is_infinite_under_every_sampling(project: Path) -> None:
    config = private_config(
        privacy__noise_multiplier=0.0, train__num_rounds=1, train__clients_per_round=2
    )
    run_app(config, project / "run")
    assert read(project / "run" / "summary.json")["privacy"]["epsilon"] is None


# -- Budget ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disclosure", "every"), [("full", 1), ("full", 10), ("noisy", 1), ("noisy", 2), ("off", 1)]
)
def test_a_run_ends_within_its_budget_and_keeps_what_it_has(
    project: Path, disclosure: str, every: int
) -> None:
    scores = 1 + 3 // every + (3 % every > 0) if disclosure == "noisy" else 0
    budget = epsilon(3, scores) * 1.0001
    config = private_config(
        privacy__metrics=disclosure,
        privacy__max_epsilon=budget,
        train__num_rounds=6,
        evaluation__every=every,
    )
    grid = run_app(config, project / "run")
    assert len(grid.messages("train")) == 9
    assert read(project / "run" / "status.json")["status"] == "completed"
    lines = metrics(project / "run")
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 3]
    assert "Stopped before the update of round 4" in lines[-1]["stopped"]
    assert all("stopped" not in line for line in lines[:-1])
    assert all(line["privacy"]["epsilon"] <= budget for line in lines)
    ledger = Ledger(project / "run" / LEDGER, repeats=True)
    assert (ledger.count(UPDATE), ledger.count(SCORES)) == (3, scores)
    load_predictor(project / "run", "final")
    if disclosure == "full":
        assert read(project / "run" / "summary.json")["round"] == 3


def test_a_budget_that_pays_for_nothing_leaves_the_untrained_predictor(project: Path) -> None:
    config = private_config(privacy__metrics="noisy", privacy__max_epsilon=0.01)
    grid = run_app(config, project / "run")
    assert grid.messages("train") == grid.messages("evaluate") == []
    assert read(project / "run" / "status.json")["status"] == "completed"
    (line,) = metrics(project / "run")
    assert "Stopped before the scores of round 0" in line["stopped"]
    assert line["privacy"]["epsilon"] == 0
    load_predictor(project / "run", "final")


# -- Crashes ---------------------------------------------------------------------------------------

RUN = """
import sys
from server_app.cohort import simulate
from task.config import RunConfig
import json
simulate(RunConfig.from_flat(json.loads(sys.argv[1])))
"""


def test_a_killed_run_has_charged_every_round_that_it_has_released(tmp_path: Path) -> None:
    config = private_config(
        run__directory=str(tmp_path / "run"),
        privacy__metrics="off",
        train__num_rounds=100_000,
        engine__num_workers=1,
        engine__num_threads=1,
    )
    ledger, lines = tmp_path / "run" / LEDGER, tmp_path / "run" / "metrics.jsonl"
    command = [sys.executable, "-c", RUN, json.dumps(config.to_flat())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not lines.exists() or len(lines.read_text().splitlines()) < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    released = sum(line.endswith("}") for line in lines.read_text().splitlines()) - 1
    charged = [r.server_round for r in Ledger(ledger, repeats=True).releases]
    assert charged == list(range(1, len(charged) + 1))
    assert released <= len(charged) <= released + 1


# -- Strategies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "krum",
        "fedmedian",
        "fedtrimmedavg",
        "bulyan",
        "afl",
        "ditto",
        "mr-mtl",
        "qfedavg",
        "adaptive-alpha",
        "fedmgda+",
    ],
)
def test_a_strategy_that_reads_more_than_the_mean_is_refused(name: str, project: Path) -> None:
    # Wrapped by Flower's classes, these see every client's exact update and weight.
    config = private_config(strategy__name=name)
    with pytest.raises(ConfigError, match=rf"strategy.name = '{name.replace('+', '.')}': expected"):
        run_app(config, project / "run")
    assert not (project / "run").exists()


class OwnMean(FlowerFedAvg):
    """Says itself that the mean is all it reads."""

    seen: list[int]

    def reduction(self) -> Reduction:
        return Reduction(weighted=False)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        answered = list(replies)
        self.seen = [*getattr(self, "seen", []), len(answered)]
        return super().aggregate_train(server_round, answered)


def test_an_own_strategy_that_averages_is_private(project: Path) -> None:
    config = private_config(run__directory=str(project / "run"), privacy__metrics="off")
    require_private_strategy(OwnMean(), config)
    with pytest.raises(ConfigError, match="reads nothing but clients' mean"):
        require_private_strategy(FlowerFedAvg(), config)
    strategy = OwnMean(fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1)
    run_federation(InProcessGrid(config), config, strategy)
    assert strategy.seen == [1, 1]
    final = dict(parameters(project / "run").items())
    run_app(config, project / "fedavg")
    assert all(final[n].equal(v) for n, v in parameters(project / "fedavg").items())


def test_a_strategy_that_lets_a_part_of_the_cohort_train_is_refused(project: Path) -> None:
    config = private_config(run__directory=str(project / "run"), privacy__metrics="off")
    strategy = FedAvg(
        fraction_train=0.5, fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1
    )
    with pytest.raises(ValueError, match="fraction_train = 1"):
        run_federation(InProcessGrid(config), config, strategy)


# -- Engines ---------------------------------------------------------------------------------------


def private_parameters(
    grid: InProcessGrid | CohortGrid, config: RunConfig
) -> tuple[Parameters, list[float], PopulationGrid]:
    """Train over a grid; the parameters, the clipping norms and the population."""
    strategy = make_strategy(config)
    population, predictor = make_population(grid, config, reduction_of(strategy))
    central = CentralPrivacy(config, len(population.train_ids), Ledger(None, repeats=True))
    population._privacy = central
    norms: list[float] = []

    def after_round(server_round: int, _: Any) -> None:
        norms.append(central.clipping_norm)

    initial = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    result = strategy.start(
        grid=population,
        initial_arrays=ArrayRecord(initial),
        num_rounds=config.train.num_rounds,
        timeout=120,
        evaluate_fn=after_round,
    )
    return {name: array.numpy() for name, array in result.arrays.items()}, norms, population


@pytest.mark.parametrize("name", ["fedavg", "fedadam"])
def test_both_engines_release_the_same_bits(name: str) -> None:
    config = private_config(
        data__synthetic_groups=7,
        train__num_rounds=3,
        train__sampling="poisson",
        train__clients_per_round=3,
        strategy__name=name,
        strategy__clipping_norm=0.02,
        privacy__noise_multiplier=0.3,
        privacy__clipping_quantile=0.5,
        engine__stack_size=1,
        engine__num_threads=2,
    )
    flower, flower_norms, _ = private_parameters(InProcessGrid(config), config)
    with cohort_grid(config) as grid:
        assert grid.reduces
        cohort, cohort_norms, population = private_parameters(grid, config)
        arrays = [records.ARRAYS in r.content for r in population.last_train.replies.values()]
    assert arrays
    assert not any(arrays)
    assert identical(flower, cohort)
    assert flower_norms == cohort_norms
    assert len(set(flower_norms)) == 4
    plain, _ = train_federated(InProcessGrid(config), config, num_rounds=3)
    assert not identical(plain, flower)


QUESTION: dict[str, Any] = {
    "privacy__unit": "question",
    "privacy__noise_multiplier": 1.5,
    "privacy__accountant": "rdp",
    "privacy__metrics": "off",
    "train__local_steps": 3,
}


def question_run(tmp_path: Path, rounds: int, *, secure: bool) -> RunPrivacy:
    """A run whose budget lasts for so many rounds."""
    budget = question_epsilon(1.5, 0.5, 3 * rounds, 1e-5, "rdp") + 1e-6
    config = tiny_config(privacy__max_epsilon=budget, privacy__secure_noise=secure, **QUESTION)
    return RunPrivacy(config, cast(Any, None), RunDirectory(tmp_path))


def after_rounds(number: int) -> dict[str, Any]:
    reported = question_epsilon(1.5, 0.5, 3 * number, 1e-5, "rdp")
    return {"central": None, "reported": reported, "asked": [number, 0]}


def test_a_resumed_run_counts_the_round_that_clients_have_paid_for_and_lost(tmp_path: Path) -> None:
    """With secure noise: round 5 was under way, so clients have spent 5 of 6 rounds after 4."""
    for secure, lasts in ((True, 5), (False, 6)):
        privacy = question_run(tmp_path, 6, secure=secure)
        privacy.load_state_dict(after_rounds(4))
        for server_round in range(4, lasts):
            privacy.require_next(server_round)
            spent = server_round + 1 + secure
            privacy.observe(server_round + 1, [question_epsilon(1.5, 0.5, 3 * spent, 1e-5, "rdp")])
        with pytest.raises(BudgetError, match=f"Stopped before the update of round {lasts + 1}"):
            privacy.require_next(lasts)


def test_a_resumed_run_that_lost_no_round_goes_on_to_the_end(tmp_path: Path) -> None:
    privacy = question_run(tmp_path, 6, secure=True)
    privacy.load_state_dict(after_rounds(4))
    for server_round in (4, 5):
        privacy.require_next(server_round)
        paid = question_epsilon(1.5, 0.5, 3 * (server_round + 1), 1e-5, "rdp")
        privacy.observe(server_round + 1, [paid])


def test_noise_in_checkpoints_is_said_not_to_be_covered() -> None:
    for bands, said in ((1, False), (2, True)):
        config = private_config(
            privacy__num_bands=bands, train__sampling="cyclic", train__clients_per_round=2
        )
        excludes = RunPrivacy._excludes(cast(Any, SimpleNamespace(_config=config)))
        assert any("checkpoints/" in each for each in excludes) == said
