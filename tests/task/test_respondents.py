import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.config import DataConfig, EncoderConfig, EvaluationConfig, RunConfig
from task.errors import ConfigError, SurveyError
from task.features import load_features, load_group, load_roles
from task.noise_key import KEY_FILE
from task.privacy_config import PrivacyConfig
from task.respondents import (
    draw_noise,
    exact_counts,
    noisy_answers,
    private_survey,
    to_distribution,
)
from task.sources import load_asked, load_survey
from task.sources.table import survey_from_frame
from task.survey import Question, build_survey

ROOT = Path(__file__).parents[2]
KINDS = ("gaussian", "discrete-laplace")
every_kind = pytest.mark.parametrize("kind", KINDS)
seeded_or_secure = pytest.mark.parametrize("secure", [False, True], ids=["seeded", "secure"])


def member(z=1.0, **settings):
    return PrivacyConfig(unit="member", noise_multiplier=z, **settings)


def even_survey(counts, questions=400, options=5, respondents=1_000_000):
    """One group whose people choose every option equally often."""
    value = respondents / options if counts else 1 / options
    asked = [Question(f"Q{q}?", tuple("abcdefgh"[:options])) for q in range(questions)]
    answers = [("A", q, [value] * options) for q in range(questions)]
    return build_survey(asked, answers, counts=counts)


def as_dict(survey):
    """(group, text, option) to the sorted shares of the questions of that text."""
    found = {}
    for group, answers in survey.answers.items():
        for index, position in enumerate(answers.questions):
            question = survey.questions[position]
            for option, share in zip(question.options, answers.distribution(index), strict=True):
                found.setdefault(f"{group}/{question.text}/{option}", []).append(float(share))
    return {key: sorted(shares) for key, shares in found.items()}


def table_of(seed=0, groups="AB", questions=12):
    random = np.random.default_rng(seed)
    rows = [
        (group, q, f"Q{q}?", option, int(random.integers(0, 60)))
        for group in groups
        for q in range(questions)
        for option in "abc"
    ]
    # Two questions that only their id tells apart.
    rows += [("A", id_, "Twice?", option, 9) for id_ in (98, 99) for option in ("yes", "no")]
    return pd.DataFrame(rows, columns=["group", "question_id", "question", "option", "count"])


def config_of(file, **privacy):
    data = DataConfig(source="table", path=str(file))
    return RunConfig(data=data, privacy=member(**privacy))


def variance(kind, scale):
    if kind == "gaussian":
        return scale**2
    return 2 * np.exp(-1 / scale) / (1 - np.exp(-1 / scale)) ** 2


@every_kind
@pytest.mark.parametrize("answered", [0, 9])
@pytest.mark.parametrize("counts", [True, False], ids=["counted", "declared"])
def test_noise_has_the_variance_that_theory_asks_for(tmp_path, kind, answered, counts):
    survey = even_survey(counts)
    privacy = member(
        2.0,
        histogram_noise=kind,
        questions_per_respondent=answered,
        respondents=0 if counts else 1_000_000,
    )
    changed = (answered or 400) * (1 if counts else 2)
    scale = 2.0 * (np.sqrt(changed) if kind == "gaussian" else changed)
    squares = [
        np.square((noisy_answers(survey, "A", privacy, s, tmp_path).shares - 0.2) * 1e6).sum()
        for s in range(5)
    ]
    # Projecting takes the noise's mean over the five options away.
    assert np.mean(squares) == pytest.approx(400 * 4 * variance(kind, scale), rel=0.07)


@pytest.mark.parametrize("scale", [0.4, 1.5, 40.0])
def test_discrete_laplace_draws_have_their_probabilities(scale):
    number = 200_000
    drawn = draw_noise("discrete-laplace", scale, number, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, np.rint(drawn))
    assert drawn.var() == pytest.approx(variance("discrete-laplace", scale), rel=0.03)
    for value in range(-3, 4):
        expected = np.tanh(0.5 / scale) * np.exp(-abs(value) / scale)
        deviation = np.sqrt(expected / number)
        assert abs((drawn == value).mean() - expected) < 4 * deviation


def test_discrete_laplace_draws_are_finite_at_the_ends_of_the_uniform_numbers():
    class Ends:
        def random(self, size):
            return np.resize([0.0, 1 - 2.0**-53], size)

    drawn = draw_noise("discrete-laplace", 100.0, 3, Ends())
    largest = np.floor(53 * np.log(2) * 100)
    assert drawn.tolist() == [-largest, largest, -largest]


