"""Secure aggregation on the client: Flower's SecAgg+ around the ordinary `train` handler.

The server gets integers that are uniformly random each by themselves, and learns the sum over the
clients of a round; no loss, number of examples or report leaves the client.

What holds, and what is assumed:

- The server follows the protocol (it is curious but honest). Public keys are not signed: a server
  that makes up clients, or tells them different lists, can open a client's mask. Clients who
  collude with it take their own updates, masks and noise off.
- Masks are Flower's: a Mersenne Twister with a seed of at most 32 bits (flwrlabs/flower issue
  7522; for pairs of clients some 28 bits, the XOR of base64 text). A mask of one pair can be found
  by trying; a client's sum of masks with many neighbours cannot. With fewer than about 6 clients,
  or where a client's vector arrives after the server gave it up, it hides little from a server that
  is willing to compute.
- A client lets a round's update into one sum only. A run that is resumed asks for the unfinished
  round again, with new masks: clients help to open its sum if it is over the same clients, so far
  as they see them, as one that they have opened before (`client_app.opened_sums`).
- Noise (`privacy.unit` `client`): see `_with_noise`.
"""

from typing import cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.app.message import make_message
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    RECORD_KEY_STATE,
    Key,
    Stage,
)
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from numpy.typing import NDArray

from client_app.opened_sums import OpenedSums
from client_app.state import state_folder
from task import records
from task.aggregation import clip_update
from task.config import RunConfig
from task.errors import ConfigError, RoundError
from task.ledger import digest_of
from task.noise import Noise, hardened_normal, noise_source
from task.parameters import Layout
from task.secure_aggregation import (
    MIN_CLIENTS,
    MODULUS,
    encode,
    least_survivors,
    noise_std,
    num_shares,
)
from task.seeding import generator

ANSWERED = "secure-aggregation-answered"  # ConfigRecord of the node's state: a round per group


def secure_aggregation(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Send a masked update instead of parameters and metrics (`privacy.secure-aggregation`).

    Flower's mod keeps the protocol's state in one record of the node; here every group that the
    node holds has a record of its own. Two messages to one node must not be under way at once: a
    simulation would lose one's state.

    Raises:
        ConfigError: the message and the client's own settings disagree on whether updates are
            aggregated securely, or on what that promises.
        RoundError: the client has answered in this round before, or cannot.
    """
    if message.metadata.message_type.split(".")[0] != MessageType.TRAIN:
        return call_next(message, context)
    config = RunConfig.from_flat(context.run_config)
    asked = RECORD_KEY_CONFIGS in message.content.config_records
    if not config.privacy.secure_aggregation and not asked:
        return call_next(message, context)
    _require_agreement(config, message, asked)
    group = str(message.content.config_records[records.BRIEFING][records.GROUP])
    ours, its = f"{RECORD_KEY_STATE}:{group}", RECORD_KEY_STATE
    state = context.state
    state[its] = state.pop(ours, ConfigRecord())
    try:
        return _answer(config, message, context, call_next)
    finally:
        state[ours] = state.pop(its)


def _answer(
    config: RunConfig, message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Let Flower's mod answer one message of the protocol; return its record alone."""
    stage = message.content.config_records[RECORD_KEY_CONFIGS].get(Key.STAGE)
    settings = message.content.config_records[records.SECURE_AGGREGATION]
    briefing = message.content.config_records[records.BRIEFING]
    group, server_round = str(briefing[records.GROUP]), cast(int, briefing[records.ROUND])
    answered = cast(ConfigRecord, context.state.setdefault(ANSWERED, ConfigRecord()))
    if stage == Stage.SETUP:
        _require_sound_setup(message.content.config_records[RECORD_KEY_CONFIGS])
    if stage == Stage.COLLECT_MASKED_VECTORS and server_round <= cast(int, answered.get(group, 0)):
        raise RoundError(
            f"{group} has sent its masked update of round {answered[group]!r} and was asked for "
            f"one of round {server_round}: two sums over different clients would disclose it."
        )

    if stage == Stage.UNMASK:
        asked = message.content.config_records[RECORD_KEY_CONFIGS]
        survivors = cast(list[int], asked[Key.ACTIVE_NODE_ID_LIST])
        OpenedSums(state_folder(config, context, message)).open(group, server_round, survivors)

    def fit(inner: Message, context: Context) -> Message:
        """Train, and return what is to be masked as Flower's mod expects it."""
        trained = call_next(message, context)
        protocol = context.state.config_records[RECORD_KEY_STATE]
        vector_V = _vector(config, message, trained, protocol)
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector_V]), 1, {})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=inner)

    random_state = np.random.get_state()  # Flower's quantisation draws from the global generator
    # The mod takes entries out of the record that it is given, which other messages may share.
    copy = ConfigRecord(dict(message.content.config_records[RECORD_KEY_CONFIGS]))
    inner = make_message(message.metadata, RecordDict({RECORD_KEY_CONFIGS: copy}))
    reply = secaggplus_mod(inner, context, fit)
    np.random.set_state(random_state)
    result = reply.content.config_records[RECORD_KEY_CONFIGS]
    if stage == Stage.SETUP:
        # What the protocol calls a client is not the node's id: a node may hold several.
        context.state.config_records[RECORD_KEY_STATE]["nid"] = settings[records.CLIENT_ID]
    elif stage == Stage.COLLECT_MASKED_VECTORS:
        answered[group] = server_round
        masked = cast(list[bytes], result[Key.MASKED_PARAMETERS])
        result[Key.MASKED_PARAMETERS] = [  # of 32 bits in 64
            bytes_to_ndarray(array).astype("<u4").tobytes() for array in masked
        ]
    return Message(RecordDict({RECORD_KEY_CONFIGS: result}), reply_to=message)


