"""Sums of the population's answers, and how they are mixed into predictions."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from task.baselines import POPULATION_MEAN, score_baselines, seen_question_keys
from task.config import (
    DataConfig,
    EncoderConfig,
    EvaluationConfig,
    PredictorSettings,
    RunConfig,
)
from task.encoder import saved_settings
from task.episodes import Split, make_episode
from task.errors import ConfigError
from task.evaluation import (
    evaluate_group,
    evaluation_splits,
    predict_with,
    score_episode,
    score_splits,
)
from task.features import FeatureSums, group_data, load_group, load_roles
from task.metrics import GroupScores
from task.population import PopulationAnswers, PopulationPrior
from task.predicting import predict_distributions
from task.predictor import PreferencePredictor
from task.survey import Question, build_survey
from tests.task.examples import SMALL, make_predictor, make_survey

TEA = Question("Tea?", ("yes", "no"))
CAKE = Question("Cake?", ("often", "never", "a little"))
MILK = Question("Milk?", ("some", "none"))
TEA_TURNED = Question("Tea?", ("no", "yes"))
CAKE_TURNED = Question("Cake?", ("a little", "never", "often"))


def group_of(asked, *, group="A", role="train"):
    """A client's data as it reads them from a file of its own; (question, shares) pairs."""
    survey = build_survey(
        [question for question, _ in asked],
        [(group, position, shares) for position, (_, shares) in enumerate(asked)],
    )
    size = int(survey.option_offsets[-1])
    features = np.random.default_rng(size).normal(size=(size, 5)).astype(np.float32)
    return group_data(survey, features, group, role, DataConfig(), seed=0)


def answers_of(asked):
    return PopulationAnswers.of(group_of(asked))


def sums_by_option(answers, question):
    """Count and sum of each option; options that occur twice are numbered."""
    count, totals = answers.sums(question.key)
    options = sorted(question.options)
    named = [f"{option}{options[:i].count(option) or ''}" for i, option in enumerate(options)]
    return count, dict(zip(named, totals.tolist(), strict=True))


def position_of(data, question):
    (position,) = np.flatnonzero(data.question_keys == question.key)
    return int(position)


def mix(prior, data, by_question):
    """Mix the network's distributions of these questions, given in the client's order."""
    width = max(len(shares) for shares in by_question.values())
    predicted = np.zeros((len(by_question), width), dtype=np.float32)
    for row, shares in zip(predicted, by_question.values(), strict=True):
        row[: len(shares)] = shares
    questions = np.array([position_of(data, question) for question in by_question])
    return predicted, prior.mix(predicted, data, questions)


def prior_of(*groups, weight=1.0):
    return PopulationPrior(PopulationAnswers.merged(map(PopulationAnswers.of, groups)), weight)


def same(first, second):
    """Equal to the bit, and of the same types."""
    ours, theirs = first.to_arrays(), second.to_arrays()
    return ours.keys() == theirs.keys() and all(
        (ours[name].dtype, ours[name].tobytes()) == (theirs[name].dtype, theirs[name].tobytes())
        for name in ours
    )


# -- The order of options --------------------------------------------------------------------------


def test_ranks_say_where_an_option_lies_among_the_sorted_ones():
    assert TEA.ranks == (1, 0)
    assert CAKE.ranks == (2, 1, 0)
    assert Question("?", ("b", "c", "a")).ranks == (1, 2, 0)


def test_options_with_the_same_text_are_ranked_in_their_order():
    assert Question("?", ("b", "a", "b", "a")).ranks == (2, 0, 3, 1)


@given(st.lists(st.text(max_size=2), min_size=1, max_size=7))
def test_ranks_sort_the_options(options):
    ranks = Question("?", tuple(options)).ranks
    placed = dict(zip(ranks, options, strict=True))
    assert [placed[rank] for rank in range(len(options))] == sorted(options)


