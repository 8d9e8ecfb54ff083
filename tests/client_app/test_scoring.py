"""`score`: a group's client scores responses from its own answers, and tells nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from client_app import scoring
from task import records
from task.config import RunConfig
from task.contexts import Context
from task.evaluation import evaluation_splits
from task.features import load_group
from task.population import PopulationAnswers
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.sources import load_survey
from tests.client_app.test_app import predictor_of, statistics
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import RUN_KEY, InProcessGrid, tiny_config

GROUP, HELD_OUT = "Northern nurses", "Northern students"
PROMPTS = ["How should the river be crossed?", "How should the river be crossed?", "Work less?"]
RESPONSES = ["By a tram.", "By a bridge.", "Yes, on Fridays."]
AGAINST = [["By a bridge."], ["By a tram.", "Not at all."], ["No.", "Yes, on Fridays.", "Maybe."]]


def content_for(
    config: RunConfig,
    group: str,
    predictor: PreferencePredictor,
    against: list[list[str]] | None = AGAINST,
) -> dict[str, Any]:
    mean, std = statistics(config)
    rollouts = ConfigRecord({records.PROMPTS: PROMPTS, records.RESPONSES: RESPONSES})
    if against:
        rollouts[records.AGAINST] = [text for texts in against for text in texts]
        rollouts[records.AGAINST_LENGTHS] = [len(texts) for texts in against]
    return {
        records.ARRAYS: ArrayRecord(dict(predictor.named_parameters())),
        records.BRIEFING: ConfigRecord(
            {records.GROUP: group, records.ROUND: 1, records.RUN_KEY: RUN_KEY}
        ),
        records.FEATURE_STATISTICS: ArrayRecord({"mean": Array(mean), "std": Array(std)}),
        records.ROLLOUTS: rollouts,
    }


def answer(grid: InProcessGrid, content: dict[str, Any], node_id: int | None = None) -> Message:
    message = Message(
        RecordDict(content), node_id or next(iter(grid.contexts)), records.SCORE, group_id="1"
    )
    (reply,) = grid.send_and_receive([message])
    return reply


def scores_of(reply: Message) -> np.ndarray:
    assert not reply.has_error(), reply.error
    return reply.content.array_records["scores"]["scores"].numpy()


def local_scores(
    config: RunConfig,
    group: str,
    predictor: PreferencePredictor,
    against: list[list[str]] | None = AGAINST,
) -> np.ndarray:
    """What the group's first seeded context makes of the responses, without Flower."""
    data = load_group(config, group)
    draw = evaluation_splits(data, config.evaluation, config.run.seed)[0]
    context = Context.of_data(data, draw.context)
    model = RewardModel(predictor, {group: context}, encoder=config.encoder, device="cpu")
    return model.score(PROMPTS, RESPONSES, group=group, against=against).numpy()


@pytest.mark.parametrize("group", [GROUP, HELD_OUT])
@pytest.mark.parametrize("against", [AGAINST, None], ids=["against", "alone"])
def test_a_score_is_the_reward_models(group: str, against: list[list[str]] | None) -> None:
    config = tiny_config(evaluation__num_draws=3)
    predictor = predictor_of(config)
    scores = scores_of(
        answer(InProcessGrid(config), content_for(config, group, predictor, against))
    )
    expected = local_scores(config, group, predictor, against)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert len(set(np.round(expected, 3))) == len(RESPONSES)  # there was something to tell apart


def test_groups_differ_by_their_answers() -> None:
    config = tiny_config()
    predictor, grid = predictor_of(config), InProcessGrid(config)
    one, other = (
        scores_of(answer(grid, content_for(config, group, predictor)))
        for group in (GROUP, HELD_OUT)
    )
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("against", [AGAINST, None], ids=["against", "alone"])
def test_a_reply_is_one_number_per_response_and_nothing_else(
    against: list[list[str]] | None,
) -> None:
    config = tiny_config()
    reply = answer(InProcessGrid(config), content_for(config, GROUP, predictor_of(config), against))
    assert set(reply.content) == {"scores"}
    assert not reply.content.config_records
    assert not reply.content.metric_records
    (array,) = reply.content.array_records["scores"].values()
    assert (array.numpy().shape, array.dtype) == ((len(RESPONSES),), "float32")
    assert reply.metadata.group_id == "1"