@given(st.data())
def test_one_respondent_more_or_less_changes_the_counts_by_the_sensitivity(data):
    """The table with a respondent more has counts that differ by sqrt(M) in L2 and M in L1."""
    table = table_of(data.draw(st.integers(0, 9)))
    table["count"] += 1  # dropping what nobody answered is not covered
    answered = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
    more = table.copy()
    for question in answered:
        option = data.draw(st.sampled_from("abc"))
        chosen = (table.group == "B") & (table.question_id == question) & (table.option == option)
        assert chosen.sum() == 1
        more.loc[chosen, "count"] += 1
    before, after = (survey_from_frame(frame, "table") for frame in (table, more))
    for group, most in (("A", 0), ("B", len(answered))):
        for kind in KINDS:
            privacy = member(histogram_noise=kind)
            change = exact_counts(after.answers[group], privacy)
            change -= exact_counts(before.answers[group], privacy)
            assert np.square(change).sum() <= most
            assert np.abs(change).sum() <= most


@given(st.data())
def test_a_respondent_who_answers_otherwise_changes_declared_counts_by_the_sensitivity(data):
    declared = data.draw(st.integers(1, 50))
    number = data.draw(st.integers(declared, 60))
    asked = [Question(f"Q{q}?", tuple("abc")) for q in range(6)]
    cuts = st.lists(st.integers(0, number - 1), min_size=2, max_size=2).map(sorted)
    counts = [np.diff([0, *data.draw(cuts), number - 1]) for _ in asked]
    choices = st.lists(st.integers(0, 2), min_size=6, max_size=6)
    surveys = [
        build_survey(
            asked, [("A", q, (counts[q] + np.eye(3)[chosen[q]]) / number) for q in range(6)]
        )
        for chosen in (data.draw(choices), data.draw(choices))
    ]
    for kind in KINDS:
        privacy = member(histogram_noise=kind, respondents=declared)
        first, second = (exact_counts(survey.answers["A"], privacy) for survey in surveys)
        assert np.square(first - second).sum() <= 2 * 6 + 1e-3
        assert np.abs(first - second).sum() <= 2 * 6 + 1e-3