def test_a_surveys_ranks_go_question_after_question_and_a_groups_with_its_own():
    survey = build_survey([TEA, CAKE, MILK], [("A", 2, [0.5, 0.5]), ("A", 1, [0.2, 0.3, 0.5])])
    assert survey.option_ranks.tolist() == [1, 0, 2, 1, 0, 1, 0]
    features = np.zeros((7, 2), np.float32)
    data = group_data(survey, features, "A", "held-out", DataConfig(), seed=0)
    expected = {CAKE.key: [2, 1, 0], MILK.key: [1, 0]}
    assert data.option_ranks.tolist() == [
        rank for key in data.question_keys.tolist() for rank in expected[key]
    ]


# -- Sums ------------------------------------------------------------------------------------------


def test_sums_and_counts_are_those_by_hand():
    first = answers_of([(TEA, [0.25, 0.75]), (CAKE, [0.5, 0.125, 0.375])])
    second = answers_of([(TEA, [1.0, 0.0]), (MILK, [0.5, 0.5])])
    third = answers_of([(TEA, [0.5, 0.5])])
    merged = PopulationAnswers.merged([first, second, third])
    assert sums_by_option(merged, TEA) == (3, {"yes": 1.75, "no": 1.25})
    assert sums_by_option(merged, CAKE) == (1, {"often": 0.5, "never": 0.125, "a little": 0.375})
    assert sums_by_option(merged, MILK) == (1, {"some": 0.5, "none": 0.5})
    assert merged.keys.tolist() == sorted([TEA.key, CAKE.key, MILK.key])
    assert merged.starts.tolist()[0] == 0
    assert merged.starts.tolist()[-1] == len(merged.totals) == 7


def test_a_group_discloses_each_of_its_questions_once_in_the_shared_order():
    answers = answers_of([(CAKE, [0.5, 0.125, 0.375]), (TEA, [0.25, 0.75])])
    assert answers.counts.tolist() == [1, 1]
    assert sums_by_option(answers, CAKE) == (1, {"often": 0.5, "never": 0.125, "a little": 0.375})
    assert sums_by_option(answers, TEA) == (1, {"yes": 0.25, "no": 0.75})


def test_options_in_another_order_on_another_client_add_up_with_their_own_kind():
    first = answers_of([(TEA, [0.25, 0.75]), (CAKE, [0.5, 0.125, 0.375])])
    second = answers_of([(CAKE_TURNED, [0.25, 0.0, 0.75]), (TEA_TURNED, [0.0, 1.0])])
    merged = PopulationAnswers.merged([first, second])
    assert sums_by_option(merged, TEA) == (2, {"yes": 1.25, "no": 0.75})
    assert sums_by_option(merged, CAKE) == (2, {"often": 1.25, "never": 0.125, "a little": 0.625})
    assert same(answers_of([(TEA, [0.25, 0.75])]), answers_of([(TEA_TURNED, [0.75, 0.25])]))


def test_a_question_that_nobody_was_asked_has_no_sums():
    answers = answers_of([(TEA, [0.25, 0.75])])
    assert answers.sums(MILK.key) is None
    assert answers.sums(-(2**63)) is None
    assert answers.sums(2**63 - 1) is None
    assert PopulationAnswers.merged([]).sums(TEA.key) is None


def test_options_with_the_same_text_are_added_up_in_their_order():
    twice, turned = Question("?", ("x", "y", "x")), Question("?", ("x", "x", "y"))
    merged = PopulationAnswers.merged(
        [answers_of([(twice, [0.5, 0.25, 0.25])]), answers_of([(turned, [0.125, 0.375, 0.5])])]
    )
    assert sums_by_option(merged, twice) == (2, {"x": 0.625, "x1": 0.625, "y": 0.75})


def test_a_group_that_was_asked_a_question_twice_counts_twice():
    asked = [(TEA, [0.25, 0.75]), (TEA_TURNED, [1.0, 0.0]), (MILK, [0.5, 0.5])]
    answers = answers_of(asked)
    assert sums_by_option(answers, TEA) == (2, {"yes": 0.25, "no": 1.75})
    assert sums_by_option(answers, MILK) == (1, {"some": 0.5, "none": 0.5})
    merged = PopulationAnswers.merged([answers, answers_of([(TEA, [0.5, 0.5])])])
    assert sums_by_option(merged, TEA) == (3, {"yes": 0.75, "no": 2.25})


