from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from task.encoder import saved_settings
from task.errors import EncoderError, RunDirectoryError
from task.saved_predictor import encoder_of, load_predictor, predictor_folder
from tests.task.examples import make_predictor
from tests.task.models import save_encoder
from tests.task.reward_examples import ENCODER, make_tiny_predictor
from tests.task.test_feature_cache import config_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with two predictors."""
    for seed, which in enumerate(("best", "final")):
        make_tiny_predictor(seed=seed).save_pretrained(tmp_path / f"predictor-{which}")
    return tmp_path


def test_a_predictor_loads_from_a_run_by_name_and_from_its_own_folder(run: Path) -> None:
    means = [make_tiny_predictor(seed=seed).feature_mean.tolist() for seed in (0, 1)]
    assert means[0] != means[1]
    assert load_predictor(run).feature_mean.tolist() == means[0]
    assert load_predictor(run, "final").feature_mean.tolist() == means[1]
    assert load_predictor(run / "predictor-final").feature_mean.tolist() == means[1]
    assert predictor_folder(run, "final") == run / "predictor-final"
    assert predictor_folder(run / "predictor-final") == run / "predictor-final"


def test_loading_prints_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_predictor(run)
    assert capsys.readouterr().out == ""


def test_a_missing_predictor_is_an_error_that_says_what_was_expected(run: Path) -> None:
    (run / "predictor-final" / "model.safetensors").unlink()
    with pytest.raises(RunDirectoryError, match=r"expected .*predictor-final/model\.safetensors"):
        load_predictor(run, "final")
    with pytest.raises(RunDirectoryError, match="holds no predictor"):
        load_predictor(run / "missing")


def test_a_predictor_with_other_parameters_does_not_load(run: Path) -> None:
    file = run / "predictor-best" / "model.safetensors"
    tensors = load_file(file)
    tensors["head.0.renamed"] = tensors.pop("head.0.weight")
    save_file(tensors, file)
    with pytest.raises(RuntimeError, match=r"head\.0\.weight"):
        load_predictor(run)


def test_the_encoder_is_the_one_of_training_wherever_it_lies(tmp_path: Path) -> None:
    assert encoder_of(make_tiny_predictor()) == ENCODER
    config = config_of(save_encoder(tmp_path / "here"), max_length=64, text_format="alpaca")
    predictor = make_predictor(dimension=32, encoder=saved_settings(config))
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(EncoderError, match="here"):
        encoder_of(predictor)
    found = encoder_of(predictor, str(tmp_path / "there"))
    assert (found.name, found.max_length) == (str(tmp_path / "there"), 64)
    assert found.text_format == "alpaca"


def test_another_encoder_than_that_of_training_is_an_error(tmp_path: Path) -> None:
    config = config_of(save_encoder(tmp_path))
    predictor = make_predictor(dimension=32, encoder=saved_settings(config))
    save_encoder(tmp_path, seed=1)
    with pytest.raises(EncoderError, match=r"trained on features of transformers-.*--encoder"):
        encoder_of(predictor)