def test_the_same_noise_from_another_process_and_from_a_shuffled_file(tmp_path):
    table = table_of()
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    table.to_csv(files[0], index=False)
    table.sample(frac=1, random_state=1).to_csv(files[1], index=False)
    code = (
        "import json, sys; from task.sources import load_survey; "
        "from tests.task.test_respondents import as_dict, config_of; "
        "print(json.dumps([as_dict(load_survey(config_of(file, secure_noise=secure))) "
        "for secure in (False, True) for file in sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, *files]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    seeded, seeded_shuffled, secure, secure_shuffled = json.loads(run.stdout)
    assert seeded == seeded_shuffled == as_dict(load_survey(config_of(files[0])))
    assert len({tuple(shares) for shares in seeded.values()}) > 60
    assert secure == secure_shuffled == as_dict(load_survey(config_of(files[0], secure_noise=True)))
    assert secure != seeded


@seeded_or_secure
def test_no_two_histograms_share_their_noise(tmp_path, secure):
    """Groups and questions with the same counts; two of the questions share their text too."""
    table = table_of(questions=4)
    table["count"] = 30
    file = tmp_path / "survey.csv"
    table.to_csv(file, index=False)
    shares = as_dict(load_survey(config_of(file, secure_noise=secure)))
    firsts = [share for key, found in shares.items() if key[-1] in ("a", "s") for share in found]
    assert len(firsts) == 10
    assert len(set(firsts)) == 10


def test_another_seed_gives_other_noise(tmp_path):
    survey = even_survey(counts=True)
    first, again, other = (
        noisy_answers(survey, "A", member(), seed, tmp_path).shares for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    assert not list(tmp_path.iterdir())


def secure_noise_of(survey, folder, z=1.0):
    """The noise of group A's shares, over the multiplier."""
    shares = noisy_answers(survey, "A", member(z, secure_noise=True), 0, folder).shares
    return (shares - survey.answers["A"].shares) / z


def test_secure_noise_does_not_depend_on_the_seed_but_on_the_key(tmp_path):
    survey = even_survey(counts=True)
    privacy = member(secure_noise=True)
    first, again = (
        noisy_answers(survey, "A", privacy, seed, tmp_path / "a").shares for seed in (0, 1)
    )
    other = noisy_answers(survey, "A", privacy, 0, tmp_path / "b").shares
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    assert (tmp_path / "a" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_secure_noise_of_another_release_has_nothing_to_do_with_it(tmp_path):
    """Two releases with the same noise would give the counts away."""
    survey = even_survey(counts=True)
    noise = secure_noise_of(survey, tmp_path)
    with_more = even_survey(counts=True)
    with_more.answers["A"].counts[0] += 1
    for other in (secure_noise_of(survey, tmp_path, z=3.0), secure_noise_of(with_more, tmp_path)):
        assert abs(np.corrcoef(noise, other)[0, 1]) < 0.1
    np.testing.assert_array_equal(noise, secure_noise_of(survey, tmp_path))


@every_kind
def test_without_noise_the_shares_stay_exactly_as_they_are(tmp_path, kind):
    asked = [Question(f"Q{q}?", tuple("abc")) for q in range(9)]
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 9)
    survey = build_survey(asked, [("A", q, shares[q]) for q in range(9)])
    privacy = member(0.0, histogram_noise=kind, respondents=97, secure_noise=True)
    private = private_survey(survey, privacy, 0, tmp_path)
    assert not list(tmp_path.iterdir())
    for group, answers in survey.answers.items():
        np.testing.assert_array_equal(private.answers[group].shares, answers.shares)


@every_kind
def test_with_next_to_no_noise_the_shares_stay_as_they_are(tmp_path, kind):
    """Every count goes back to where it came from: options have an order of their own."""
    survey = survey_from_frame(table_of().sample(frac=1, random_state=3), "table")
    privacy = member(1e-9, histogram_noise=kind)
    for group, answers in survey.answers.items():
        found = noisy_answers(survey, group, privacy, 0, tmp_path)
        np.testing.assert_allclose(found.shares, answers.shares, atol=1e-6)


def test_noisy_answers_carry_no_counts(tmp_path):
    survey = survey_from_frame(table_of(), "table")
    for z in (0.0, 1.0):
        private = private_survey(survey, member(z), 0, tmp_path)
        assert [answers.counts for answers in private.answers.values()] == [None, None]


counts_of_options = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=12).map(np.array)


@given(counts_of_options)
def test_any_noisy_counts_become_a_distribution(noisy_O):
    shares_O = to_distribution(noisy_O, float(noisy_O.sum()))
    assert (shares_O >= 0).all()
    assert shares_O.sum() == pytest.approx(1, abs=1e-6)
    assert (np.diff(shares_O[np.argsort(noisy_O, kind="stable")]) >= -1e-12).all()


@given(counts_of_options.filter(lambda noisy_O: noisy_O.sum() <= 0))
def test_a_question_without_respondents_left_becomes_uniform(noisy_O):
    shares_O = to_distribution(noisy_O, float(noisy_O.sum()))
    assert shares_O.tolist() == [1 / len(noisy_O)] * len(noisy_O)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=12).filter(any))
def test_counts_without_noise_become_their_shares(counts):
    counts_O = np.array(counts, dtype=np.float64)
    shares_O = to_distribution(counts_O, counts_O.sum())
    np.testing.assert_allclose(shares_O, counts_O / counts_O.sum(), atol=1e-12)


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(1, 200))
def test_of_two_options_the_closest_distribution_is_known(first, second, total):
    """The line through the point and along (1, 1) meets x + y = 1 at (1 + (a - b)) / 2."""
    shares_O = to_distribution(np.array([first, second]), total)
    assert shares_O[0] == pytest.approx(np.clip((1 + (first - second) / total) / 2, 0, 1), abs=1e-9)


def test_a_total_below_one_counts_as_one():
    np.testing.assert_allclose(to_distribution(np.array([0.3, 0.1]), 0.4), [0.6, 0.4])


def test_a_declared_number_that_contradicts_the_counts_is_an_error(tmp_path):
    survey = even_survey(counts=True, respondents=800)
    private_survey(survey, member(respondents=800), 0, tmp_path)
    with pytest.raises(
        SurveyError, match=r"privacy\.respondents = 900: the survey counts 800 of group 'A'.*'Q\d+"
    ):
        private_survey(survey, member(respondents=900), 0, tmp_path)