POOL = make_survey({"all": 8}, num_questions=8, options=4).questions


@st.composite
def populations(draw):
    """Groups with answers to some of the same questions, the options in an order of their own."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = []
    for number in range(draw(st.integers(1, 5))):
        asked = random.permutation(len(POOL))[: random.integers(1, len(POOL) + 1)]
        turned = [
            Question(POOL[q].text, tuple(random.permutation(POOL[q].options).tolist()))
            for q in asked.tolist()
        ]
        shares = [random.dirichlet(np.full(4, 0.5)) for _ in turned]
        groups.append(group_of(list(zip(turned, shares, strict=True)), group=f"G{number}"))
    return groups


@given(populations())
def test_sums_equal_those_of_exact_fractions(groups):
    merged = PopulationAnswers.merged(map(PopulationAnswers.of, groups))
    exact, counts = {}, {}
    for data in groups:
        for index, key in enumerate(data.question_keys.tolist()):
            start = data.answers.starts[index]
            counts[key] = counts.get(key, 0) + 1
            for share, rank in zip(
                data.answers.distribution(index), data.option_ranks[start:], strict=False
            ):
                place = (key, int(rank))
                exact[place] = exact.get(place, Fraction(0)) + Fraction(float(share))
    assert dict(zip(merged.keys.tolist(), merged.counts.tolist(), strict=True)) == counts
    for (key, rank), total in exact.items():
        assert merged.sums(key)[1][rank] == pytest.approx(float(total), rel=1e-14)
    assert len(merged.totals) == len(exact)


@given(populations(), st.randoms(use_true_random=False))
def test_sums_of_sums_are_sums_whoever_comes_first(groups, random):
    parts = [PopulationAnswers.of(data) for data in groups]
    whole = PopulationAnswers.merged(parts)
    cut = random.randrange(len(parts) + 1)
    nested = [PopulationAnswers.merged(parts[:cut]), PopulationAnswers.merged(parts[cut:])]
    random.shuffle(parts)
    for other in (PopulationAnswers.merged(parts), PopulationAnswers.merged(nested)):
        for name in ("keys", "counts", "starts"):
            np.testing.assert_array_equal(getattr(other, name), getattr(whole, name))
        np.testing.assert_allclose(other.totals, whole.totals, rtol=1e-14)


@given(populations())
def test_adding_up_changes_no_part(groups):
    parts = [PopulationAnswers.of(data) for data in groups]
    for part in parts:
        for array in part.to_arrays().values():
            array.flags.writeable = False  # as Ray's workers get them
    assert same(PopulationAnswers.merged(parts), PopulationAnswers.merged(parts))


# -- Mixing ----------------------------------------------------------------------------------------


def test_mixing_is_the_formula_by_hand():
    asked = [(TEA, [0.25, 0.75]), (CAKE, [0.5, 0.125, 0.375])]
    prior = prior_of(group_of(asked), group_of([(TEA_TURNED, [0.5, 0.5])], group="B"), weight=0.5)
    data = group_of(
        [(TEA_TURNED, [0.1, 0.9]), (CAKE_TURNED, [0.2, 0.2, 0.6])], group="C", role="held-out"
    )
    _, mixed = mix(prior, data, {CAKE_TURNED: [0.25, 0.25, 0.5], TEA_TURNED: [0.5, 0.5]})
    # cake: a little, never, often; (p + 0.5 * y) / 1.5
    assert mixed[0] == pytest.approx([0.4375 / 1.5, 0.3125 / 1.5, 0.75 / 1.5])
    # tea: no, yes; (p + 0.5 * (y_A + y_B)) / 2
    assert mixed[1] == pytest.approx([(0.5 + 0.5 * 1.25) / 2, (0.5 + 0.5 * 0.75) / 2, 0])


def test_a_training_groups_own_answers_are_left_out_of_its_own_predictions():
    own = group_of([(TEA, [1.0, 0.0]), (MILK, [0.75, 0.25])], group="A")
    other = group_of([(TEA_TURNED, [0.75, 0.25])], group="B")
    prior = prior_of(own, other, weight=2.0)
    predicted, mixed = mix(prior, own, {TEA: [0.5, 0.5], MILK: [0.375, 0.625]})
    assert mixed[0] == pytest.approx([(0.5 + 2 * 0.25) / 3, (0.5 + 2 * 0.75) / 3])
    assert mixed[1].tolist() == predicted[1].tolist()  # nobody else was asked
    held_out = replace(own, role="held-out")
    _, mixed = mix(prior, held_out, {TEA: [0.5, 0.5], MILK: [0.375, 0.625]})
    assert mixed[0] == pytest.approx([(0.5 + 2 * 1.25) / 5, (0.5 + 2 * 0.75) / 5])
    assert mixed[1] == pytest.approx([(0.375 + 2 * 0.75) / 3, (0.625 + 2 * 0.25) / 3])


@given(populations(), st.integers(0, 4), st.floats(0.01, 100), st.integers(0, 2**32))
def test_leaving_a_training_group_out_equals_sums_without_it(groups, which, weight, seed):
    data = groups[which % len(groups)]
    others = [each for each in groups if each is not data]
    random = np.random.default_rng(seed)
    predicted = random.dirichlet(np.ones(4), len(data.answers)).astype(np.float32)
    questions = np.arange(len(data.answers))
    left_out = prior_of(*groups, weight=weight).mix(predicted, data, questions)
    never_in = prior_of(*others, weight=weight).mix(
        predicted, replace(data, role="held-out"), questions
    )
    np.testing.assert_allclose(left_out, never_in, rtol=0, atol=1e-12)
    alone = [not any(key in each.question_keys for each in others) for key in data.question_keys]
    np.testing.assert_array_equal(left_out[alone], predicted[alone])


def test_both_answers_of_a_group_that_was_asked_twice_are_left_out():
    own = group_of([(TEA, [1.0, 0.0]), (TEA_TURNED, [1.0, 0.0])])
    other = group_of([(TEA, [0.25, 0.75])], group="B")
    predicted = np.full((2, 2), 0.5, np.float32)
    mixed = prior_of(own, other).mix(predicted, own, np.arange(2))
    by_order = dict(zip([tuple(own.option_ranks[i * 2 :][:2]) for i in (0, 1)], mixed, strict=True))
    assert by_order[TEA.ranks] == pytest.approx([0.375, 0.625])
    assert by_order[TEA_TURNED.ranks] == pytest.approx([0.625, 0.375])
    alone = prior_of(own).mix(predicted, own, np.arange(2))
    np.testing.assert_array_equal(alone, predicted)


def test_options_with_the_same_text_are_mixed_in_their_order():
    twice, turned = Question("?", ("x", "y", "x")), Question("?", ("x", "x", "y"))
    prior = prior_of(group_of([(twice, [0.5, 0.125, 0.375])]))
    data = group_of([(turned, [0.2, 0.2, 0.6])], group="B", role="held-out")
    _, mixed = mix(prior, data, {turned: [0.25, 0.5, 0.25]})
    assert mixed[0] == pytest.approx([0.375, 0.4375, 0.1875])


def test_a_question_that_nobody_was_asked_is_left_to_the_network_bit_for_bit():
    prior = prior_of(group_of([(TEA, [0.25, 0.75])]), weight=1e6)
    data = group_of([(MILK, [0.5, 0.5]), (TEA, [0.5, 0.5])], group="B", role="held-out")
    predicted, mixed = mix(prior, data, {MILK: [0.1, 0.9], TEA: [0.1, 0.9]})
    assert mixed[0].astype(np.float32).tobytes() == predicted[0].tobytes()
    assert mixed[0].tolist() == predicted[0].tolist()
    assert mixed[1] == pytest.approx([0.25, 0.75], abs=1e-5)


def test_a_weight_of_zero_leaves_everything_to_the_network():
    prior = prior_of(group_of([(TEA, [0.25, 0.75])]), weight=0.0)
    data = group_of([(TEA, [0.5, 0.5])], group="B", role="held-out")
    predicted, mixed = mix(prior, data, {TEA: [0.1, 0.9]})
    assert mixed[0].tolist() == predicted[0].tolist()


@given(populations(), st.floats(0.001, 1e6))
def test_mixed_predictions_are_distributions_and_padding_stays_empty(groups, weight):
    prior = prior_of(*groups, weight=weight)
    for role in ("train", "held-out"):
        data = replace(groups[0], role=role)
        predicted = np.zeros((len(data.answers), 6), np.float32)
        predicted[:, :4] = 0.25
        before = predicted.copy()
        mixed = prior.mix(predicted, data, np.arange(len(data.answers)))
        np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)  # answers are in single precision
        assert (mixed >= 0).all()
        assert not mixed[:, 4:].any()
        np.testing.assert_array_equal(predicted, before)


def test_rounding_leaves_no_share_below_zero():
    thirds = [(POOL[0], [1 / 3, 1 / 3, 1 / 3, 0.0])]
    groups = [group_of(thirds, group=f"G{k}") for k in range(40)]
    groups.append(group_of([(POOL[0], [0.0, 0.0, 0.0, 1.0])], group="last"))
    for data in groups:
        mixed = prior_of(*groups, weight=1e9).mix(
            np.full((1, 4), 0.25, np.float32), data, np.zeros(1, np.int64)
        )
        assert (mixed >= 0).all()


# -- Evaluation ------------------------------------------------------------------------------------


class Uniform:
    """A network that has learned nothing."""

    feature_mean = torch.zeros(1)

    def eval(self):
        return self

    def distributions(self, episode):
        mask = episode.option_mask_BQO.float()
        return mask / mask.sum(-1, keepdim=True).clamp(min=1)


def ragged_table(folder):
    """Training groups and held-out ones who were not all asked the same."""
    rows = ["group,question,option,share"]
    random = np.random.default_rng(0)
    asked = {"A": range(8), "B": range(3, 11), "C": range(6), "D": range(12), "E": range(2, 14)}
    for group, questions in asked.items():
        for question in questions:
            options = 2 + question % 3
            for option, share in enumerate(random.dirichlet(np.ones(options))):
                rows.append(f"{group},Q{question}?,{'zyx'[option % 3]}{option},{share}")
    (folder / "survey.csv").write_text("\n".join(rows))
    return RunConfig(
        data=DataConfig(
            source="table",
            path=str(folder / "survey.csv"),
            held_out_groups="D | E",
            held_back_fraction=0.5,
        ),
        encoder=EncoderConfig(dimension=5),
        evaluation=EvaluationConfig(num_context=3, num_draws=2),
    )


@pytest.fixture
def ragged(tmp_path):
    """Config, groups by name, keys of seen questions by role, the population's answers."""
    config = ragged_table(tmp_path)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = {group: load_group(config, group) for group in roles}
    seen = seen_question_keys({g: data.question_keys for g, data in groups.items()}, roles)
    train = [data for data in groups.values() if data.role == "train"]
    return config, groups, seen, PopulationAnswers.merged(map(PopulationAnswers.of, train))


