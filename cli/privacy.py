"""`pluralllm privacy`: from an epsilon to the noise it takes, or from noise to its epsilon."""

import math
from enum import StrEnum
from typing import Annotated

import typer

from task.accounting import ClientReleases
from task.calibration import affordable, calibrate
from task.errors import ConfigError


class Sampling(StrEnum):
    """`train.sampling`."""

    WITHOUT_REPLACEMENT = "without-replacement"
    POISSON = "poisson"
    CYCLIC = "cyclic"


class Accountant(StrEnum):
    """`privacy.accountant`."""

    PLD = "pld"
    RDP = "rdp"


class Unit(StrEnum):
    """Units whose cost depends on numbers alone."""

    CLIENT = "client"
    QUESTION = "question"
    MEMBER = "member"


def privacy(
    epsilon: Annotated[float, typer.Option(help="Target; prints the noise multiplier.")] = 0.0,
    noise_multiplier: Annotated[float, typer.Option(help="Prints the epsilon instead.")] = 0.0,
    delta: Annotated[float, typer.Option(help="The delta of (epsilon, delta).")] = 1e-5,
    unit: Annotated[Unit, typer.Option(help="What is protected.")] = Unit.CLIENT,
    clients: Annotated[int, typer.Option(help="client: training clients.", min=1)] = 1000,
    cohort: Annotated[
        int, typer.Option(help="client: clients of a round, on average. 0: all.", min=0)
    ] = 0,
    rounds: Annotated[int, typer.Option(help="client, question: federated rounds.", min=1)] = 30,
    sampling: Annotated[
        Sampling, typer.Option(help="client: how cohorts are drawn.")
    ] = Sampling.POISSON,
    bands: Annotated[int, typer.Option(help="client: privacy.num-bands.", min=1)] = 1,
    local_steps: Annotated[int, typer.Option(help="question: steps of a round.", min=1)] = 6,
    sample_rate: Annotated[float, typer.Option(help="question: privacy.sample-rate.")] = 0.5,
    accountant: Annotated[Accountant, typer.Option(help="How to compose.")] = Accountant.PLD,
) -> None:
    """Plan a run's privacy: noise for an epsilon, or epsilon of a noise multiplier."""
    if (epsilon > 0) == (noise_multiplier > 0):
        raise ConfigError(
            f"--epsilon {epsilon:g} --noise-multiplier {noise_multiplier:g}: expected one of them "
            "above 0."
        )
    if not 0 < delta < 1:
        raise ConfigError(f"--delta {delta:g}: expected a number between 0 and 1.")
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"--sample-rate {sample_rate:g}: expected a number above 0, at most 1.")

    def releases(multiplier: float) -> ClientReleases:
        return ClientReleases(clients, cohort, str(sampling), multiplier, bands)

    if bands > 1 and (sampling != "cyclic" or bands > releases(1.0).rounds_per_pass):
        raise ConfigError(
            f"--bands {bands}: expected 1, or --sampling cyclic and at most "
            f"{releases(1.0).rounds_per_pass}, the rounds from one turn of a client to its next."
        )

    def cost(multiplier: float, of_rounds: int = rounds) -> float:
        if unit is Unit.CLIENT:
            return releases(multiplier).epsilon(of_rounds, delta, str(accountant))
        if unit is Unit.QUESTION:
            from task.question_ledger import question_epsilon  # Opacus takes a second to import

            steps = of_rounds * local_steps
            return question_epsilon(multiplier, sample_rate, steps, delta, str(accountant))
        return ClientReleases(1, 0, "poisson", multiplier).epsilon(1, delta, str(accountant))

    # Rounded up, so that what is printed keeps to the epsilon.
    found = noise_multiplier or math.ceil(calibrate(cost, epsilon) * 1e4) / 1e4
    print(f"privacy.noise-multiplier = {found:g}")
    print(f"epsilon = {cost(found):.5g} at delta = {delta:g} for one {unit}")
    if unit is Unit.CLIENT:
        plan = releases(found)
        print(f"train.sampling = {sampling}, train.clients-per-round = {cohort}")
        print(f"relation: {plan.relation}")
        print(f"sampling: {plan.describe_sampling()}; {rounds} rounds")
        print(f"accountant: dp-accounting, {plan.accountant_name(str(accountant))}")
        print(
            f"noise on the mean update: standard deviation {found / plan.nominal_cohort:.4g} x "
            "strategy.clipping-norm in every parameter"
        )
        half = affordable(lambda number: cost(found, number), cost(found) / 2, rounds)
        print(f"half of that epsilon lasts for {half} rounds")
    elif unit is Unit.QUESTION:
        print("relation: a group's training lacks the episode that holds the question")
        print(f"sampling: Poisson, rate {sample_rate:g}, {rounds} rounds of {local_steps} steps")
        print(f"accountant: Opacus, {'RDP' if accountant == 'rdp' else 'PRV'}")
    else:
        print("relation: a group has one respondent less (privacy.histogram-noise = gaussian)")
        print(f"accountant: dp-accounting, {accountant}")
    print("not covered: see docs/privacy.md; privacy.metrics = 'full' discloses exact scores")
