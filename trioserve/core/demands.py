"""What a good head demands of us that we may refuse: to take so large a body, to meet an expectation."""

from __future__ import annotations

from trioserve.core.errors import RequestError
from trioserve.core.messages import RequestHead


def check_size(head: RequestHead, max_body: float) -> None:
    """Refuse a body that is announced as too large, before a byte of it is read (RFC 9110 §15.5.14).

    Raises:
        RequestError: it is longer than `max_body` bytes (413).
    """
    if head.content_length is not None and head.content_length > max_body:
        raise RequestError(413, f"the request body is larger than {max_body:.0f} bytes")


def check_expectations(head: RequestHead) -> None:
    """Refuse what a client expects of us and we do not know (RFC 9110 §10.1.1).

    Raises:
        RequestError: it expects something other than 100-continue (417).
    """
    for name, value in head.fields:
        if name == b"expect":
            for expectation in value.split(b","):
                if expectation.strip(b" \t").lower() not in {b"", b"100-continue"}:
                    raise RequestError(
                        417,
                        f"this server does not know the expectation {expectation.decode('latin-1').strip()!a}; "
                        "100-continue is the only one that there is",
                    )