def values(scores):
    return [
        number
        for each in (scores.all, scores.seen, scores.new)
        for number in (each.total, each.weight)
    ]


def test_a_large_weight_gives_the_population_mean_and_its_scores(ragged):
    config, groups, seen, answers = ragged
    baseline = score_baselines(config)[POPULATION_MEAN]
    prior = PopulationPrior(answers, 1e13)
    weights = set()
    for group, data in groups.items():
        ours = evaluate_group(Uniform(), data, config.evaluation, 0, seen[data.role], prior)
        assert values(ours) == pytest.approx(values(baseline[group]), abs=1e-5), group
        weights |= {
            (data.role, "seen", ours.seen.weight > 0),
            (data.role, "new", ours.new.weight > 0),
        }
    assert {(role, kind, True) for role in ("train", "held-out") for kind in ("seen", "new")} <= (
        weights
    )


def test_a_large_weight_leaves_new_questions_to_the_network(ragged):
    config, groups, seen, answers = ragged
    predictor = make_predictor()
    for data in groups.values():
        arguments = (predictor, data, config.evaluation, 0, seen[data.role])
        plain = evaluate_group(*arguments)
        mixed = evaluate_group(*arguments, PopulationPrior(answers, 1e13))
        assert (mixed.new.total, mixed.new.weight) == (plain.new.total, plain.new.weight)
        assert mixed.seen.total != plain.seen.total


