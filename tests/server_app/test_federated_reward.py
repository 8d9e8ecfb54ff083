"""The federated reward model: groups send what the reward model gives, on whatever engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from flwr.app import Array, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from trl import GRPOConfig, GRPOTrainer

from alignment.rewards import PluralReward
from alignment.scoring import ScoringModel
from alignment.survey_reward import SurveyReward
from server_app import federated_reward
from server_app.app import app
from server_app.federated_reward import FederatedRewardModel
from server_app.nodes import connections as connecting
from server_app.nodes.discovery import discover_clients
from task import contexts, records
from task.config import RunConfig
from task.encoder import saved_settings
from task.errors import (
    ConfigError,
    EncoderError,
    PopulationError,
    RewardError,
    RunDirectoryError,
    UserError,
)
from task.evaluation import evaluation_splits
from task.features import FeatureSums, feature_sums, load_group, load_roles
from task.population import PopulationAnswers
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.reward_aggregation import AGGREGATIONS
from task.survey import Question
from tests.alignment.examples import make_policy, make_tokenizer
from tests.server_app.cohort_runs import cohort_grid
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import (
    Fault,
    InProcessGrid,
    group_and_round,
    lost,
    only,
    silent,
    tiny_config,
    with_content,
)

NURSES = "Northern nurses"
PROMPTS = ["How should the river be crossed?"] * 3 + ["Work less?"] * 2
RESPONSES = ["By a tram.", "By a bridge.", "By boat, as ever.", "Yes, on Fridays.", "No."]
AGAINST = [["By a bridge."], ["By a tram.", "Not at all."], ["By a tram."], ["No."], ["Yes."]]


def predictor_of(config: RunConfig) -> PreferencePredictor:
    """A run's predictor as it starts, with other parameters, so that responses differ more."""
    train = [g for g, role in roles_of(config).items() if role == "train"]
    groups = [load_group(config, group) for group in train]
    sums = sum(map(feature_sums, groups[1:]), feature_sums(groups[0]))
    assert isinstance(sums, FeatureSums)
    answers = None
    if config.predictor.population_weight:
        answers = PopulationAnswers.merged(map(PopulationAnswers.of, groups))
    encoder = saved_settings(config.encoder)
    return PreferencePredictor.initial(config.predictor, sums, encoder, 3, answers)


def roles_of(config: RunConfig) -> dict[str, str]:
    return dict(load_roles(config.data, config.evaluation, config.run.seed))


def local_model(config: RunConfig) -> RewardModel:
    """The reward model that holds each group's first seeded context."""
    given = {}
    for group in sorted(roles_of(config)):
        data = load_group(config, group)
        draw = evaluation_splits(data, config.evaluation, config.run.seed)[0]
        given[group] = contexts.Context.of_data(data, draw.context)
    return RewardModel(predictor_of(config), given, encoder=config.encoder, device="cpu")


def local_scores(
    config: RunConfig, against: list[list[str]] | None = AGAINST
) -> tuple[list[str], np.ndarray]:
    """The groups, and what the reward model gives with each one's first seeded context."""
    model = local_model(config)
    return list(model.groups), model.scores(PROMPTS, RESPONSES, against=against).numpy()


def reward_over(grid: Grid, config: RunConfig) -> FederatedRewardModel:
    return FederatedRewardModel.connect(grid, config, predictor_of(config))


def impatient(grid: Grid, config: RunConfig) -> FederatedRewardModel:
    """A reward that waits for scores a moment only, but long enough to see who is there."""
    return FederatedRewardModel(grid, config, predictor_of(config), discover_clients(grid, 60))


def faulty(
    fault: Fault, group: str = NURSES, **changes: Any
) -> tuple[FederatedRewardModel, InProcessGrid]:
    """A reward one of whose groups misbehaves whenever it is to score."""
    config = tiny_config(**changes)
    grid = InProcessGrid(config, fault=only(fault, message_type=records.SCORE, group=group))
    return impatient(grid, config), grid


