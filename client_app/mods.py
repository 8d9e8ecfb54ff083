"""Mods of the ClientApp."""

import traceback

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from task.errors import UserError


def report_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer with one readable reason when a handler raises.

    The server excludes and names the client, and the round goes on. Left to itself Flower logs
    several tracebacks per failing client and sends a wrapped one as the reason.
    """
    try:
        return call_next(message, context)
    except UserError as error:
        reason = str(error)
    except Exception as error:  # whatever a client raises must reach the server as a reason
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        traceback.print_exc()
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
