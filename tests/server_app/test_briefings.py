import numpy as np

from server_app.briefings import Briefings
from server_app.nodes.discovery import discover_clients
from task import records
from task.config import RunConfig
from task.encoder import saved_settings
from task.predictor import PreferencePredictor
from tests.server_app.in_process_grid import RUN_KEY, InProcessGrid, tiny_config


def briefings(config: RunConfig):
    found = discover_clients(InProcessGrid(config), timeout=60)
    predictor = PreferencePredictor.initial(
        config.predictor, found.feature_sums, saved_settings(config.encoder), config.run.seed
    )
    return Briefings(config, found, predictor, RUN_KEY), found, predictor


def test_a_train_message_says_whom_it_is_for_and_how_fast_to_learn() -> None:
    config = tiny_config()
    brief, found, _ = briefings(config)
    added = brief(found.clients[1], "train", 2)
    assert dict(added[records.BRIEFING]) == {
        "group": "Northern nurses",
        "round": 2,
        "run-key": RUN_KEY,
        "learning-rates": config.train.learning_rates(2),
    }
    assert set(added) == {records.BRIEFING, records.FEATURE_STATISTICS}


def test_an_evaluate_message_says_which_questions_training_has_seen() -> None:
    config = tiny_config()
    brief, found, predictor = briefings(config)
    by_role = {client.role: brief(client, "evaluate", 1) for client in found.clients}
    for role, added in by_role.items():
        assert dict(added[records.BRIEFING]).keys() == {"group", "round", "run-key"}, role
        mean = added[records.FEATURE_STATISTICS][records.FEATURE_MEAN].numpy()
        np.testing.assert_array_equal(mean, predictor.feature_mean.numpy())
        assert len(added[records.SEEN_QUESTIONS][records.QUESTION_KEYS].numpy()) > 0


def test_messages_share_their_large_records() -> None:
    """So that they are sized, compared and read once, not once per client."""
    brief, found, _ = briefings(tiny_config())
    first, second = (
        brief(client, "evaluate", 1) for client in (found.clients[0], found.clients[1])
    )
    assert first[records.FEATURE_STATISTICS] is second[records.FEATURE_STATISTICS]
    assert first[records.SEEN_QUESTIONS] is second[records.SEEN_QUESTIONS]
    assert first[records.BRIEFING] is not second[records.BRIEFING]
