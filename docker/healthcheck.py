"""Exit status 0 when Flower answers at a URL: `healthcheck.py URL [CERTIFICATE-AUTHORITY]`."""

import ssl
import sys
from urllib.request import urlopen

SECONDS = 5.0


def main(url: str, authority: str | None = None) -> None:
    """Ask for the URL, and let any error end this process."""
    context = ssl.create_default_context(cafile=authority) if authority else None
    with urlopen(url, timeout=SECONDS, context=context) as answer:
        if answer.status != 200:
            sys.exit(f"{url} answers with HTTP status {answer.status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
