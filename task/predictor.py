"""The preference predictor: GPO's transformer (arXiv 2310.11523), top to bottom in one file.

A token is one option: its features and its answer share. Context options carry their true share,
target options 0. Every token attends to the context tokens only, so target questions see neither
each other nor themselves, and all targets of a group fit in one forward pass.

Suffixes: B episodes, C context options, T target options, N = C + T tokens, Q target questions,
O options of a question, d feature dimensions, w width, h heads, f width of the head.
"""

import math
from collections.abc import Mapping
from itertools import chain

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from task.config import PredictorSettings
from task.episodes import Episode
from task.features import FeatureSums
from task.gpo_checkpoint import count_keys, translate
from task.population import PopulationAnswers, PopulationPrior, StoredPopulation
from task.seeding import derive_seed


class ContextAttention(nn.Module):
    """Multi-head attention of all tokens to the context tokens.

    Keys and values have no biases. A key's adds the same to all of a query's logits, which the
    softmax ignores: its gradient is rounding noise, which Adam would blow up to full steps. A
    value's adds the same to every output, as the output's own bias does.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)
        # As nn.MultiheadAttention starts: Xavier over the stacked query, key and value.
        for linear in (self.query, self.key_value):
            bound = math.sqrt(6 / (4 * width))
            nn.init.uniform_(linear.weight, -bound, bound)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_BNw: Tensor, context_BCw: Tensor, mask_B11C: Tensor | None) -> Tensor:
        """Return (B, N, w); with no context there is nothing to attend to, and 0 comes of it."""
        if context_BCw.shape[1] == 0:
            return self.output(torch.zeros_like(x_BNw))  # type: ignore[no-any-return]
        key_BCw, value_BCw = self.key_value(context_BCw).chunk(2, dim=-1)
        attended_BhNe = F.scaled_dot_product_attention(
            self._heads(self.query(x_BNw)),
            self._heads(key_BCw),
            self._heads(value_BCw),
            attn_mask=mask_B11C,
        )
        attended: Tensor = self.output(attended_BhNe.transpose(1, 2).flatten(2))
        return attended

    def _heads(self, x_BNw: Tensor) -> Tensor:
        return x_BNw.view(*x_BNw.shape[:2], self.num_heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, width: int, num_heads: int, feedforward_width: int) -> None:
        super().__init__()
        self.attention = ContextAttention(width, num_heads)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward_width), nn.ReLU(), nn.Linear(feedforward_width, width)
        )
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, x_BNw: Tensor, context_BCw: Tensor, mask_B11C: Tensor | None) -> Tensor:
        """Return (B, N, w)."""
        x_BNw = self.attention_norm(x_BNw + self.attention(x_BNw, context_BCw, mask_B11C))
        normed_BNw: Tensor = self.feedforward_norm(x_BNw + self.feedforward(x_BNw))
        return normed_BNw


class PreferencePredictor(nn.Module, PyTorchModelHubMixin):
    """Predicts a group's answer distributions on new questions from answered ones.

    Saved by `save_pretrained` as `model.safetensors` and `config.json`, feature statistics and
    encoder included, so that a saved predictor can be used alone.

    Args:
        feature_dimension: d, the encoder's feature dimensions.
        width: width of the tokens (GPO's d_model).
        embedder_depth: linear layers of the token embedder.
        num_layers: transformer layers.
        num_heads: attention heads; divides `width`.
        feedforward_width: width of the feed-forward layers and of the head.
        answer_gain: factor on the initial weights of the answer share; it changes where training
            starts, not what the network can compute.
        encoder: `task.encoder.saved_settings` of the encoder that made the training features; kept
            so that new texts can be encoded alike.
        population_weight: see `task.population.PopulationPrior`; 0: none.
        population_size: questions and options of the population's answers that are kept.
    """

    feature_mean: Tensor
    feature_std: Tensor
    mean_offset: Tensor

    def __init__(
        self,
        *,
        feature_dimension: int,
        width: int = 128,
        embedder_depth: int = 4,
        num_layers: int = 6,
        num_heads: int = 4,
        feedforward_width: int = 128,
        answer_gain: float = 1.0,
        encoder: dict[str, str | int] | None = None,
        population_weight: float = 0.0,
        population_size: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.encoder = encoder or {}
        first = nn.Linear(feature_dimension + 1, width)
        with torch.no_grad():
            first.weight[:, -1] *= answer_gain
        deeper = [(nn.ReLU(), nn.Linear(width, width)) for _ in range(embedder_depth - 1)]
        self.embedder = nn.Sequential(first, *chain.from_iterable(deeper))
        self.layers = nn.ModuleList(
            Layer(width, num_heads, feedforward_width) for _ in range(num_layers)
        )
        self.head = nn.Sequential(nn.Linear(width, feedforward_width), nn.ReLU())
        # Like a key's bias, one that all means share vanishes in the softmax: it is not trained.
        self.mean = nn.Linear(feedforward_width, 1, bias=False)
        self.log_std = nn.Linear(feedforward_width, 1)
        self.population = StoredPopulation(population_weight, population_size)
        self.register_buffer("mean_offset", torch.zeros(1))
        self.register_buffer("feature_mean", torch.zeros(feature_dimension))
        self.register_buffer("feature_std", torch.ones(feature_dimension))

    @classmethod
    def of(
        cls,
        settings: PredictorSettings,
        feature_dimension: int,
        encoder: dict[str, str | int] | None = None,
        population_size: tuple[int, int] = (0, 0),
    ) -> "PreferencePredictor":
        """Return a predictor as the config describes it."""
        return cls(
            feature_dimension=feature_dimension,
            width=settings.width,
            embedder_depth=settings.embedder_depth,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            feedforward_width=settings.feedforward_width,
            answer_gain=settings.answer_gain,
            encoder=encoder,
            population_weight=settings.population_weight,
            population_size=population_size,
        )

    @classmethod
    def initial(
        cls,
        settings: PredictorSettings,
        sums: FeatureSums,
        encoder: dict[str, str | int],
        seed: int,
        population: PopulationAnswers | None = None,
    ) -> "PreferencePredictor":
        """Return an untrained predictor that depends on the arguments alone.

        Args:
            settings: the `predictor.*` settings.
            sums: feature sums over the training groups' questions, for standardisation.
            encoder: see the class.
            seed: the run's seed.
            population: the training groups' answers, to be kept for mixing.
        """
        size = (len(population.keys), len(population.totals)) if population else (0, 0)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "initial parameters"))
            predictor = cls.of(settings, len(sums.total), encoder, size)
        if population:
            predictor.population.store(population)
        if settings.standardise_features:
            mean, std = sums.mean_and_std()
            predictor.feature_mean.copy_(torch.from_numpy(mean))
            predictor.feature_std.copy_(torch.from_numpy(std))
        return predictor

    @property
    def prior(self) -> PopulationPrior | None:
        """The population's answers to mix into predictions; None: there are none."""
        return self.population.prior

    def predict(
        self,
        context_x_BCd: Tensor,
        context_y_BC: Tensor,
        target_x_BTd: Tensor,
        context_mask_BC: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (B, T) means and standard deviations, one per target option.

        As in GPO the means are not yet soft-maxed over the options of a question; see
        `distributions`.
        """
        mean_BT, log_std_BT = self(context_x_BCd, context_y_BC, target_x_BTd, context_mask_BC)
        return mean_BT, log_std_BT.exp()

    def distributions(self, episode: Episode) -> Tensor:
        """Return (B, Q, O) predicted answer distributions, 0 where a question has no option."""
        return self.log_distributions(episode)[0].exp()

    def log_distributions(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return (B, Q, O) log probabilities (-inf where no option) and log deviations."""
        mean_BT, log_std_BT = self(
            episode.context_x_BCd,
            episode.context_y_BC,
            episode.target_x_BTd,
            episode.context_mask_BC,
        )
        return episode.log_softmax(mean_BT), episode.by_question(log_std_BT)

    def forward(
        self,
        context_x_BCd: Tensor,
        context_y_BC: Tensor,
        target_x_BTd: Tensor,
        context_mask_BC: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (B, T) means and log standard deviations, one per target option.

        Args:
            context_x_BCd: features of the context options, as the encoder gives them.
            context_y_BC: their answer shares, in [0, 1].
            target_x_BTd: features of the target options.
            context_mask_BC: True where there is a context option; None when all exist.
        """
        num_context = context_x_BCd.shape[1]
        x_BNd = torch.cat((context_x_BCd, target_x_BTd), dim=1)
        x_BNd = (x_BNd - self.feature_mean) / self.feature_std
        y_BN = F.pad(context_y_BC, (0, target_x_BTd.shape[1]))
        x_BNw = self.embedder(torch.cat((x_BNd, y_BN.unsqueeze(-1)), dim=-1))
        mask_B11C = None if context_mask_BC is None else context_mask_BC[:, None, None, :]
        for layer in self.layers[:-1]:
            x_BNw = layer(x_BNw, x_BNw[:, :num_context], mask_B11C)
        # What the last layer would make of the context tokens nobody reads.
        x_BTw = self.layers[-1](x_BNw[:, num_context:], x_BNw[:, :num_context], mask_B11C)
        hidden_BTf = self.head(x_BTw)
        mean_BT = self.mean(hidden_BTf).squeeze(-1) + self.mean_offset
        return mean_BT, self.log_std(hidden_BTf).squeeze(-1)

    def set_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Overwrite all parameters; buffers (feature statistics) stay.

        Raises:
            ValueError: a parameter is missing, unknown, or of another shape.
        """
        expected = {name: tuple(p.shape) for name, p in self.named_parameters()}
        given = {name: tuple(p.shape) for name, p in parameters.items()}
        if given != expected:
            differing = sorted(given.items() ^ expected.items())
            raise ValueError(f"Not this predictor's parameters: {differing[:4]} differ.")
        self.load_state_dict(dict(parameters), strict=False)

    @classmethod
    def from_gpo_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "PreferencePredictor":
        """Load a checkpoint of GPO's `nn.TransformerEncoder` (no feature standardisation).

        Head counts leave no trace in a checkpoint: GPO's 4 is taken.

        Raises:
            ValueError: keys are missing, left over, or of other shapes.
        """
        try:
            sizes = state_dict["embedder.0.weight"].shape
            predictor = cls(
                feature_dimension=sizes[1] - 1,
                width=sizes[0],
                embedder_depth=count_keys(state_dict, r"embedder\.\d+\.weight"),
                num_layers=count_keys(state_dict, r"encoder\.layers\.\d+\.linear1\.weight"),
                feedforward_width=state_dict["predictor.0.weight"].shape[0],
            )
            predictor.load_state_dict(dict(predictor.named_buffers()) | translate(state_dict))
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise ValueError(
                "Not a GPO checkpoint: expected the keys embedder.*, encoder.layers.N.* and "
                f"predictor.* ({error})."
            ) from error
        return predictor
