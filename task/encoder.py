"""Encoders: from question and option text to features, cached on disk.

Features depend on text only, never on answers, so they are computed once per machine, kept under
the encoder's fingerprint, and read by all clients of a machine from the same memory-mapped file.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from task.config import HASHING, EncoderConfig
from task.encoder_texts import texts_of
from task.errors import EncoderError
from task.paths import cache_directory
from task.survey import Question

QUIET_TEXTS = 1000
"""So many texts are encoded without a progress bar."""


class Encoder(Protocol):
    """Turns questions into features.

    Attributes:
        num_truncated: texts encoded so far that were longer than the encoder takes.
    """

    num_truncated: int

    @property
    def fingerprint(self) -> str:
        """Identifies the features: equal on two machines exactly when their features agree."""

    def encode(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """Return (options of all questions, d_x) features, one row per (question, option)."""


class HashingEncoder:
    """Feature hashing of words and word pairs; question and option hash into separate halves."""

    def __init__(self, config: EncoderConfig) -> None:
        self.dimension = config.dimension
        self.num_truncated = 0

    @property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`."""
        return f"hashing-{self.dimension}"

    def encode(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        from sklearn.feature_extraction.text import HashingVectorizer  # slow to import

        option_width = self.dimension // 2
        halves = []
        for width, texts in (
            (self.dimension - option_width, [q.text for q in questions for _ in q.options]),
            (option_width, [option for q in questions for option in q.options]),
        ):
            if width:
                hasher = HashingVectorizer(
                    n_features=width, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"
                )
                halves.append(hasher.transform(texts).toarray())
        return np.concatenate(halves, axis=1).astype(np.float32)


class TransformersEncoder:
    """Any `transformers` encoder or decoder: masked mean pooling of the last hidden state."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self.num_truncated = 0

    @cached_property
    def folder(self) -> Path:
        """The local folder of the model; a hub model is downloaded once.

        Raises:
            EncoderError: there is no such folder, or the hub cannot be reached.
        """
        folder = Path(self.config.name).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise EncoderError(
                    f"encoder.name = {self.config.name!r}: the folder holds no config.json. "
                    "Expected the folder of a transformers model."
                )
            return folder
        return _download(self.config.name, self.config.revision or None)

    @cached_property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`: the model's files, the prompt and the settings.

        Weights are sampled (first and last MiB), so that a model of many gigabytes takes no time.
        """
        digest = hashlib.sha256()
        suffixes = {".json", ".txt", ".model", ".safetensors"}
        if not any(self.folder.glob("*.safetensors")):
            suffixes.add(".bin")
        for file in sorted(self.folder.iterdir()):
            if file.suffix in suffixes:
                digest.update(f"{file.name}:{file.stat().st_size}:".encode())
                with file.open("rb") as stream:
                    digest.update(stream.read(1 << 20))
                    stream.seek(max(0, file.stat().st_size - (1 << 20)))
                    digest.update(stream.read(1 << 20))
        texts = list(texts_of([Question("question", ("option", "other"))], self.config.text_format))
        settings = f"mean-pooling:{texts}:{self.config.max_length}:{self.config.dtype}"
        digest.update(settings.encode())
        return f"transformers-{digest.hexdigest()[:16]}"

    def encode(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """See `Encoder.encode`; texts are batched by length, so that padding stays small."""
        from tqdm import tqdm

        tokenizer, model = self._loaded
        longest = tokenizer.model_max_length
        given = list(texts_of(questions, self.config.text_format))
        texts = list(dict.fromkeys(given))  # comparisons name an option many times
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        features = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
        size = self.config.batch_size
        quiet = len(texts) <= QUIET_TEXTS
        with (
            torch.inference_mode(),
            tqdm(
                total=len(texts), desc="Encoding", unit="text", mininterval=2, disable=quiet
            ) as bar,
        ):
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                chosen = [texts[row] for row in rows]
                batch = _tokens(tokenizer, chosen, longest + 1)
                if batch["input_ids"].shape[1] > longest:
                    self.num_truncated += int((batch["attention_mask"].sum(1) > longest).sum())
                    batch = _tokens(tokenizer, chosen, longest)
                batch = batch.to(model.device)
                hidden_BLd = model(**batch).last_hidden_state.float()
                features[rows] = mean_pooled(hidden_BLd, batch["attention_mask"]).cpu().numpy()
                bar.update(len(rows))
        if not np.isfinite(features).all():
            raise EncoderError(
                f"encoder.name = {self.config.name!r} gives non-finite features with dtype "
                f"{self.config.dtype}. Set encoder.dtype to float32."
            )
        if len(texts) == len(given):
            return features
        place = {text: row for row, text in enumerate(texts)}
        return features[[place[text] for text in given]]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model.

        Raises:
            EncoderError: they cannot be loaded.
        """
        from transformers import AutoModel  # slow to import

        dtype = self.config.dtype  # "auto": the one that the model was saved in
        try:
            model = AutoModel.from_pretrained(self.folder, dtype=dtype)
            tokenizer = self.load_tokenizer(model.config)
        except (OSError, ValueError) as error:
            raise EncoderError(
                f"encoder.name = {self.config.name!r} cannot be loaded as a transformers model: "
                f"{error}"
            ) from error
        return tokenizer, model.to(_device(self.config.device)).eval()

    def load_tokenizer(self, model_config: Any) -> Any:
        """Return a tokenizer that pads; its `model_max_length` is the most tokens of a text."""
        from transformers import AutoTokenizer  # slow to import

        tokenizer = AutoTokenizer.from_pretrained(self.folder, padding_side="right")
        if tokenizer.pad_token is None:  # decoders such as Llama have none; pads are masked anyway
            tokenizer.pad_token = tokenizer.eos_token
        most = self.config.max_length
        positions = getattr(model_config, "max_position_embeddings", None) or most
        tokenizer.model_max_length = min(most, tokenizer.model_max_length, positions)
        return tokenizer


def mean_pooled(hidden_BLd: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Return (B, d), the mean over each text's own tokens.

    Args:
        hidden_BLd: last hidden states.
        mask_BL: 1 where there is a token, 0 where there is padding.
    """
    mask_BL1 = mask_BL.unsqueeze(-1).to(hidden_BLd.dtype)
    pooled_Bd: torch.Tensor = (hidden_BLd * mask_BL1).sum(1) / mask_BL1.sum(1)
    return pooled_Bd


def saved_settings(config: EncoderConfig) -> dict[str, str | int]:
    """Return what a saved predictor needs to encode new texts alike, and to notice if it cannot."""
    return {
        "name": config.name,
        "revision": config.revision,
        "text_format": config.text_format,
        "dimension": config.dimension,
        "max_length": config.max_length,
        "dtype": config.dtype,
        "fingerprint": make_encoder(config).fingerprint,
    }


def make_encoder(config: EncoderConfig) -> Encoder:
    """Return the encoder that the config names."""
    return HashingEncoder(config) if config.name == HASHING else TransformersEncoder(config)


def encode_cached(questions: Sequence[Question], config: EncoderConfig) -> NDArray[np.float32]:
    """Return (options of all questions, d_x) features, read-only, memory-mapped from the cache.

    The first process to ask computes them while others wait for it; a file appears only when
    complete, so a process killed half-way leaves nothing behind that could be mistaken for it.

    Raises:
        EncoderError: the encoder cannot be loaded.
    """
    encoder = make_encoder(config)
    digest = hashlib.sha256(encoder.fingerprint.encode())
    for question in questions:
        digest.update(question.key.to_bytes(8, "big", signed=True))
    folder = cache_directory(config) / encoder.fingerprint
    file = folder / f"{digest.hexdigest()[:32]}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():  # another process may have computed them while we waited
                computed = encoder.encode(questions)
                partial = file.with_suffix(f".{os.getpid()}.tmp")
                with partial.open("wb") as stream:
                    np.save(stream, computed)
                partial.replace(file)
    features: NDArray[np.float32] = np.load(file, mmap_mode="r")
    return features


def _tokens(tokenizer: Any, texts: list[str], most: int) -> Any:
    """Return the batch of these texts' tokens, at most so many of each."""
    return tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")


def _device(name: str) -> torch.device:
    """Choose the fastest device there is, unless one is named."""
    if name == "cuda" and not torch.cuda.is_available():
        raise EncoderError("encoder.device = 'cuda': no CUDA device is visible. Use 'auto'.")
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=[*patterns, "*.bin"])
            )
    except Exception as error:  # hub, network and cache failures share no base class
        raise EncoderError(
            f"encoder.name = {name!r} is neither 'hashing' nor an existing folder, and cannot be "
            f"loaded from the Hugging Face hub ({type(error).__name__}). Without network access, "
            "give the path of a local folder that holds the model."
        ) from error
    return folder
