import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.config import DataConfig, EncoderConfig, EvaluationConfig, RunConfig
from task.encoder import HashingEncoder
from task.features import FeatureSums, feature_sums, group_data, load_group, option_rows
from task.sources import load_survey
from tests.task.examples import make_survey

CONFIG = RunConfig(
    data=DataConfig(synthetic_groups=5, synthetic_questions=20, synthetic_answered=12),
    encoder=EncoderConfig(dimension=16),
    evaluation=EvaluationConfig(num_context=4),
)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_option_rows_equal_a_loop(lengths, data):
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    positions = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    rows = option_rows(starts, np.array(lengths), np.array(positions, dtype=np.int64))
    assert rows.tolist() == [starts[p] + o for p in positions for o in range(lengths[p])]


def test_feature_sums_of_parts_add_up_to_those_of_the_whole():
    rows = np.random.default_rng(0).normal(5, 3, (60, 4)).astype(np.float32)
    merged = sum((FeatureSums.of(part) for part in np.split(rows, [7, 30])), FeatureSums.zero(4))
    whole = FeatureSums.of(rows)
    assert merged.count == whole.count == 60
    np.testing.assert_allclose(merged.total, whole.total)
    np.testing.assert_allclose(merged.squares, whole.squares)


def test_mean_and_deviation_from_sums_equal_numpys():
    rows = np.random.default_rng(0).normal(5, 3, (60, 4)).astype(np.float32)
    mean, std = FeatureSums.of(rows).mean_and_std()
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, rows.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_a_constant_feature_gets_deviation_one(value):
    rows = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    rows[:, 1] = value
    _, std = FeatureSums.of(rows).mean_and_std()
    assert std[1] == 1
    assert std[0] == pytest.approx(rows[:, 0].std(), rel=1e-5)


def test_a_training_groups_held_back_questions_are_disjoint_from_the_others_and_cover_them():
    data = group_data(*survey_and_features(), "A", "train", DataConfig(), seed=0)
    assert sorted([*data.trainable, *data.held_back]) == list(range(20))
    assert len(data.held_back) == 2


def test_a_held_out_group_holds_nothing_back():
    data = group_data(*survey_and_features(), "A", "held-out", DataConfig(), seed=0)
    assert len(data.held_back) == 0
    assert data.trainable.tolist() == list(range(20))


def test_held_back_questions_follow_the_seed_and_differ_between_groups():
    def held_back(group, seed):
        data = DataConfig(held_back_fraction=0.5)
        return group_data(*survey_and_features(), group, "train", data, seed).held_back.tolist()

    assert held_back("A", 0) == held_back("A", 0)
    assert held_back("A", 0) != held_back("A", 1)
    assert held_back("A", 0) != held_back("B", 0)


def test_rows_and_keys_belong_to_the_groups_own_questions():
    survey, features = survey_and_features()
    data = group_data(survey, features, "B", "train", DataConfig(), seed=0)
    texts = [(q.text, option) for q in survey.questions for option in q.options]
    expected = [
        (survey.questions[p].text, option)
        for p in survey.answers["B"].questions
        for option in survey.questions[p].options
    ]
    assert [texts[row] for row in data.rows] == expected
    assert data.question_keys.tolist() == [
        survey.questions[p].key for p in survey.answers["B"].questions
    ]


def test_feature_sums_of_a_group_cover_its_own_options():
    survey, features = survey_and_features()
    sums = feature_sums(group_data(survey, features, "B", "train", DataConfig(), seed=0))
    rows = [3 * p + o for p in survey.answers["B"].questions for o in range(3)]
    assert sums.count == len(rows) == 75
    np.testing.assert_allclose(sums.total, features[rows].sum(axis=0), rtol=1e-5)


def test_load_group_gives_every_group_its_role_and_its_questions_features():
    survey = load_survey(CONFIG)
    roles = []
    for group in survey.answers:
        data = load_group(CONFIG, group)
        roles.append(data.role)
        questions = [survey.questions[p] for p in survey.answers[group].questions]
        expected = HashingEncoder(CONFIG.encoder).encode(questions)
        np.testing.assert_array_equal(data.features[data.rows], expected)
    assert sorted(roles) == ["held-out"] * 4 + ["train"]


def test_groups_of_a_machine_share_one_array_of_features():
    first, second = (load_group(CONFIG, g) for g in list(load_survey(CONFIG).answers)[:2])
    assert first.features is second.features
    assert not first.features.flags.writeable


def test_load_group_of_a_group_that_takes_no_part_is_a_key_error():
    with pytest.raises(KeyError):
        load_group(CONFIG, "Martians")


def survey_and_features():
    survey = make_survey({"A": 20, "B": 25})
    return survey, np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