def test_scores_are_those_of_distributions_mixed_one_by_one(ragged):
    config, groups, seen, answers = ragged
    predictor, prior = make_predictor(), PopulationPrior(answers, 0.7)
    for data in groups.values():
        splits = evaluation_splits(data, config.evaluation, 0)

        def by_hand(data, split):
            predicted = predict_with(predictor)(data, split)
            rows = [
                prior.mix(predicted[row : row + 1], data, split.target[row : row + 1])
                for row in range(len(split.target))
            ]
            return np.concatenate(rows)

        expected = score_splits(by_hand, data, splits, seen[data.role])
        ours = evaluate_group(predictor, data, config.evaluation, 0, seen[data.role], prior)
        assert values(ours) == values(expected)


def test_a_batch_of_groups_is_mixed_as_each_group_alone(ragged):
    """Padding for larger groups, and for questions with more options, changes nothing."""
    config, groups, seen, answers = ragged
    predictor, prior = make_predictor(), PopulationPrior(answers, 0.7)
    parts = [
        (data, split)
        for data in groups.values()
        for split in evaluation_splits(data, config.evaluation, 0)
    ]
    keys = [seen[data.role] for data, _ in parts]
    predictor.eval()
    episode = make_episode(parts)
    with torch.inference_mode():
        together = score_episode(predictor, episode, parts, keys, prior)
        plain = sum(score_episode(predictor, episode, parts, keys), GroupScores())
    for ours, (data, split), own_keys in zip(together, parts, keys, strict=True):
        alone = score_splits(predict_with(predictor, prior), data, [split], own_keys)
        assert values(ours) == pytest.approx(values(alone), rel=1e-5)
    assert values(plain)[0] != pytest.approx(values(sum(together, GroupScores()))[0], rel=1e-3)


