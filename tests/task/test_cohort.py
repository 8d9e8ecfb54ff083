import sys
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task import cohort as cohort_module
from task import records, stacking_size, training
from task.aggregation import Reduction, WeightedSum, clip_update
from task.cohort import Cohort, Start, TrainTask
from task.config import EngineConfig, EvaluationConfig, RunConfig, RunSettings, TrainConfig
from task.evaluation import evaluate_group, evaluation_splits
from task.metrics import GroupScores
from task.parameters import Layout
from task.reports import make_reports
from task.training import train_client
from tests.task.examples import (
    SHORT_EPISODES,
    SMALL,
    make_group,
    make_predictor,
    of_one_survey,
)

CPU = torch.device("cpu")
SIZES = ([2, 3, 4, 2, 5], [2] * 9, [6, 5, 4, 3], [2, 3, 2, 2, 2, 2], [3] * 12, [4, 2, 2], [2] * 7)
GROUPS = of_one_survey(
    [
        make_group(lengths, held_back=[1], seed=k, group=f"G{k}")
        for k, lengths in enumerate(SIZES[:-1])
    ]
    + [make_group(SIZES[-1], role="held-out", seed=9, group="G6")]
)
CLIENTS = GROUPS[:-1]
TASK = TrainTask(learning_rates=(0.01, 0.005), server_round=2)
MEAN = replace(TASK, reduction=Reduction(weighted=True))


@pytest.fixture(autouse=True, scope="module")
def own_switch_interval():
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def run_config(stack_size=0, **engine):
    return RunConfig(
        run=RunSettings(seed=5),
        predictor=SMALL,
        train=SHORT_EPISODES,
        evaluation=EvaluationConfig(num_context=2, num_draws=3),
        engine=EngineConfig(stack_size=stack_size, **engine),
    )


def make_cohort(stack_size=0, num_threads=1, **engine):
    return Cohort(run_config(stack_size, **engine), CPU, num_threads)


def start_of(predictor):
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    return Start(parameters, predictor.feature_mean, predictor.feature_std)


START = start_of(make_predictor())
LAYOUT = Layout.of({name: value.shape for name, value in START.parameters.items()})
START_P = LAYOUT.flatten(START.parameters)


def stacked(clients, cohort):
    """The cohort's stacks of these clients, and their positions one after another."""
    positions = cohort.stacks(clients)
    stacks = [[clients[k] for k in stack] for stack in positions]
    return stacks, [k for stack in positions for k in stack]


def train_alone(data, task=TASK):
    return train_client(
        make_predictor(), START.parameters, data, SHORT_EPISODES,
        learning_rates=task.learning_rates, seed=5, server_round=task.server_round,
        proximal_mu=task.proximal_mu,
    )  # fmt: skip


def assert_same(first, second):
    """Two shards are the same to the bit."""
    assert first.losses == second.losses
    assert first.num_examples == second.num_examples
    assert first.faults == second.faults
    assert torch.equal(first.values_nP, second.values_nP)


@pytest.mark.parametrize("stack_size", [1, 4])
def test_each_client_reports_of_the_parameters_that_all_are_sent(stack_size):
    cohort = make_cohort(stack_size)
    stacks, order = stacked(CLIENTS, cohort)
    names = (records.LOSS_BEFORE, records.SCORE_BEFORE)
    shard = cohort.train(START, replace(TASK, reports=names), stacks)
    expected = [make_reports(make_predictor(), data, run_config(), names) for data in CLIENTS]
    for reports, client in zip(shard.reports, order, strict=True):
        assert set(reports) == set(expected[client]) == set(names)
        for name, report in reports.items():
            # Where a tensor lies in memory decides, on some processors, how its sum is rounded.
            assert report.total == pytest.approx(expected[client][name].total, rel=1e-5)
            assert report.weight == expected[client][name].weight
    plain = cohort.train(START, TASK, stacks)
    assert plain.reports == [{}] * len(CLIENTS)
    assert_same(plain, shard)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(0, 7))