@pytest.mark.parametrize("against", [AGAINST, None], ids=["against", "alone"])
@pytest.mark.parametrize("changes", [{}, {"predictor__population_weight": 0.5}])
def test_scores_are_the_reward_models_whatever_the_order_of_replies(
    against: list[list[str]] | None, changes: dict[str, Any]
) -> None:
    config = tiny_config(**changes)
    groups, expected = local_scores(config, against)
    assert len(groups) == 4
    seen = set()
    for num_nodes in (1, 2, 3):
        reward = reward_over(InProcessGrid(config, num_nodes), config)
        scores_BG = reward.scores(PROMPTS, RESPONSES, against=against)
        assert reward.groups == tuple(groups)
        np.testing.assert_allclose(scores_BG.numpy(), expected, atol=1e-5)
        seen.add(scores_BG.numpy().tobytes())
    assert len(seen) == 1  # bit for bit
    assert np.ptp(expected, axis=1).min() > 1e-4  # groups differ


def test_the_cohort_engine_gives_the_same() -> None:
    config = tiny_config()
    groups, expected = local_scores(config)
    with cohort_grid(config) as grid:
        reward = reward_over(grid, config)
        np.testing.assert_allclose(
            reward.scores(PROMPTS, RESPONSES, against=AGAINST).numpy(), expected, atol=1e-5
        )
        assert list(reward.groups) == groups


def test_batches_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(score__batch_size=2)
    grid = InProcessGrid(config)
    scores = reward_over(grid, config).scores(PROMPTS, RESPONSES, against=AGAINST).numpy()
    np.testing.assert_allclose(scores, local_scores(config)[1], atol=1e-5)

    def sizes() -> list[int]:
        return [
            len(message.content.config_records[records.ROLLOUTS][records.RESPONSES])
            for message in grid.messages(records.SCORE)
        ]

    assert sizes() == [2] * 8 + [1] * 4
    grid.received.clear()
    monkeypatch.setattr(
        federated_reward, "MOST_BYTES", 60
    )  # the first prompt has 32, responses about 12
    again = reward_over(grid, config).scores(PROMPTS, RESPONSES, against=AGAINST).numpy()
    np.testing.assert_allclose(again, scores, atol=1e-5)
    assert sizes() == [1] * 12 + [2] * 4


def test_messages_hold_texts_and_parameters_and_replies_numbers_alone() -> None:
    config = tiny_config()
    replies: list[RecordDict] = []

    def kept(message: Message, answer: Callable[[Message], Message]) -> Message:
        replies.append(answer(message).content)
        return answer(message)

    grid = InProcessGrid(config, fault=only(kept, message_type=records.SCORE))
    reward_over(grid, config).scores(PROMPTS, RESPONSES, against=AGAINST)
    for message in grid.messages(records.SCORE):
        assert set(message.content) == {
            records.ARRAYS,
            records.ROLLOUTS,
            records.BRIEFING,
            records.FEATURE_STATISTICS,
        }
    assert len(replies) == 4
    for content in replies:
        assert set(content) == {records.SCORES}
        (array,) = content.array_records[records.SCORES].values()
        assert array.numpy().shape == (len(RESPONSES),)


def test_only_the_groups_that_are_named_are_asked() -> None:
    config = tiny_config(score__groups=f"{NURSES} | Northern students")
    grid = InProcessGrid(config)
    reward = reward_over(grid, config)
    scores = reward.scores(PROMPTS, RESPONSES, against=AGAINST).numpy()
    groups, expected = local_scores(config)
    assert reward.groups == (NURSES, "Northern students")
    columns = [groups.index(group) for group in reward.groups]
    np.testing.assert_allclose(scores, expected[:, columns], atol=1e-5)
    assert {group_and_round(m)[0] for m in grid.messages(records.SCORE)} == set(reward.groups)