# -- Inside a predictor ----------------------------------------------------------------------------


def initial(answers=None, **settings):
    rows = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    settings = replace(SMALL, **settings)
    return PreferencePredictor.initial(
        settings, FeatureSums.of(rows), {}, seed=3, population=answers
    )


SOME = PopulationAnswers.merged(
    [
        answers_of([(TEA, [0.1, 0.9]), (CAKE, [0.3, 0.3, 0.4])]),
        answers_of([(TEA_TURNED, [0.6, 0.4]), (MILK, [0.2, 0.8])]),
    ]
)


def test_answers_survive_the_wires_arrays():
    assert same(PopulationAnswers.from_arrays(SOME.to_arrays()), SOME)
    empty = PopulationAnswers.merged([])
    assert same(PopulationAnswers.from_arrays(empty.to_arrays()), empty)
    assert set(SOME.to_arrays()) == {"keys", "counts", "starts", "totals"}


def test_a_predictor_keeps_the_answers_and_the_weight():
    predictor = initial(SOME, population_weight=0.3)
    assert same(predictor.prior.answers, SOME)
    assert predictor.prior.weight == 0.3


def test_a_saved_predictor_gives_the_same_prior(tmp_path):
    initial(SOME, population_weight=0.3).save_pretrained(tmp_path)
    loaded = PreferencePredictor.from_pretrained(tmp_path, strict=True)
    assert same(loaded.prior.answers, SOME)
    assert loaded.prior.weight == 0.3
    assert json.loads((tmp_path / "config.json").read_text())["population_size"] == [3, 7]
    loaded.save_pretrained(tmp_path / "again")
    again = PreferencePredictor.from_pretrained(tmp_path / "again", strict=True)
    assert same(again.prior.answers, SOME)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_predictor_without_answers_is_saved_as_before_there_were_any(tmp_path, weight):
    """Its file holds no other tensors, so predictors that older versions saved can be loaded."""
    predictor = initial(population_weight=weight)
    assert predictor.prior is None
    predictor.save_pretrained(tmp_path)
    statistics = {"feature_mean", "feature_std", "mean_offset"}
    expected = {name for name, _ in predictor.named_parameters()} | statistics
    assert set(load_file(tmp_path / "model.safetensors")) == expected
    config = json.loads((tmp_path / "config.json").read_text())
    older = {key: value for key, value in config.items() if not key.startswith("population_")}
    (tmp_path / "config.json").write_text(json.dumps(older))
    loaded = PreferencePredictor.from_pretrained(tmp_path, strict=True)
    assert loaded.prior is None
    for name, tensor in predictor.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_answers_are_no_parameters_and_change_none():
    without, with_answers = initial(), initial(SOME, population_weight=2.0)
    ours, theirs = (dict(each.named_parameters()) for each in (with_answers, without))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with_answers.set_parameters({name: torch.ones_like(p) for name, p in theirs.items()})
    assert same(with_answers.prior.answers, SOME)