def test_shares_without_a_declared_number_are_an_error_before_anything_is_read(tmp_path):
    file = tmp_path / "survey.csv"
    table_of().rename(columns={"count": "share"}).assign(share=0.5).query(
        "question == 'Twice?'"
    ).to_csv(file, index=False)
    with pytest.raises(ConfigError, match=r"privacy\.respondents = 0: .*group 'A'.*column `count`"):
        load_survey(config_of(file))
    load_survey(config_of(file, respondents=100))


def test_weighted_counts_are_not_respondents(tmp_path):
    table = table_of()
    table["count"] *= 1.5
    survey = survey_from_frame(table, "table")
    assert survey.answers["A"].counts is None
    with pytest.raises(ConfigError, match="whole numbers"):
        private_survey(survey, member(), 0, tmp_path)


def test_noise_that_the_accountant_cannot_compose_is_an_error(tmp_path):
    privacy = member(histogram_noise="discrete-laplace", accountant="rdp")
    with pytest.raises(ConfigError, match=r"privacy\.accountant"):
        private_survey(even_survey(counts=True), privacy, 0, tmp_path)


SYNTHETIC = RunConfig(
    data=DataConfig(synthetic_groups=5, synthetic_questions=20, synthetic_answered=12),
    encoder=EncoderConfig(dimension=16),
    evaluation=EvaluationConfig(num_context=4),
)
NOISY = replace(SYNTHETIC, privacy=member(3.0))


def test_the_unit_changes_answers_and_nothing_else_and_caches_do_not_mix():
    for group in load_roles(SYNTHETIC.data, SYNTHETIC.evaluation, 0):
        exact, noisy, exact_again = (load_group(c, group) for c in (SYNTHETIC, NOISY, SYNTHETIC))
        assert exact_again is exact
        assert noisy.features is exact.features
        assert noisy.role == exact.role
        for name in ("rows", "question_keys", "option_ranks", "trainable", "held_back"):
            np.testing.assert_array_equal(getattr(noisy, name), getattr(exact, name))
        np.testing.assert_array_equal(noisy.answers.lengths, exact.answers.lengths)
        np.testing.assert_array_equal(noisy.answers.questions, exact.answers.questions)
        assert (noisy.answers.shares != exact.answers.shares).mean() > 0.9
        np.testing.assert_array_equal(
            noisy.answers.shares, load_survey(NOISY).answers[group].shares
        )
    assert not np.array_equal(
        load_survey(NOISY).answers[group].shares,
        load_survey(replace(NOISY, privacy=member(4.0))).answers[group].shares,
    )


def test_other_units_read_the_exact_answers():
    client = replace(SYNTHETIC, privacy=replace(NOISY.privacy, unit="question"))
    assert load_survey(client) is load_survey(SYNTHETIC)


def test_a_survey_without_answers_shows_what_was_asked_and_no_share():
    asked, survey = load_asked(SYNTHETIC.data, 0), load_survey(SYNTHETIC)
    assert asked.questions == survey.questions
    for group, answers in survey.answers.items():
        np.testing.assert_array_equal(asked.answers[group].questions, answers.questions)
        assert np.isnan(asked.answers[group].shares).all()
        assert asked.answers[group].counts is None


def test_features_and_roles_need_no_number_of_respondents(tmp_path):
    file = tmp_path / "survey.csv"
    table = table_of().rename(columns={"count": "share"}).assign(share=1 / 3)
    table[table.question != "Twice?"].to_csv(file, index=False)
    config = replace(SYNTHETIC, data=DataConfig(source="table", path=str(file)))
    config = replace(config, data=replace(config.data, num_held_out_groups=1))
    assert Counter(load_roles(config.data, config.evaluation, 0).values()) == {
        "train": 1,
        "held-out": 1,
    }
    assert load_features(config.data, config.encoder, 0).shape == (36, 16)


def test_seeded_noise_of_another_multiplier_has_nothing_to_do_with_it(tmp_path):
    # Were it the same noise on another scale, two releases would give the counts away.
    survey = even_survey(counts=True, questions=1)
    noises = []
    for multiplier in (5.0, 10.0):
        answers = noisy_answers(survey, "A", member(multiplier), 7, tmp_path)
        again = noisy_answers(survey, "A", member(multiplier), 7, tmp_path)
        np.testing.assert_array_equal(answers.shares, again.shares)
        noises.append((answers.shares - answers.shares.mean()) / multiplier)
    assert np.abs(noises[0] - noises[1]).max() > 0.1 * np.abs(noises[0]).max()