def _vector(
    config: RunConfig, message: Message, trained: Message, protocol: ConfigRecord
) -> NDArray[np.float64]:
    """Return the (V,) vector to mask: the clipped, noisy, weighted update, and the weight."""
    briefing = message.content.config_records[records.BRIEFING]
    settings = message.content.config_records[records.SECURE_AGGREGATION]
    group, server_round = str(briefing[records.GROUP]), cast(int, briefing[records.ROUND])
    sent = message.content.array_records[records.ARRAYS].to_torch_state_dict()
    layout = Layout.of({name: tensor.shape for name, tensor in sent.items()})
    start_P = layout.flatten(sent).double()
    values_P = layout.flatten(
        trained.content.array_records[records.ARRAYS].to_torch_state_dict()
    ).double()
    if not values_P.isfinite().all():
        raise RoundError(f"{group}: the trained parameters are not finite.")
    clipping_norm = cast(float, briefing.get(records.CLIPPING_NORM, 0.0))
    if clipping_norm:
        values_P = clip_update(start_P, values_P, clipping_norm)
    update_P = (values_P - start_P).numpy()
    limit = cast(float, protocol[Key.CLIPPING_RANGE])
    if not clipping_norm and (np.abs(update_P) > limit).any():
        # The error goes to the server: it must not say by how much.
        raise ConfigError(
            f"{group}: an entry of its update is beyond {limit}, the largest that secure "
            "aggregation can send. Set strategy.clipping-norm."
        )
    survivors = _least_survivors(config, settings, protocol)
    if std := noise_std(config, clipping_norm, survivors):
        # With the same noise, another run's sum would tell how the two differ.
        told = digest_of(start_P, config.release_settings())
        source = noise_source(
            config.privacy.secure_noise,
            config.run.seed,
            "secure aggregation",
            server_round,
            cast(int, settings[records.ATTEMPT]),
            group,
            told,
        )
        update_P = _with_noise(update_P, layout, std, source)
    weight, most = 1.0, cast(int, settings[records.MAX_EXAMPLES])
    if most:
        metrics = trained.content.metric_records[records.METRICS]
        weight = cast(int, metrics[records.NUM_EXAMPLES]) / most
        if not 0 < weight <= 1:
            raise RoundError(
                f"{group}: its number of examples is not from 1 to {most}, the most of any client "
                "that the server knows of."
            )
    levels = cast(int, protocol[Key.TARGET_RANGE])
    random = generator(config.run.seed, "secure aggregation rounding", server_round, group)
    return encode(update_P, weight, limit, levels, random)


