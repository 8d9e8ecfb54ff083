"""Our training step and group evaluation against a plain implementation, in one run.

The plain one is what a first version of GPO looks like: `nn.TransformerEncoder` with an N x N mask,
a Python loop over questions for the softmax, and one forward pass per target question. Both compute
the same function: the script checks losses and scores before it times anything.

    python benchmarks/predictor.py --output benchmarks/results/predictor.json
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from task.config import EvaluationConfig, TrainConfig
from task.episodes import Episode, Split, make_episode, sample_split
from task.evaluation import evaluate_group, evaluation_splits
from task.features import GroupData
from task.metrics import alignment_score
from task.predictor import PreferencePredictor
from task.seeding import generator
from task.survey import Answers
from task.training import episode_losses

DIMENSION = 384
QUESTIONS = 120  # in evaluation: 20 of context, 100 targets
EVALUATION = EvaluationConfig(num_context=20, num_draws=1)


class PlainPredictor(nn.Module):
    """GPO as one would write it first."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 128, dropout=0.0, batch_first=True)
        self.embedder = nn.Sequential(
            *(nn.Linear(DIMENSION + 1, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()),
            *(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128)),
        )
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.predictor = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, context_x: Tensor, context_y: Tensor, target_x: Tensor) -> Tensor:
        """Return (targets, 2) means and log deviations."""
        num_context, num_target = len(context_x), len(target_x)
        context = torch.cat((context_x, context_y[:, None]), dim=1)
        target = torch.cat((target_x, torch.zeros(num_target, 1, device=target_x.device)), dim=1)
        tokens = torch.cat((context, target))[None]
        size = num_context + num_target
        mask = torch.full((size, size), -torch.inf, device=target_x.device)
        mask[:, :num_context] = 0.0
        out: Tensor = self.predictor(self.encoder(self.embedder(tokens), mask=mask))
        return out[0, num_context:]


def plain_loss(model: PlainPredictor, episode: Episode, lengths: list[int]) -> Tensor:
    """Return the categorical loss of one episode, question by question."""
    out = model(episode.context_x_BCd[0], episode.context_y_BC[0], episode.target_x_BTd[0])
    losses, start = [], 0
    for question, length in enumerate(lengths):
        log_p = out[start : start + length, 0].log_softmax(0)
        losses.append(-(episode.target_y_BQO[0, question, :length] * log_p).sum())
        start += length
    return torch.stack(losses).mean()


@torch.inference_mode()
def plain_evaluate(model: PlainPredictor, data: GroupData, split: Split, device: str) -> float:
    """Return the alignment score, one forward pass per target question."""
    model.eval()
    scores = []
    for target in split.target:
        part = (data, Split(split.context, np.array([target])))
        episode = make_episode([part], device=device)
        out = model(episode.context_x_BCd[0], episode.context_y_BC[0], episode.target_x_BTd[0])
        guess = out[:, 0].softmax(0)
        scores.append(float(alignment_score(guess, episode.target_y_BQO[0, 0])))
    return statistics.fmean(scores)


def made_up_group() -> GroupData:
    """Return a group with options per question and features as in GlobalOpinionQA."""
    random = generator(0, "benchmark group")
    lengths = random.choice([2, 3, 4, 5, 7], QUESTIONS, p=[0.17, 0.16, 0.27, 0.27, 0.13])
    shares = [random.dirichlet(np.ones(length)) for length in lengths]
    everything = np.arange(QUESTIONS)
    return GroupData(
        group="benchmark",
        role="held-out",
        features=random.normal(0, 1, (int(lengths.sum()), DIMENSION)).astype(np.float32),
        rows=np.arange(lengths.sum()),
        answers=Answers(everything, lengths, np.concatenate(shares).astype(np.float32)),
        question_keys=everything,
        trainable=everything,
        held_back=everything[:0],
    )


def time_in_turn(
    ours: Callable[[], object], plain: Callable[[], object], repeats: int, device: str
) -> dict[str, float]:
    """Return median seconds of both, run in turn so that both see the same machine."""
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for repeat in range(repeats + 2):
        for name, run in (("ours", ours), ("plain", plain)):
            started = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - started)
    medians = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    return medians | {"ratio": medians["plain_seconds"] / medians["ours_seconds"]}


def main() -> None:
    """Check equality, time both, print and save the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1: as a Ray actor)")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    data = made_up_group()
    plain = PlainPredictor().to(device)
    ours = PreferencePredictor.from_gpo_state_dict(plain.state_dict()).to(device)
    random = generator(0, "benchmark episodes")
    splits = [sample_split(data, TrainConfig(), random) for _ in range(arguments.repeats + 2)]
    lengths = [data.answers.lengths[split.target].tolist() for split in splits]
    (evaluation,) = evaluation_splits(data, EVALUATION, 0)

    episode = make_episode([(data, splits[0])], device=device)
    torch.testing.assert_close(
        episode_losses(ours, episode, "categorical").mean(), plain_loss(plain, episode, lengths[0])
    )
    score = evaluate_group(ours, data, EVALUATION, 0, np.array([], dtype=np.int64)).all.value
    assert abs(score - plain_evaluate(plain, data, evaluation, device)) < 1e-5

    optimizers = {
        "ours": torch.optim.AdamW(ours.parameters(), lr=1e-4, weight_decay=0.0, fused=True),
        "plain": torch.optim.AdamW(plain.parameters(), lr=1e-4, weight_decay=0.0, fused=True),
    }
    steps = {"ours": iter(range(len(splits))), "plain": iter(range(len(splits)))}

    def step(name: str) -> None:
        index = next(steps[name])
        batch = make_episode([(data, splits[index])], device=device)
        if name == "ours":
            loss = episode_losses(ours.train(), batch, "categorical").mean()
        else:
            loss = plain_loss(plain.train(), batch, lengths[index])
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    no_keys = np.array([], dtype=np.int64)
    figures = {
        "training_step": time_in_turn(
            lambda: step("ours"), lambda: step("plain"), arguments.repeats, device
        ),
        "evaluation_of_100_questions": time_in_turn(
            lambda: evaluate_group(ours, data, EVALUATION, 0, no_keys),
            lambda: plain_evaluate(plain, data, evaluation, device),
            max(3, arguments.repeats // 6),
            device,
        ),
        "machine": {
            "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
            "platform": platform.platform(),
            "threads": arguments.threads,
            "torch": torch.__version__,
        },
    }
    for name in ("training_step", "evaluation_of_100_questions"):
        row = figures[name]
        print(
            f"{name:<28} ours {1e3 * row['ours_seconds']:8.2f} ms   plain "
            f"{1e3 * row['plain_seconds']:8.2f} ms   {row['ratio']:6.2f}x"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
