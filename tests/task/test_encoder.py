import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from task.config import EncoderConfig
from task.encoder import (
    HashingEncoder,
    TransformersEncoder,
    cache_directory,
    encode_cached,
    make_encoder,
    saved_settings,
)
from task.errors import EncoderError
from task.survey import Question
from tests.task import cache_workers
from tests.task.models import save_decoder, save_encoder

QUESTIONS = [
    Question("What is good?", ("tea", "coffee", "no tea, no coffee, never")),
    Question("Is tea often good or is tea never good or is tea maybe bad?", ("yes", "no")),
    Question("Tea?", ("yes", "{maybe}")),
]
NUM_OPTIONS = 7


def pooled_one_by_one(folder, texts, max_length=512):
    """Mean over a text's own tokens, each text alone: no padding, no mask."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        with torch.no_grad():
            rows.append(model.eval()(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0))
    return torch.stack(rows).numpy()


def texts_of(questions):
    return [f"{question.text} {option}" for question in questions for option in question.options]


def config_of(folder, **changes):
    return EncoderConfig(name=str(folder), device="cpu", batch_size=3, **changes)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("dimension", [1, 2, 7, 64])
def test_hashing_gives_one_row_per_option(dimension):
    encoder = HashingEncoder(EncoderConfig(dimension=dimension))
    features = encoder.encode(QUESTIONS)
    assert (features.shape, features.dtype) == ((NUM_OPTIONS, dimension), np.float32)
    np.testing.assert_array_equal(encoder.encode(QUESTIONS), features)
    assert encoder.fingerprint == f"hashing-{dimension}"


def test_hashing_keeps_question_and_option_in_separate_halves():
    swapped = [Question("yes", ("Tea?", "coffee")), Question("yes", ("coffee", "milk"))]
    features = HashingEncoder(EncoderConfig(dimension=64)).encode(swapped)
    question, option = features[:, :32], features[:, 32:]
    assert (question == question[0]).all()
    np.testing.assert_array_equal(option[1], option[2])
    assert not np.array_equal(option[0], option[1])
    assert not np.array_equal(option[2], option[3])


def test_hashing_tells_word_order_and_one_letter_words_apart():
    question = Question("?", ("tea not coffee", "coffee not tea", "A", "B", "1", "2"))
    features = HashingEncoder(EncoderConfig(dimension=256)).encode([question])
    assert len({row.tobytes() for row in features}) == 6


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_of_padded_texts_equal_one_text_at_a_time(bert, batch_size):
    config = replace(config_of(bert), batch_size=batch_size)
    features = TransformersEncoder(config).encode(QUESTIONS)
    assert features.dtype == np.float32
    np.testing.assert_allclose(
        features, pooled_one_by_one(bert, texts_of(QUESTIONS)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "padding_side"), [("gpt2", "right"), ("llama", "right"), ("gpt2", "left")]
)
def test_a_decoder_without_padding_token_equals_one_text_at_a_time(tmp_path, kind, padding_side):
    folder = save_decoder(tmp_path, kind=kind, padding_side=padding_side)
    features = TransformersEncoder(config_of(folder)).encode(QUESTIONS)
    np.testing.assert_allclose(
        features, pooled_one_by_one(folder, texts_of(QUESTIONS)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("max_length", [8, 512])
def test_long_texts_are_cut_at_the_setting_and_at_the_models_limit(tmp_path, kind, max_length):
    folder = save_encoder(tmp_path, kind=kind, positions=32)
    limit = min(max_length, 31 if kind == "roberta" else 32)
    long = [Question("is tea good or bad? " * 20, ("yes", "no"))]
    features = TransformersEncoder(config_of(folder, max_length=max_length)).encode(long)
    expected = pooled_one_by_one(folder, texts_of(long), max_length=limit)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_the_alpaca_prompt_shows_question_all_options_and_the_answer(bert):
    config = config_of(bert, text_format="alpaca")
    prompts = [
        "Below is an instruction that describes a task, paired with an input that provides further"
        " context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "Given the question and its options, choose the option you agree with most.\n\n### Input:\n"
        f"{question.text}\nOptions: {'; '.join(question.options)}\n\n### Response:\n{option}"
        for question in QUESTIONS
        for option in question.options
    ]
    np.testing.assert_allclose(
        TransformersEncoder(config).encode(QUESTIONS),
        pooled_one_by_one(bert, prompts, max_length=128),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_fingerprint_follows_the_model_wherever_it_lies(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("not part of the model")
    original = make_encoder(config_of(bert)).fingerprint
    assert make_encoder(config_of(tmp_path / "copy")).fingerprint == original


def test_the_fingerprint_ignores_how_features_are_computed(bert):
    original = make_encoder(config_of(bert)).fingerprint
    other = replace(config_of(bert), batch_size=64, device="auto")
    assert make_encoder(other).fingerprint == original


def test_the_fingerprint_tells_other_weights_and_settings_apart(bert, tmp_path):
    fingerprints = {
        make_encoder(config).fingerprint
        for config in (
            config_of(bert),
            config_of(save_encoder(tmp_path / "other", seed=1)),
            config_of(bert, text_format="alpaca"),
            config_of(bert, max_length=64),
        )
    }
    assert len(fingerprints) == 4


def test_the_fingerprint_ignores_a_second_copy_of_the_weights(bert, tmp_path):
    """Hub snapshots hold the safetensors only; a cloned model often holds both."""
    shutil.copytree(bert, tmp_path / "clone")
    (tmp_path / "clone" / "pytorch_model.bin").write_bytes(b"the same weights, pickled")
    original = make_encoder(config_of(bert)).fingerprint
    assert make_encoder(config_of(tmp_path / "clone")).fingerprint == original


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(EncoderError, match=r"encoder\.name = .*holds no config\.json"):
        make_encoder(config_of(tmp_path)).fingerprint  # noqa: B018 (the property raises)


def test_a_folder_with_an_unloadable_model_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="cannot be loaded as a transformers model"):
        encode_cached(QUESTIONS, config_of(tmp_path))


def test_an_unreachable_encoder_is_an_error_that_points_to_a_local_folder():
    config = EncoderConfig(name="nobody/has-this-model")
    with pytest.raises(EncoderError, match=r"'nobody/has-this-model'.*path of a local folder"):
        encode_cached(QUESTIONS, config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(bert):
    with pytest.raises(EncoderError, match=r"encoder\.device = 'cuda': no CUDA device"):
        encode_cached(QUESTIONS, replace(config_of(bert), device="cuda"))


def test_features_that_are_not_finite_are_an_error(tmp_path):
    model = AutoModel.from_pretrained(save_encoder(tmp_path))
    model.embeddings.word_embeddings.weight.data[:] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"non-finite features.*float32"):
        encode_cached(QUESTIONS, config_of(tmp_path))


def test_half_precision_stays_near_single_precision(bert):
    exact = TransformersEncoder(config_of(bert)).encode(QUESTIONS)
    rounded = TransformersEncoder(config_of(bert, dtype="bfloat16")).encode(QUESTIONS)
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.1 * np.abs(exact).max())


def test_saved_settings_rebuild_the_encoder(bert):
    config = config_of(bert, text_format="alpaca", max_length=64)
    settings = saved_settings(config)
    fingerprint = settings.pop("fingerprint")
    assert make_encoder(EncoderConfig(**settings)).fingerprint == fingerprint
    assert fingerprint == make_encoder(config).fingerprint


def test_the_cache_lies_where_setting_or_environment_say(monkeypatch):
    monkeypatch.setenv("PLURALLLM_CACHE", "/somewhere")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_directory(EncoderConfig(cache_directory="~/x")) == Path("/home/somebody/x")
    assert cache_directory(EncoderConfig()) == Path("/somewhere")
    monkeypatch.delenv("PLURALLLM_CACHE")
    assert cache_directory(EncoderConfig()) == Path("/home/somebody/.cache/pluralllm")


def test_features_are_read_only_and_encoded_once(monkeypatch):
    config = EncoderConfig(dimension=8)
    first = encode_cached(QUESTIONS, config)
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    np.testing.assert_array_equal(first, HashingEncoder(config).encode(QUESTIONS))

    def forbidden(self, questions):
        raise AssertionError("encoded a second time")

    monkeypatch.setattr(HashingEncoder, "encode", forbidden)
    np.testing.assert_array_equal(encode_cached(QUESTIONS, config), first)
    with pytest.raises(AssertionError, match="second time"):
        encode_cached(QUESTIONS[::-1], config)
    with pytest.raises(AssertionError, match="second time"):
        encode_cached(QUESTIONS, EncoderConfig(dimension=9))


def test_other_precisions_are_cached_apart(bert):
    exact = encode_cached(QUESTIONS, config_of(bert, dtype="float32"))
    assert not np.array_equal(encode_cached(QUESTIONS, config_of(bert, dtype="bfloat16")), exact)


@pytest.fixture
def processes():
    """Starts processes that share nothing with this one but what they are given."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", cache_workers.__name__])
    return context