def test_some_groups_alone_are_asked_for_their_scores() -> None:
    config = tiny_config()
    groups, expected = local_scores(config)
    grid = InProcessGrid(config)
    reward = reward_over(grid, config)
    named = ["Northern students", NURSES]  # in this order
    scores = reward.scores(PROMPTS, RESPONSES, named, against=AGAINST).numpy()
    np.testing.assert_allclose(scores, expected[:, [groups.index(g) for g in named]], atol=1e-5)
    assert {group_and_round(m)[0] for m in grid.messages(records.SCORE)} == set(named)
    own = [named[row % 2] for row in range(5)]
    scores = reward.score(PROMPTS, RESPONSES, group=own, against=AGAINST).numpy()
    wanted = [expected[row, groups.index(group)] for row, group in enumerate(own)]
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    for unknown, message in (
        (["Northern nurse"], "Did you mean 'Northern nurses'"),
        ([], "nobody"),
    ):
        with pytest.raises(RewardError, match=message):
            reward.scores(PROMPTS, RESPONSES, unknown)


# -- as the model of reward functions --------------------------------------------------------------


@pytest.mark.parametrize("rule", AGGREGATIONS)
def test_plural_rewards_are_those_of_the_local_model(rule: str) -> None:
    config = tiny_config()
    federated = PluralReward(reward_over(InProcessGrid(config), config), aggregation=rule)
    local = PluralReward(local_model(config), aggregation=rule)
    completions = ["", *RESPONSES[1:]]
    np.testing.assert_allclose(
        federated(PROMPTS, completions), local(PROMPTS, completions), atol=1e-4
    )
    assert federated.num_floored == local.num_floored == 1


def test_rewards_of_survey_answers_ask_all_groups_once() -> None:
    config = tiny_config()
    grid = InProcessGrid(config)
    federated = SurveyReward(reward_over(grid, config), [NURSES, "Northern students"])
    local = SurveyReward(local_model(config), [NURSES, "Northern students"])
    questions = [
        Question("Work less?", ("Yes", "No", "Perhaps")),
        Question("Trams?", ("Yes", "No")),
    ]
    federated.prepare(questions)
    local.prepare(questions)
    for question in questions:
        np.testing.assert_allclose(
            federated.of_options(question), local.of_options(question), atol=1e-5
        )
        assert np.ptp(local.of_options(question)) > 1e-3
    assert len(grid.messages(records.SCORE)) == 4  # one for each group


