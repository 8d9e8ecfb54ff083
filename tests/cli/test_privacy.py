import re

import pytest

from task.accounting import ClientReleases
from tests.cli.command import Command

SMALL = ("--clients", "100", "--cohort", "10", "--rounds", "20", "--accountant", "rdp")


def value(out: str, pattern: str) -> float:
    found = re.search(pattern, out)
    assert found, out
    return float(found[1])


def test_noise_for_an_epsilon_keeps_to_it(pluralllm: Command) -> None:
    outcome = pluralllm("privacy", "--epsilon", "2", *SMALL)
    assert outcome.status == 0
    multiplier = value(outcome.out, r"privacy.noise-multiplier = (\S+)")
    assert value(outcome.out, r"epsilon = (\S+) at delta = 1e-05 for one client") <= 2
    plan = ClientReleases(100, 10, "poisson", multiplier)
    assert 1.98 < plan.epsilon(20, 1e-5, "rdp") <= 2


def test_the_epsilon_of_noise_is_that_of_the_run(pluralllm: Command) -> None:
    outcome = pluralllm(
        "privacy", "--noise-multiplier", "1.5", *SMALL, "--sampling", "without-replacement"
    )
    expected = ClientReleases(100, 10, "without-replacement", 1.5).epsilon(20, 1e-5)
    assert value(outcome.out, r"epsilon = (\S+) at") == pytest.approx(expected, rel=1e-4)
    assert "replace-one" in outcome.out
    assert "kept secret" in outcome.out
    assert "0.15 x" in outcome.out


def test_bands_are_planned_with_clients_in_turn(pluralllm: Command) -> None:
    arguments = ("privacy", "--noise-multiplier", "2", *SMALL, "--bands", "4")
    outcome = pluralllm(*arguments, "--sampling", "cyclic")
    assert "noise correlated over 4 rounds" in outcome.out
    assert pluralllm(*arguments).status == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one of them above 0"),
        (("--epsilon", "1", "--noise-multiplier", "1"), "expected one of them above 0"),
        (("--epsilon", "1", "--delta", "1"), "--delta 1"),
        (("--epsilon", "1", "--sample-rate", "0"), "--sample-rate 0"),
        (
            ("--epsilon", "1", "--sampling", "cyclic", "--cohort", "500", "--bands", "3"),
            "at most 2",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    pluralllm: Command, arguments: tuple[str, ...], message: str
) -> None:
    outcome = pluralllm("privacy", *arguments)
    assert outcome.status == 2
    assert message in outcome.err + outcome.out


def test_members_and_questions_are_planned_too(pluralllm: Command) -> None:
    member = pluralllm("privacy", "--epsilon", "1", "--unit", "member", "--accountant", "rdp")
    assert "for one member" in member.out
    question = pluralllm(
        "privacy",
        "--noise-multiplier",
        "1",
        "--unit",
        "question",
        "--accountant",
        "rdp",
        "--rounds",
        "3",
    )
    assert "for one question" in question.out
    assert "Opacus, RDP" in question.out