def test_stacks_hold_every_client_once_the_large_ones_first(sizes, stack_size):
    clients = [make_group([3] * size, seed=k) for k, size in enumerate(sizes)]
    config = replace(run_config(stack_size), train=TrainConfig())
    stacks = Cohort(config, CPU, 1).stacks(clients)
    order = [k for stack in stacks for k in stack]
    assert sorted(order) == list(range(len(clients)))
    assert order == sorted(order, key=lambda k: (-sizes[k], k))
    assert all(stacks)
    if stack_size:
        assert {len(stack) for stack in stacks[:-1]} <= {stack_size}
        assert len(stacks[-1]) <= stack_size


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.sampled_from([8, 32, 128]))
def test_stacks_do_not_depend_on_the_number_of_threads(sizes, width):
    clients = [make_group([3] * size, seed=k) for k, size in enumerate(sizes)]
    config = replace(run_config(), predictor=replace(SMALL, width=width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacking_size, "_free_bytes", lambda device: 1e15)
        one, many = (Cohort(config, CPU, threads).stacks(clients) for threads in (1, 16))
    assert one == many


def test_a_stack_is_no_larger_than_its_largest_client_allows(monkeypatch):
    clients = [make_group([3] * size, seed=size) for size in range(4, 120)]
    config = replace(
        run_config(), train=TrainConfig(), predictor=replace(SMALL, width=64, num_heads=4)
    )
    monkeypatch.setattr(stacking_size, "_free_bytes", lambda device: 1e15)
    sizes = [len(stack) for stack in Cohort(config, CPU, 1).stacks(clients)][:-1]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_there_are_no_stacks_of_no_clients():
    assert make_cohort().stacks([]) == []
    assert make_cohort().batches([]) == []


@pytest.mark.parametrize("mu", [0.0, 1.5])
def test_clients_one_by_one_train_to_the_bits_of_train_client(mu):
    task = replace(TASK, proximal_mu=mu)
    cohort = make_cohort(stack_size=1)
    shard = cohort.train(START, task, [[data] for data in CLIENTS])
    assert shard.values_nP.shape == (len(CLIENTS), LAYOUT.size)
    for k, data in enumerate(CLIENTS):
        alone = train_alone(data, task)
        views = LAYOUT.views(shard.values_nP[k])
        assert all(torch.equal(views[name], alone.parameters[name]) for name in views)
        assert shard.losses[k] == alone.loss
        assert shard.num_examples[k] == alone.num_examples == len(data.trainable)
    assert not shard.faults
    assert shard.total is None


@pytest.mark.parametrize("stack_size", [0, 2, 4])
def test_values_of_stacks_lie_in_the_shards_order(stack_size):
    cohort = make_cohort(stack_size)
    stacks, order = stacked(CLIENTS, cohort)
    assert order != sorted(order)
    shard = cohort.train(START, TASK, stacks)
    alone = [train_alone(CLIENTS[k]) for k in order]
    alone_nP = torch.stack([LAYOUT.flatten(update.parameters) for update in alone])
    assert shard.losses == pytest.approx([update.loss for update in alone], rel=1e-4)
    assert shard.num_examples == [update.num_examples for update in alone]
    # Adam magnifies the rounding of small gradients; clients among themselves are further apart.
    apart = torch.cdist(shard.values_nP - START_P, alone_nP - START_P)
    assert (apart.diag() < 0.1 * (alone_nP - START_P).norm(dim=1)).all()
    assert (apart + torch.eye(len(order)) > 0.5 * (alone_nP - START_P).norm(dim=1)).all()


def test_values_are_kept_when_the_cohort_trains_on():
    cohort = make_cohort(stack_size=3)
    stacks, _ = stacked(CLIENTS, cohort)
    shard = cohort.train(START, TASK, stacks)
    before = shard.values_nP.clone()
    cohort.train(START, replace(TASK, server_round=3), stacks)
    assert torch.equal(shard.values_nP, before)


def reduced(shard, reduction):
    """The sum of clients' own results, added in the opposite order."""
    total = WeightedSum(LAYOUT.size)
    for k in reversed(range(len(shard.losses))):
        values_P = shard.values_nP[k]
        if k not in shard.faults:
            if reduction.clipping_norm:
                values_P = clip_update(START_P, values_P, reduction.clipping_norm)
            total.add(values_P, shard.num_examples[k] if reduction.weighted else 1)
    return total


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("clipping_norm", [0.0, 0.05, 1e6])
@pytest.mark.parametrize("stack_size", [0, 1, 4])
def test_a_reduced_shard_is_the_sum_of_its_clients(weighted, clipping_norm, stack_size):
    reduction = Reduction(weighted, clipping_norm)
    cohort = make_cohort(stack_size)
    stacks, _ = stacked(CLIENTS, cohort)
    single = cohort.train(START, TASK, stacks)
    shard = cohort.train(START, replace(TASK, reduction=reduction), stacks)
    expected = reduced(single, reduction)
    assert shard.values_nP is None
    assert (shard.losses, shard.num_examples) == (single.losses, single.num_examples)
    assert shard.total.weight == expected.weight
    assert torch.equal(shard.total.mean(), expected.mean())
    assert expected.weight == (sum(len(d.trainable) for d in CLIENTS) if weighted else 6)
    if not clipping_norm:
        weights = single.num_examples if weighted else None
        slow = np.average(single.values_nP.double().numpy(), axis=0, weights=weights)
        np.testing.assert_allclose(shard.total.mean().numpy(), slow, rtol=1e-6, atol=1e-12)


def test_clipping_bounds_how_far_the_mean_moves():
    cohort = make_cohort()
    stacks, _ = stacked(CLIENTS, cohort)
    moved = []
    for norm in (0.0, 0.05):
        task = replace(TASK, reduction=Reduction(clipping_norm=norm))
        moved.append(float((cohort.train(START, task, stacks).total.mean() - START_P).norm()))
    assert moved[1] < 0.0501 < moved[0]


def test_shards_merge_to_the_sum_of_one_shard():
    cohort = make_cohort(stack_size=2)
    stacks, _ = stacked(CLIENTS, cohort)
    whole = cohort.train(START, MEAN, stacks).total
    parts = [cohort.train(START, MEAN, [stack]).total for stack in stacks[::-1]]
    for part in parts[1:]:
        parts[0].merge(part)
    assert torch.equal(parts[0].mean(), whole.mean())


def poisoned(position, value, where):
    """The clients, one of which has an answer share or features that are not finite."""
    features = CLIENTS[0].features.copy()
    clients = [replace(data, features=features) for data in CLIENTS]
    ill = clients[position]
    assert 0 not in ill.rows
    if where == "features":
        features[ill.rows] = value
    else:
        shares = np.full_like(ill.answers.shares, value)
        clients[position] = replace(ill, answers=replace(ill.answers, shares=shares))
    return clients


ILL = pytest.mark.parametrize(
    ("value", "where"),
    [(np.nan, "features"), (np.inf, "features"), (np.nan, "shares"), (np.inf, "shares")],
)


@ILL
@pytest.mark.parametrize("stack_size", [1, 3, 6])
@pytest.mark.parametrize("position", [1, 4])
def test_a_client_that_is_not_finite_is_a_fault_and_disturbs_no_other(
    value, where, stack_size, position
):
    cohort = make_cohort(stack_size)
    stacks, order = stacked(CLIENTS, cohort)
    ill = poisoned(position, value, where)
    ill_stacks, ill_order = stacked(ill, cohort)
    assert ill_order == order
    healthy, shard = cohort.train(START, TASK, stacks), cohort.train(START, TASK, ill_stacks)
    row = order.index(position)
    assert list(shard.faults) == [row]
    assert shard.faults[row].endswith(" is not finite")
    others = [k for k in range(len(order)) if k != row]
    assert torch.equal(shard.values_nP[others], healthy.values_nP[others])
    assert [shard.losses[k] for k in others] == [healthy.losses[k] for k in others]
    assert len(shard.losses) == len(shard.num_examples) == len(order)


@ILL
@pytest.mark.parametrize("stack_size", [1, 3, 6])
@pytest.mark.parametrize("clipping_norm", [0.0, 0.05])
def test_a_client_that_is_not_finite_is_left_out_of_the_sum(
    value, where, stack_size, clipping_norm
):
    cohort = make_cohort(stack_size)
    reduction = Reduction(clipping_norm=clipping_norm)
    stacks, order = stacked(poisoned(2, value, where), cohort)
    single = cohort.train(START, TASK, stacks)
    shard = cohort.train(START, replace(TASK, reduction=reduction), stacks)
    assert shard.faults == single.faults
    assert list(shard.faults) == [order.index(2)]
    assert shard.total.weight == sum(len(d.trainable) for k, d in enumerate(CLIENTS) if k != 2)
    assert torch.equal(shard.total.mean(), reduced(single, reduction).mean())
    assert shard.total.mean().isfinite().all()


def test_a_fault_names_a_parameter_that_is_not_finite():
    parameters = {name: value.clone() for name, value in START.parameters.items()}
    parameters["log_std.bias"][0] = torch.nan  # which the categorical objective does not use
    shard = make_cohort().train(replace(START, parameters=parameters), TASK, [CLIENTS[:2]])
    assert shard.faults == dict.fromkeys((0, 1), "parameter log_std.bias is not finite")


@pytest.mark.parametrize("loss", [np.nan, np.inf])
@pytest.mark.parametrize("reduction", [None, Reduction()])
def test_a_client_whose_loss_is_not_finite_is_a_fault(monkeypatch, loss, reduction):
    def train_stack(*arguments, **settings):
        update = training.train_stack(*arguments, **settings)
        losses_K = update.losses_K.clone()
        losses_K[1] = loss
        return replace(update, losses_K=losses_K)

    monkeypatch.setattr(cohort_module, "train_stack", train_stack)
    shard = make_cohort().train(START, replace(TASK, reduction=reduction), [CLIENTS[:3]])
    assert shard.faults == {1: f"loss = {loss} is not finite"}
    if reduction:
        assert shard.total.weight == len(CLIENTS[0].trainable) + len(CLIENTS[2].trainable)


def out_of_memory(largest):
    """A train_stack that has memory for so many clients at once."""

    def train_stack(stack, start_P, clients, *arguments, **settings):
        if len(clients) > largest:
            raise torch.OutOfMemoryError("out of memory")
        return training.train_stack(stack, start_P, clients, *arguments, **settings)

    return train_stack


@pytest.mark.parametrize("reduction", [None, Reduction(clipping_norm=0.05)])
@pytest.mark.parametrize(
    ("largest", "parts"), [(3, [3, 3]), (2, [1, 2, 1, 2]), (1, [1, 1, 1, 1, 1, 1])]
)
def test_a_stack_that_does_not_fit_is_trained_in_halves(monkeypatch, largest, parts, reduction):
    ends = np.cumsum([0, *parts])
    pieces = [CLIENTS[i:j] for i, j in pairwise(ends)]
    task = replace(TASK, reduction=reduction)
    expected = make_cohort().train(START, task, pieces)
    monkeypatch.setattr(cohort_module, "train_stack", out_of_memory(largest))
    shard = make_cohort().train(START, task, [CLIENTS])
    if reduction:
        assert torch.equal(shard.total.mean(), expected.total.mean())
        assert (shard.losses, shard.num_examples) == (expected.losses, expected.num_examples)
    else:
        assert_same(shard, expected)


def test_what_did_not_fit_is_freed_before_the_halves_train(monkeypatch):
    failed = []

    def train_stack(stack, start_P, clients, *arguments, **settings):
        if len(clients) > 3:
            activations = torch.zeros(1)
            failed.extend([weakref.ref(stack), weakref.ref(activations)])
            raise torch.OutOfMemoryError("out of memory")
        assert [each() for each in failed] == [None, None]
        return training.train_stack(stack, start_P, clients, *arguments, **settings)

    monkeypatch.setattr(cohort_module, "train_stack", train_stack)
    make_cohort().train(START, TASK, [CLIENTS])
    assert failed


def test_a_single_client_that_does_not_fit_is_an_error(monkeypatch):
    monkeypatch.setattr(cohort_module, "train_stack", out_of_memory(0))
    with pytest.raises(torch.OutOfMemoryError):
        make_cohort().train(START, TASK, [CLIENTS])


def test_a_shard_of_faults_alone_has_a_sum_of_no_weight():
    shard = make_cohort().train(START, MEAN, [poisoned(0, np.nan, "shares")[:1]])
    assert list(shard.faults) == [0]
    assert shard.total.weight == 0


def test_a_cohort_that_computed_other_things_before_computes_the_same_bits():
    other = start_of(make_predictor(seed=3))
    other = replace(other, feature_mean=other.feature_mean + 1, feature_std=other.feature_std * 2)
    stacks = [CLIENTS[:3], CLIENTS[3:5], CLIENTS[5:], CLIENTS[1:4]]
    used = make_cohort()
    used.train(other, replace(TASK, server_round=7, proximal_mu=1.0), stacks)
    used.score(other, [[(GROUPS[0], 0, np.array([], dtype=np.int64))]])
    fresh = make_cohort()
    assert_same(used.train(START, TASK, stacks), fresh.train(START, TASK, stacks))
    batch = [[(data, 1, data.question_keys[:2]) for data in GROUPS]]
    assert used.score(START, batch) == fresh.score(START, batch)


def test_the_feature_statistics_of_the_start_are_used():
    shifted = replace(START, feature_mean=START.feature_mean + 1)
    batch = [[(GROUPS[0], 0, GROUPS[0].question_keys)]]
    cohort = make_cohort()
    first = cohort.train(START, TASK, [CLIENTS]), cohort.score(START, batch)
    second = cohort.train(shifted, TASK, [CLIENTS]), cohort.score(shifted, batch)
    assert first[0].losses != second[0].losses
    assert first[1] != second[1]


def test_computing_leaves_the_start_as_it_was():
    start = start_of(make_predictor())
    cohort = make_cohort()
    for stacks in ([CLIENTS], [[data] for data in CLIENTS]):
        cohort.train(start, replace(TASK, reduction=Reduction(clipping_norm=0.1)), stacks)
    cohort.score(start, [[(GROUPS[0], 0, GROUPS[0].question_keys)]])
    assert torch.equal(LAYOUT.flatten(start.parameters), START_P)
    assert torch.equal(start.feature_mean, START.feature_mean)
    assert torch.equal(start.feature_std, START.feature_std)


def test_threads_compute_the_bits_of_one_thread():
    cohort = make_cohort(stack_size=2, num_threads=4)
    stacks, _ = stacked(CLIENTS, cohort)
    expected = [make_cohort(stack_size=2).train(START, TASK, [stack]) for stack in stacks]
    with ThreadPoolExecutor(4) as pool:
        shards = pool.map(lambda stack: cohort.train(START, TASK, [stack]), stacks * 4)
        for shard, alone in zip(shards, expected * 4, strict=True):
            assert_same(shard, alone)


def test_bfloat16_trains_close_to_float32_and_tf32_on_a_cpu_is_float32():
    stacks = [CLIENTS[:3], CLIENTS[3:]]
    shards = {
        precision: make_cohort(precision=precision).train(START, TASK, stacks)
        for precision in ("float32", "tf32", "bfloat16")
    }
    assert_same(shards["tf32"], shards["float32"])
    assert shards["bfloat16"].values_nP.dtype == torch.float32
    assert shards["bfloat16"].losses != shards["float32"].losses
    assert shards["bfloat16"].losses == pytest.approx(shards["float32"].losses, rel=0.02)


def test_training_works_after_scoring_and_the_other_way_round():
    batch = [[(GROUPS[0], 0, GROUPS[0].question_keys)]]
    cohort = make_cohort()
    scores = cohort.score(START, batch)
    shard = cohort.train(START, TASK, [CLIENTS[:1]])
    assert cohort.score(START, batch) == scores
    assert_same(cohort.train(START, TASK, [CLIENTS[:1]]), shard)


def test_batches_hold_every_group_and_draw_once_the_large_ones_first():
    def options(pair):
        group, draw = pair
        data = GROUPS[group]
        split = evaluation_splits(data, run_config().evaluation, 5)[draw]
        return sum(data.answers.lengths[q] for q in [*split.context, *split.target])

    for stack_size in (0, 1, 4, 100):
        batches = make_cohort(stack_size).batches(GROUPS)
        pairs = [pair for batch in batches for pair in batch]
        assert Counter(pairs) == Counter((g, d) for g in range(len(GROUPS)) for d in range(3))
        assert [options(pair) for pair in pairs] == sorted(map(options, pairs), reverse=True)
        if stack_size:
            assert {len(batch) for batch in batches[:-1]} <= {stack_size}
            assert 0 < len(batches[-1]) <= stack_size


SEEN = [data.question_keys[k % 3 :: 2] for k, data in enumerate(GROUPS)]


def score_all(cohort):
    """Every group's scores, added up draw after draw."""
    batches = cohort.batches(GROUPS)
    asked = [[(GROUPS[g], draw, SEEN[g]) for g, draw in batch] for batch in batches]
    pairs = [pair for batch in batches for pair in batch]
    of_pair = dict(zip(pairs, cohort.score(START, asked), strict=True))
    totals = [GroupScores() for _ in GROUPS]
    for group, draw in sorted(of_pair):
        totals[group] += of_pair[group, draw]
    return totals


def evaluate_alone(k):
    return evaluate_group(make_predictor(), GROUPS[k], run_config().evaluation, 5, SEEN[k])


@pytest.mark.parametrize("stack_size", [0, 2, 5])
def test_scores_of_batches_are_those_of_single_groups(stack_size):
    for k, scores in enumerate(score_all(make_cohort(stack_size))):
        alone = evaluate_alone(k)
        for name in ("all", "seen", "new"):
            ours, theirs = getattr(scores, name), getattr(alone, name)
            assert ours.weight == theirs.weight
            assert ours.total == pytest.approx(theirs.total, abs=2e-6 * max(1, theirs.weight))


def test_scores_one_by_one_have_the_bits_of_single_groups():
    assert score_all(make_cohort(stack_size=1)) == [evaluate_alone(k) for k in range(len(GROUPS))]


def test_scores_of_batches_stay_in_their_order():
    cohort = make_cohort()
    pairs = [(k, d) for k in (3, 0, 6) for d in (2, 0)]
    asked = [(GROUPS[k], d, SEEN[k]) for k, d in pairs]
    alone = [cohort.score(START, [[each]])[0] for each in asked]
    together = cohort.score(START, [asked[:4], asked[4:]])
    assert [s.all.value for s in together] == pytest.approx([s.all.value for s in alone], abs=1e-5)
    assert len({round(s.all.value, 4) for s in alone}) == len(pairs)


def test_bfloat16_scores_are_close_to_those_of_float32():
    full, lower = score_all(make_cohort()), score_all(make_cohort(precision="bfloat16"))
    assert lower != full
    assert [s.all.value for s in lower] == pytest.approx([s.all.value for s in full], abs=0.03)