def test_the_populations_answers_are_mixed_in_and_forgotten_after() -> None:
    config = tiny_config(predictor__population_weight=2.0)
    predictor, data = predictor_of(config), load_group(config, GROUP)
    answers = PopulationAnswers.of(data)
    question = load_survey(config).questions[int(data.answers.questions[0])]
    content = content_for(config, HELD_OUT, predictor, [list(question.options)])
    content[records.ROLLOUTS][records.PROMPTS] = [question.text]
    content[records.ROLLOUTS][records.RESPONSES] = [question.options[0]]
    grid = InProcessGrid(config)
    without = float(scores_of(answer(grid, content))[0])
    arrays = ArrayRecord({name: Array(array) for name, array in answers.to_arrays().items()})
    mixed = float(scores_of(answer(grid, {**content, records.POPULATION: arrays}))[0])
    # (p + 2 y) / 3 of the first option against all others
    share = (1 / (1 + np.exp(-without)) + 2 * data.answers.distribution(0)[0]) / 3
    assert mixed == pytest.approx(np.log(share / (1 - share)), abs=1e-4)
    assert float(scores_of(answer(grid, content))[0]) == pytest.approx(without, abs=1e-6)


def test_the_encoder_stays_loaded_from_one_message_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(encoder__dimension=17)
    made: list[object] = []
    real = scoring.FeatureCache

    def counted(encoder: Any) -> object:
        made.append(encoder)
        return real(encoder)

    monkeypatch.setattr(scoring, "FeatureCache", counted)
    predictor, grid = predictor_of(config), InProcessGrid(config)
    for group in (GROUP, HELD_OUT, GROUP):
        scores_of(answer(grid, content_for(config, group, predictor)))
    assert made == [config.encoder]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"privacy__unit": "client", "strategy__clipping_norm": 1.0},
        {"privacy__unit": "question"},
    ],
)
def test_units_that_do_not_account_for_scores_are_refused(settings: dict[str, Any]) -> None:
    config = tiny_config(**settings)
    reply = answer(InProcessGrid(config), content_for(config, GROUP, predictor_of(config)))
    unit = settings["privacy__unit"]
    assert f"privacy.unit = {unit!r}: expected 'none' or 'member'" in reply.error.reason


def home(tmp_path: Path, **settings: Any) -> tuple[HomeGrid, int, dict[str, Any]]:
    """Nodes of their own, one of them, and a message for its group."""
    grid = HomeGrid(tiny_config(), tmp_path, **settings)
    content = content_for(grid.config, GROUP, predictor_of(grid.config))
    return grid, grid.node_of[GROUP], content


def test_a_node_of_its_own_scores_only_where_its_owner_allows_it(tmp_path: Path) -> None:
    grid, node, content = home(tmp_path)
    reason = answer(grid, content, node).error.reason
    assert "enough scores would tell its answers" in reason
    assert "--node-config allow-scoring=true" in reason
    grid.contexts[node].node_config["allow-scoring"] = True
    scores = scores_of(answer(grid, content, node))
    # its file holds what the simulation's group answers
    expected = local_scores(tiny_config(), GROUP, predictor_of(grid.config))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_unit_member_is_scored_from_noisy_histograms_and_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[list[str]] = []
    monkeypatch.setattr(
        scoring, "charge_histograms", lambda config, context, groups: charged.append(list(groups))
    )
    settings = {
        "privacy__unit": "member",
        "privacy__noise_multiplier": 50.0,
        "evaluation__num_context": 5,
    }
    config = tiny_config(**settings)
    predictor = predictor_of(config)
    scores = scores_of(answer(InProcessGrid(config), content_for(config, GROUP, predictor)))
    np.testing.assert_allclose(scores, local_scores(config, GROUP, predictor), atol=1e-5)
    assert np.abs(scores - local_scores(tiny_config(), GROUP, predictor)).max() > 1e-4
    assert charged == [[GROUP]]