def _with_noise(
    update_P: NDArray[np.float64], layout: Layout, std: float, source: Noise
) -> NDArray[np.float64]:
    """Add this client's share of the noise: a standard deviation of z C / sqrt(t) on each entry.

    Where t honest clients or more are in the sum, it has noise of standard deviation z C at least,
    as if a trusted server had added it: the server does not unmask a sum of fewer, nor do clients
    hand out shares for one that they can see (each sees its neighbours, which up to 16 clients are
    all). Every client that colludes with the server takes its share off: with c of them among t,
    the standard deviation is z C sqrt(1 - c / t). Shares are rounded to the grid one by one, with
    steps of about a millionth of the noise or less, which the accountants neglect (an exact
    treatment: Kairouz et al., "The Distributed Discrete Gaussian Mechanism for Federated Learning
    with Secure Aggregation", arXiv 2102.06387).
    """
    noise_P = torch.from_numpy(hardened_normal(source, layout.size) * std)
    shares_P = torch.zeros_like(noise_P)  # between parameters, entries stay 0
    for share, noise in zip(
        layout.views(shares_P).values(), layout.views(noise_P).values(), strict=True
    ):
        share.copy_(noise)
    noisy_P: NDArray[np.float64] = update_P + shares_P.numpy()
    return noisy_P


def _require_agreement(config: RunConfig, message: Message, asked: bool) -> None:
    """Raise a `ConfigError` unless the message keeps what the client's own settings promise."""
    if not (config.privacy.secure_aggregation and asked):
        raise ConfigError(
            f"privacy.secure-aggregation = {config.privacy.secure_aggregation} in this client's "
            f"settings, but the server asks for {'a masked' if asked else 'its plain'} update. "
            "Start server and clients with the same settings."
        )
    configs = message.content.config_records
    strategy = configs.get(records.CONFIG, ConfigRecord())
    for key, what in ((records.REPORTS, "reports"), (records.PERSONAL, "personal parameters")):
        if strategy.get(key):
            raise ConfigError(
                f"The strategy asks each client for {what} ({strategy[key]!r}), which would leave "
                "it in plain: choose another strategy, or privacy.secure-aggregation = false."
            )
    if config.privacy.unit != "client":
        return
    clipping_norm = cast(float, configs[records.BRIEFING].get(records.CLIPPING_NORM, 0.0))
    most = configs[records.SECURE_AGGREGATION][records.MAX_EXAMPLES]
    if not clipping_norm > 0 or most:
        raise ConfigError(
            f"privacy.unit = 'client', but the server clips to the norm {clipping_norm} and weighs "
            f"by at most {most!r} examples: expected a norm above 0 and equal weights."
        )


def _require_sound_setup(setup: ConfigRecord) -> None:
    """Raise a `ConfigError` where the protocol would hide little with the server's numbers."""
    clients, shares, threshold, modulus = (
        cast(int, setup[key])
        for key in (Key.SAMPLE_NUMBER, Key.SHARE_NUMBER, Key.THRESHOLD, Key.MOD_RANGE)
    )
    if (
        clients < MIN_CLIENTS
        or shares != num_shares(clients)
        or threshold < least_survivors(shares, 0.0)
        or modulus != MODULUS
    ):
        raise ConfigError(
            f"Secure aggregation of {clients} clients modulo {modulus}, with {threshold} of "
            f"{shares} shares to open a mask: expected {MIN_CLIENTS} clients or more, modulo "
            f"{MODULUS}, {num_shares(max(clients, MIN_CLIENTS))} shares and most of them."
        )


def _least_survivors(config: RunConfig, settings: ConfigRecord, protocol: ConfigRecord) -> int:
    """Return with how few clients the server unmasks a sum: the noise is made for so many.

    Raises:
        ConfigError: more than the client's own settings ask for, which would be too little noise.
    """
    stated = cast(int, settings[records.LEAST_SURVIVORS])
    clients = cast(int, protocol[Key.SAMPLE_NUMBER])
    most = least_survivors(clients, config.train.min_valid_fraction)
    if not 1 <= stated <= most:
        raise ConfigError(
            f"The server counts on noise of {stated} clients of {clients}, expected at most {most} "
            "(train.min-valid-fraction): there would be too little where fewer remain."
        )
    return stated