def test_trls_grpo_trains_with_groups_that_score_at_home(tmp_path: Path) -> None:
    """Step by step the rewards are the local model's, so that the trained policy is the same."""

    def train(model: ScoringModel) -> tuple[list[float], list[torch.Tensor]]:
        tokenizer = make_tokenizer()
        trainer = GRPOTrainer(
            model=make_policy(tokenizer),
            reward_funcs=PluralReward(model, aggregation="min"),
            args=GRPOConfig(
                output_dir=str(tmp_path),
                max_steps=3,
                per_device_train_batch_size=4,
                num_generations=2,
                max_completion_length=4,
                learning_rate=0.01,
                use_cpu=True,
                bf16=False,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["Best drink?", "Best meal?"]}),
            processing_class=tokenizer,
        )
        trainer.train()
        rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
        return rewards, [p.detach() for p in trainer.model.parameters()]

    config = tiny_config()
    grid = InProcessGrid(config)
    rewards, parameters = train(reward_over(grid, config))
    expected, trained = train(local_model(config))
    assert len(rewards) == 3 and len(grid.messages(records.SCORE)) == 3 * 4
    np.testing.assert_allclose(rewards, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-3
    for given, wanted in zip(parameters, trained, strict=True):
        torch.testing.assert_close(given, wanted, atol=1e-3, rtol=0)


# -- groups that do not answer as they should ------------------------------------------------------


def scores_changed(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def changed(content: RecordDict) -> None:
        record = content.array_records[records.SCORES]
        record[records.SCORES] = Array(change(record[records.SCORES].numpy().copy()))

    return with_content(changed)


def nan(scores: np.ndarray) -> np.ndarray:
    scores[3] = np.nan
    return scores


def more(content: RecordDict) -> None:
    content["context"] = ConfigRecord({"answers": [0.2, 0.8]})


FAULTS: list[tuple[Fault, str]] = [
    (scores_changed(nan), "its score of response 3 is not finite"),
    (scores_changed(lambda s: s[:-1]), "its scores are float32 of shape (4,), expected"),
    (scores_changed(lambda s: s[:, None]), "its scores are float32 of shape (5, 1), expected"),
    (scores_changed(lambda s: s.astype(np.int64)), "its scores are int64 of shape (5,)"),
    (with_content(more), "its records are ['context', 'scores'], expected 'scores' alone"),
    (with_content(lambda c: c.pop(records.SCORES)), "its records are [], expected 'scores'"),
    (
        with_content(lambda c: c.__setitem__(records.SCORES, MetricRecord({"scores": 1.0}))),
        "expected 'scores' alone, with one array of that name",
    ),
    (lost, "Node unavailable"),
    (silent, "no reply within 0 s"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
def test_a_group_that_fails_twice_is_named(fault: Fault, reason: str) -> None:
    changes = {"train__round_timeout": 0.2} if fault is silent else {}
    reward, grid = faulty(fault, **changes)
    with pytest.raises(RewardError) as error:
        reward.scores(PROMPTS, RESPONSES, against=AGAINST)
    assert "3 of 4 groups scored the responses, expected 4 (score.min-groups)" in str(error.value)
    assert f"Without: {NURSES}: " in str(error.value)
    assert reason in str(error.value)
    asked = [group_and_round(m)[0] for m in grid.messages(records.SCORE)]
    assert asked.count(NURSES) == 2  # evaluation.retries = 1
    assert len(asked) == 5


def test_a_group_that_fails_once_is_asked_again() -> None:
    failed: list[Message] = []

    def once(message: Message, answer: Callable[[Message], Message]) -> Message:
        failed.append(message)
        return lost(message, answer) if len(failed) == 1 else answer(message)

    reward, _ = faulty(once)
    scores = reward.scores(PROMPTS, RESPONSES, against=AGAINST).numpy()
    assert len(failed) == 2
    np.testing.assert_allclose(scores, local_scores(tiny_config())[1], atol=1e-5)


def test_the_others_go_on_where_min_groups_lets_them(capsys: pytest.CaptureFixture[str]) -> None:
    model, grid = faulty(lost, score__min_groups=3, score__batch_size=2)
    reward = PluralReward(model, aggregation="min", against="against")
    told = reward(PROMPTS, RESPONSES, against=AGAINST)
    groups, expected = local_scores(tiny_config())
    others = [index for index, group in enumerate(groups) if group != NURSES]
    np.testing.assert_allclose(told, expected[:, others].min(axis=1), atol=1e-5)
    printed = capsys.readouterr().out
    assert f"3 of 4 groups score 5 responses, without {NURSES}: " in printed
    asked = [group_and_round(m)[0] for m in grid.messages(records.SCORE)]
    assert asked.count(NURSES) == 2  # in the first of three batches, and again; then no more
    scores = model.scores(PROMPTS, RESPONSES).numpy()
    assert np.isnan(scores).all(axis=0).tolist() == [group == NURSES for group in groups]
    with pytest.raises(RewardError, match="0 of 1 groups scored the responses, expected 1"):
        model.score(PROMPTS, RESPONSES, group=NURSES)
    with pytest.raises(RewardError, match="3 of 4 groups scored the responses, expected 4"):
        model.distributions([Question("Work less?", ("Yes", "No"))], group="Northern students")
    grid.fault = None
    assert np.isfinite(model.scores(PROMPTS, RESPONSES).numpy()).all()  # it is asked again


def test_too_few_groups_are_an_error_whatever_min_groups_says() -> None:
    reward, grid = faulty(lost, score__min_groups=4)
    with pytest.raises(RewardError, match="3 of 4 groups scored the responses, expected 4"):
        reward.scores(PROMPTS, RESPONSES)
    grid.fault = only(lost, message_type=records.SCORE)
    with pytest.raises(RewardError, match="0 of 4 groups"):
        reward.scores(PROMPTS, RESPONSES)


def test_a_reply_that_comes_too_late_counts_for_no_later_message() -> None:
    config = tiny_config(train__round_timeout=0.3, score__min_groups=3)
    late: list[Message] = []

    def too_late(message: Message, answer: Callable[[Message], Message]) -> None:
        late.append(answer(message))

    grid = InProcessGrid(config, fault=only(too_late, message_type=records.SCORE, group=NURSES))
    reward = impatient(grid, config)
    assert np.isnan(reward.scores(PROMPTS, RESPONSES, against=AGAINST).numpy()).sum() == 5
    grid.fault = None
    grid.overdue = list(late)  # scores of other responses
    other = [*RESPONSES[1:], RESPONSES[0]]
    scores = reward.scores(PROMPTS, other).numpy()
    fresh = impatient(InProcessGrid(config), config).scores(PROMPTS, other).numpy()
    np.testing.assert_array_equal(scores, fresh)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (([], []), "no responses to score"),
        ((["?", "?"], ["a", " "]), "response 1 is empty"),
        ((["?"], ["a", "b"]), "2 responses to 1 prompts"),
        ((["?"], ["a"], [["a"]]), "holds nothing but the response"),
        ((["?"], ["\ud800"]), "Response 0, or its prompt.*UTF-8"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anybody_is_asked(
    asked: tuple[Any, ...], message: str
) -> None:
    config = tiny_config()
    grid = InProcessGrid(config)
    reward = reward_over(grid, config)
    with pytest.raises(RewardError, match=message):
        reward.scores(asked[0], asked[1], against=asked[2] if len(asked) > 2 else None)
    assert not grid.messages(records.SCORE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score__groups": "Northern nurse"}, "Did you mean 'Northern nurses'?"),
        ({"score__min_groups": 5}, "score.min-groups = 5: expected at most 4"),
    ],
)
def test_groups_that_cannot_be_asked_are_an_error(changes: dict[str, Any], message: str) -> None:
    config = tiny_config(**changes)
    with pytest.raises(RewardError) as error:
        reward_over(InProcessGrid(config), config)
    assert message in str(error.value)


def test_another_number_of_heads_is_an_error_though_all_parameters_fit() -> None:
    config = tiny_config(predictor__num_heads=4)
    with pytest.raises(ConfigError, match=r"predictor\.num-heads = 4: expected 2"):
        FederatedRewardModel.connect(InProcessGrid(config), config, predictor_of(tiny_config()))


def test_another_encoder_than_the_predictors_is_an_error() -> None:
    config = tiny_config()
    predictor = predictor_of(config)
    predictor.encoder["fingerprint"] = "another"
    with pytest.raises(EncoderError, match=r"features of another, but the groups'.*hashing-16"):
        FederatedRewardModel.connect(InProcessGrid(config), config, predictor)


# -- nodes of their own ----------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(connecting, "GRACE_SECONDS", 0.1)


@pytest.mark.usefixtures("quick")
def test_nodes_of_their_own_score_where_their_owners_allow_it(tmp_path: Path) -> None:
    simulated = tiny_config()
    grid = HomeGrid(simulated, tmp_path, nodes__min_available=4, nodes__patience=20)
    reward = FederatedRewardModel.connect(grid, grid.config, predictor_of(simulated))
    with pytest.raises(RewardError, match=r"0 of 4 groups.*allow-scoring=true"):
        reward.scores(PROMPTS, RESPONSES, against=AGAINST)
    for context in grid.contexts.values():
        context.node_config["allow-scoring"] = True
    scores = reward.scores(PROMPTS, RESPONSES, against=AGAINST).numpy()
    np.testing.assert_allclose(scores, local_scores(simulated)[1], atol=1e-5)


@pytest.mark.usefixtures("quick")
def test_a_node_that_is_away_is_named(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4, nodes__patience=20)
    reward = FederatedRewardModel.connect(grid, grid.config, predictor_of(tiny_config()))
    grid.away.add(grid.node_of[NURSES])
    for context in grid.contexts.values():
        context.node_config["allow-scoring"] = True
    with pytest.raises(RewardError, match=f"{NURSES}: its node is not connected"):
        reward.scores(PROMPTS, RESPONSES, against=AGAINST)


@pytest.mark.usefixtures("quick")
def test_nodes_that_do_not_come_are_an_error(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=5, nodes__patience=0.1)
    with pytest.raises(PopulationError, match="of 5 groups are here"):
        FederatedRewardModel.connect(grid, grid.config, predictor_of(tiny_config()))


# -- as a run of the ServerApp ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with a predictor, and a file of responses."""
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    predictor_of(tiny_config()).save_pretrained(tmp_path / "predictor")
    rows = zip(PROMPTS, RESPONSES, AGAINST, strict=True)
    lines = [json.dumps({"prompt": p, "response": r, "against": a}) for p, r, a in rows]
    (tmp_path / "rollouts.jsonl").write_text("\n".join(lines))
    return tmp_path


def scoring_config(**changes: Any) -> RunConfig:
    given = {"score__rollouts": "rollouts.jsonl", "score__predictor": "predictor"} | changes
    return tiny_config(run__directory="run", **given)


def run_app(config: RunConfig, fault: Fault | None = None) -> InProcessGrid:
    grid = InProcessGrid(config, fault=fault)
    flat = config.to_flat()
    app(grid, Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config=flat))
    return grid


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("engine", ["flower", "cohort"])
def test_a_run_writes_every_score(folder: Path, engine: str) -> None:
    config = scoring_config(score__aggregation="min", engine__name=engine)
    grid = run_app(config)
    groups, expected = local_scores(tiny_config())
    entries = read(folder / "run" / "scores.jsonl")
    assert [entry["prompt"] for entry in entries] == PROMPTS
    assert [entry["response"] for entry in entries] == RESPONSES
    assert [entry["against"] for entry in entries] == AGAINST
    assert all(list(entry["scores"]) == groups for entry in entries)
    found = np.array([list(entry["scores"].values()) for entry in entries])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose([e["score"] for e in entries], expected.min(axis=1), atol=1e-5)
    status = json.loads((folder / "run" / "status.json").read_text())
    assert status["status"] == "completed"
    assert bool(grid.messages(records.SCORE)) == (engine == "flower")
    assert not grid.messages("train")
    assert not (folder / "run" / "metrics.jsonl").exists()


def test_a_run_that_fails_says_why_and_writes_no_scores(folder: Path) -> None:
    fault = only(lost, message_type=records.SCORE, group=NURSES)
    with pytest.raises(RewardError):
        run_app(scoring_config(score__output="scores.jsonl"), fault)
    status = json.loads((folder / "run" / "status.json").read_text())
    assert status["status"] == "failed"
    assert NURSES in status["reason"]
    assert not (folder / "scores.jsonl").exists()


def test_responses_alone_are_scored_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    (folder / "alone.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run_app(scoring_config(score__rollouts="alone.jsonl"))
    assert "WARNING: score.rollouts has no column against" in capsys.readouterr().out
    _, expected = local_scores(tiny_config(), None)
    entries = read(folder / "run" / "scores.jsonl")
    np.testing.assert_allclose([e["score"] for e in entries], expected.mean(axis=1), atol=1e-5)
    assert all("against" not in entry for entry in entries)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"score__rollouts": "gone.csv"}, RewardError, "gone.csv': there is no such file"),
        ({"score__predictor": "gone"}, RunDirectoryError, "gone holds no predictor"),
        ({"score__output": "rollouts.jsonl"}, RewardError, "rollouts.jsonl exists already"),
        ({"score__output": "gone/x.jsonl"}, RewardError, "gone is missing"),
        ({"score__groups": "Northern nurse"}, UserError, "Did you mean 'Northern nurses'?"),
        ({"predictor__num_heads": 4}, UserError, "predictor.num-heads = 4: expected 2"),
        ({"predictor__width": 32}, UserError, "predictor.width = 32: expected 16"),
        ({"predictor__population_weight": 1.0}, UserError, "population-weight = 1.0: expected 0.0"),
        ({"encoder__dimension": 17}, EncoderError, "features of hashing-16, but"),
    ],
)
def test_a_run_that_cannot_score_is_refused_before_a_node_is_asked(
    folder: Path, changes: dict[str, Any], kind: type[UserError], message: str
) -> None:
    config = scoring_config(**changes)
    grid = InProcessGrid(config)
    flat = config.to_flat()
    with pytest.raises(kind) as error:
        app(grid, Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config=flat))
    assert message in str(error.value)
    assert not grid.received
    assert not (folder / "run").exists()
