"""What a reply to `score` must be."""

from typing import cast

import numpy as np
from flwr.app import Message, RecordDict

from server_app.replies import read_array
from server_app.reply_metrics import ReplyError
from task import records


class ScoreRules:
    """Accepts one finite number per response, and nothing else."""

    def accept(self, message: Message, reply: RecordDict, *, reduced: bool = False) -> None:
        """Check a reply.

        Args:
            message: to the client, with the responses.
            reply: what came back.
            reduced: never: scores are not added up below.

        Raises:
            ReplyError: it must not be used.
        """
        arrays = reply.array_records.get(records.SCORES)
        if set(reply) != {records.SCORES} or arrays is None or set(arrays) != {records.SCORES}:
            raise ReplyError(
                f"its records are {sorted(reply)}, expected {records.SCORES!r} alone, with one "
                "array of that name"
            )
        scores = read_array(records.SCORES, arrays[records.SCORES])
        rollouts = message.content.config_records[records.ROLLOUTS]
        expected = (len(cast(list[str], rollouts[records.RESPONSES])),)
        if scores.shape != expected or scores.dtype != np.float32:
            raise ReplyError(
                f"its scores are {scores.dtype} of shape {scores.shape}, expected float32 of shape "
                f"{expected}"
            )
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise ReplyError(f"its score of response {row} is not finite")