# -- New questions of a group ----------------------------------------------------------------------

ENCODER = EncoderConfig(dimension=5)


def new_predictor(answers=None, weight=0.0):
    """The same network with and without answers."""
    plain = make_predictor(encoder=saved_settings(ENCODER))
    if answers is None:
        return plain
    size = (len(answers.keys), len(answers.totals))
    predictor = make_predictor(
        settings=replace(SMALL, population_weight=weight),
        encoder=saved_settings(ENCODER),
        population_size=size,
    )
    predictor.population.store(answers)
    predictor.load_state_dict(plain.state_dict(), strict=False)
    return predictor


@pytest.mark.parametrize("saved", [False, True])
def test_new_questions_are_predicted_with_the_populations_answers(tmp_path, saved):
    context = build_survey([MILK], [("Me", 0, [0.4, 0.6])])
    unknown = Question("Sugar?", ("one", "two", "three"))
    new = [CAKE_TURNED, unknown, TEA]
    plain = predict_distributions(new_predictor(), context, new)
    predictor = new_predictor(SOME, weight=0.5)
    if saved:
        predictor.save_pretrained(tmp_path)
        predictor = PreferencePredictor.from_pretrained(tmp_path, strict=True)
    cake, other, tea = predict_distributions(predictor, context, new)
    assert cake == pytest.approx((plain[0] + 0.5 * np.array([0.4, 0.3, 0.3])) / 1.5, abs=1e-6)
    assert tea == pytest.approx((plain[2] + 0.5 * np.array([0.5, 1.5])) / 2, abs=1e-6)
    assert other.tolist() == plain[1].tolist()
    assert all(shares.sum() == pytest.approx(1) for shares in (cake, other, tea))


def test_the_order_of_a_new_questions_options_does_not_matter():
    context = build_survey([MILK], [("Me", 0, [0.4, 0.6])])
    predictor = new_predictor(SOME, weight=0.5)
    one, turned = predict_distributions(predictor, context, [CAKE, CAKE_TURNED])
    assert one == pytest.approx(turned[::-1], abs=1e-6)


def test_predict_with_a_prior_mixes_the_targets_alone():
    data = group_of(
        [(TEA, [0.5, 0.5]), (CAKE, [0.2, 0.2, 0.6]), (MILK, [0.5, 0.5])], role="held-out"
    )
    target = np.array([position_of(data, MILK), position_of(data, CAKE)])
    split = Split(np.array([position_of(data, TEA)]), target)
    predictor, prior = make_predictor(), PopulationPrior(SOME, 2.0)
    plain = predict_with(predictor)(data, split)
    mixed = predict_with(predictor, prior)(data, split)
    assert mixed[0] == pytest.approx([*(plain[0, :2] + 2 * np.array([0.2, 0.8])) / 3, 0], abs=1e-6)
    assert mixed[1] == pytest.approx((plain[1] + 2 * np.array([0.3, 0.3, 0.4])) / 3, abs=1e-6)


# -- Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_an_impossible_weight_is_an_error(weight):
    with pytest.raises(ConfigError, match=r"^predictor\.population-weight = "):
        RunConfig.from_flat({"predictor.population-weight": weight})


def test_no_answers_are_asked_for_by_default():
    assert PredictorSettings().population_weight == 0