def test_ten_processes_started_together_encode_once(processes, tmp_path):
    config = EncoderConfig(dimension=8, cache_directory=str(tmp_path / "shared"))
    results = [tmp_path / f"{index}.bytes" for index in range(10)]
    barrier = processes.Barrier(len(results), timeout=60)
    started = []
    for result in results:
        arguments = (QUESTIONS, config, tmp_path / "calls", barrier, result)
        started.append(processes.Process(target=cache_workers.encode_and_count, args=arguments))
        started[-1].start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 10
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    expected = HashingEncoder(config).encode(QUESTIONS).tobytes()
    assert all(result.read_bytes() == expected for result in results)


def test_a_process_that_dies_while_writing_leaves_nothing_that_passes_for_features(
    processes, tmp_path
):
    config = EncoderConfig(dimension=8, cache_directory=str(tmp_path / "shared"))
    arguments = (QUESTIONS, config)
    process = processes.Process(target=cache_workers.write_half_and_die, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 1
    assert [file for file in (tmp_path / "shared").rglob("*") if file.is_file()]
    np.testing.assert_array_equal(
        encode_cached(QUESTIONS, config), HashingEncoder(config).encode(QUESTIONS)
    )


def test_an_encoder_that_fails_can_be_tried_again(monkeypatch):
    config = EncoderConfig(dimension=8)
    with monkeypatch.context() as patch:
        patch.setattr(HashingEncoder, "encode", lambda self, questions: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode_cached(QUESTIONS, config)
    assert encode_cached(QUESTIONS, config).shape == (NUM_OPTIONS, 8)


def test_the_model_is_loaded_once_and_only_to_encode(bert, monkeypatch):
    loaded = []
    load = AutoModel.from_pretrained
    monkeypatch.setattr(
        AutoModel,
        "from_pretrained",
        lambda *given, **named: loaded.append(1) or load(*given, **named),
    )
    encoder = make_encoder(config_of(bert))
    assert encoder.fingerprint
    assert not loaded
    first = encoder.encode(QUESTIONS)
    np.testing.assert_allclose(encoder.encode(QUESTIONS[:1]), first[:3], atol=1e-5)
    assert len(loaded) == 1


@pytest.mark.parametrize("folder", ["bert", "gpt2"])
def test_texts_that_are_cut_are_counted(tmp_path, folder):
    save = {"bert": save_encoder, "gpt2": lambda path: save_decoder(path, kind="gpt2")}[folder]
    encoder = make_encoder(config_of(save(tmp_path), max_length=8))
    # With [CLS] and [SEP], "tea ?" and so many words are 4 more tokens than words.
    options = tuple(" ".join(["good"] * number) for number in (1, 4, 5, 6, 50))
    encoder.encode([Question("tea ?", options)])
    assert encoder.num_truncated == 3
    encoder.encode([Question("tea ?", options[:2])])
    encoder.encode([Question("tea ?", options[2:3])])
    assert encoder.num_truncated == 4
    assert HashingEncoder(EncoderConfig(dimension=8)).num_truncated == 0
