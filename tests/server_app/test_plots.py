import json
from pathlib import Path

import matplotlib.image
import pytest

from server_app.plots import plot_run
from server_app.run_directory import RunDirectory
from tests.server_app.in_process_grid import tiny_config

SCORES = {"alignment_score": 0.6, "worst_group": 0.4}


def finished_run(path: Path, *, held_out: bool, num_groups: int = 2) -> RunDirectory:
    directory = RunDirectory.create(path, tiny_config())
    scores = {"held_out": SCORES if held_out else None, "train": SCORES}
    lines = [
        {"round": 0, "groups": {}, **scores},
        {"round": 1},
        {"round": 2, "groups": {}} | scores,
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"role": "train", "alignment_score": 0.6, "uniform": 0.4, "population_mean": 0.7}
    groups = {f"Group {i}": entry for i in range(num_groups)}
    if held_out:
        groups["Japan"] = {**entry, "role": "held-out"}
    names = ("model", "uniform", "population_mean")
    summary = {role: dict.fromkeys(names, entry) for role, entry in scores.items()}
    directory.write_json("summary.json", {**summary, "groups": groups})
    return directory


@pytest.mark.parametrize("held_out", [True, False])
def test_a_runs_files_are_enough_to_draw_it(tmp_path: Path, held_out: bool) -> None:
    directory = finished_run(tmp_path, held_out=held_out)
    plot_run(directory)
    image = matplotlib.image.imread(tmp_path / "plots" / "run.png", format="png")
    assert min(image.shape[:2]) >= 400
    assert image[..., :3].min() < 0.5 < image[..., :3].max()  # something is drawn on it
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["run.png"]


def test_many_groups_make_a_taller_figure(tmp_path: Path) -> None:
    plot_run(finished_run(tmp_path, held_out=True, num_groups=40))
    image = matplotlib.image.imread(tmp_path / "plots" / "run.png", format="png")
    assert image.shape[0] > 1200


def test_hundreds_of_groups_do_not_make_a_figure_of_metres(tmp_path: Path) -> None:
    plot_run(finished_run(tmp_path, held_out=True, num_groups=300))
    image = matplotlib.image.imread(tmp_path / "plots" / "run.png", format="png")
    assert image.shape[0] < 4000


@pytest.mark.parametrize("noisy", [True, False])
def test_without_scores_of_groups_noisy_means_are_drawn_or_nothing(
    tmp_path: Path, noisy: bool
) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    mean = {"train": {"alignment_score": 0.7}} if noisy else {}
    lines = [{"round": number, **mean} for number in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    models = {role: {"model": mean.get(role)} for role in ("held_out", "train")}
    directory.write_json("summary.json", {**models, "groups": {}})
    plot_run(directory)
    assert (tmp_path / "plots" / "run.png").exists() is noisy
