"""What the servers answer. Go and Node.js have it too, in their own words, and read the same document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HELLO = "Hello, world!"

DOCUMENT: dict[str, Any] = json.loads(Path(__file__).with_name("document.json").read_text())
"""An order with some items: 1 KB as JSON."""

PIECE = b"0123456789abcdef" * 4096
PIECES = 16
LARGE = PIECE * PIECES
"""1 MB."""

ECHO = bytes(range(32, 96)) * 160
"""10 KB, which is sent to /echo."""

UPLOAD = b"0123456789abcdef" * (10 * 2**16)
"""10 MiB, which is sent to /upload."""
