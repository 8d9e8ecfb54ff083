"""Why clients fail, in a few words that can be counted."""

import re

CAUSES = ("lost", "timeout", "raised", "rejected", "other")
"""All that `cause_of` returns:

- `lost`: the node is gone or was restarted, its process died, or no message could reach it.
- `timeout`: no reply within the time that a round has, or still at work on an earlier one.
- `raised`: the ClientApp raised an error, a refusal of the node's owner among them.
- `rejected`: a reply came and must not be aggregated.
- `other`: anything else.
"""

_PATTERNS = {
    "timeout": r"no reply (within|in time)|it is still at work",
    # Flower's own texts for codes 3, 4, 5 and 8, and what the population grid says.
    "lost": r"Error: (Node|Message|Reply Message) Unavailable|ClientApp stopped responding"
    r"|the runtime did not accept|its node (is not connected|was restarted)$|error code [3458]$",
    # "ValueError in app.py:12; ..." from a SuperNode (`client_app.mods.report_errors`),
    # "ValueError: ..." from a simulation's, "<class 'ValueError'>:<'...'>" where Flower says it.
    "raised": r"<class '|An exception was raised|\w*(Error|Exception|Interrupt)( in |:|$)"
    r"|its survey cannot be used; "
    r"|error code [12]$",
    "rejected": r"its |parameter |\S+ = .+(expected |is not finite)",
}


def cause_of(reason: str) -> str:
    """Return the cause in the reason that the population grid gives for a client's failure."""
    for cause, pattern in _PATTERNS.items():
        if re.match(pattern, reason):
            return cause
    return "other"
