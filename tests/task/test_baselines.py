import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from task.baselines import population_sums, score_baselines, seen_question_keys
from task.config import DataConfig, EncoderConfig, EvaluationConfig, RunConfig
from task.evaluation import evaluation_splits
from task.features import load_group
from task.survey import Question, build_survey

QUESTIONS = [Question(f"Q{q}?", ("yes", "no")) for q in range(4)]
SURVEY = build_survey(
    QUESTIONS,
    [
        ("A", 0, [0.2, 0.8]),
        ("A", 1, [1.0, 0.0]),
        ("B", 0, [0.6, 0.4]),
        ("B", 2, [0.5, 0.5]),
        ("C", 0, [0.0, 1.0]),
        ("C", 3, [0.3, 0.7]),
    ],
)
ROLES = {"A": "train", "B": "train", "C": "held-out"}
KEYS = {group: SURVEY.question_keys[answers.questions] for group, answers in SURVEY.answers.items()}


def test_the_population_mean_averages_the_training_groups_on_each_question():
    means = population_sums(SURVEY, ROLES).mean()
    assert set(means) == {0, 1, 2}
    assert means[0] == pytest.approx([0.4, 0.6])
    assert means[1] == pytest.approx([1.0, 0.0])
    assert means[2] == pytest.approx([0.5, 0.5])


def test_the_population_mean_can_leave_a_training_group_out():
    means = population_sums(SURVEY, ROLES).mean_of_others(SURVEY.answers["A"])
    assert set(means) == {0}  # of its own questions; nobody else was asked the other one
    assert means[0] == pytest.approx([0.6, 0.4])


def test_for_a_held_out_group_a_question_is_seen_when_one_training_group_was_asked():
    seen = seen_question_keys(KEYS, ROLES)["held-out"]
    assert set(seen) == {QUESTIONS[q].key for q in (0, 1, 2)}


def test_for_a_training_group_a_question_is_seen_when_another_one_was_asked_too():
    seen = seen_question_keys(KEYS, ROLES)["train"]
    assert set(seen) == {QUESTIONS[0].key}


def test_a_question_asked_twice_of_one_group_is_not_seen_by_another():
    doubled = {"A": np.concatenate((KEYS["A"], KEYS["A"])), "B": KEYS["B"]}
    seen = seen_question_keys(doubled, {"A": "train", "B": "train"})["train"]
    assert set(seen) == {QUESTIONS[0].key}


@pytest.fixture
def config(tmp_path):
    """Three training groups and a held-out one, who were not all asked the same."""
    rows = ["group,question,option,share"]
    random = np.random.default_rng(0)
    for group, asked in {"A": range(8), "B": range(3, 11), "C": range(6), "D": range(12)}.items():
        for question in asked:
            share = random.random()
            rows += [f"{group},Q{question}?,yes,{share}", f"{group},Q{question}?,no,{1 - share}"]
    (tmp_path / "survey.csv").write_text("\n".join(rows))
    return RunConfig(
        data=DataConfig(
            source="table",
            path=str(tmp_path / "survey.csv"),
            held_out_groups="D",
            held_back_fraction=0.5,
        ),
        encoder=EncoderConfig(dimension=4),
        evaluation=EvaluationConfig(num_context=3, num_draws=2),
    )


def test_baselines_score_the_questions_that_the_predictor_is_scored_on(config):
    scores = score_baselines(config)
    assert set(scores) == {"uniform", "population_mean"}
    groups = {group: load_group(config, group) for group in "ABCD"}
    answers = {
        group: {int(key): data.answers.distribution(i) for i, key in enumerate(data.question_keys)}
        for group, data in groups.items()
    }
    for group, data in groups.items():
        others = [answers[other] for other in "ABC" if other != group]
        uniform, mean = [], {True: [], False: []}
        for split in evaluation_splits(data, config.evaluation, 0):
            for question in split.target:
                key = int(data.question_keys[question])
                known = [other[key] for other in others if key in other]
                truth = answers[group][key]
                uniform.append(1 - jensenshannon([0.5, 0.5], truth))
                guess = np.mean(known, axis=0) if known else [0.5, 0.5]
                mean[bool(known)].append(1 - jensenshannon(guess, truth))
        assert scores["uniform"][group].all.value == pytest.approx(np.mean(uniform), abs=1e-6)
        ours = scores["population_mean"][group]
        assert ours.all.value == pytest.approx(np.mean(mean[True] + mean[False]), abs=1e-6)
        assert (ours.seen.weight, ours.new.weight) == (len(mean[True]), len(mean[False]))
        assert ours.seen.total == pytest.approx(sum(mean[True]), abs=1e-6)
    assert scores["population_mean"]["D"].new.weight > 0
