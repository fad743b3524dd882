"""Texts from outside in one line, and one advice; `errors` has them for all."""

from __future__ import annotations

import re
from typing import Final

RUN_AGAIN: Final = "run the same command again: it resumes where it stopped"
"""What to do after a conversion, a download or an export was killed, interrupted, or met a transient error."""


def without_passwords(text: str) -> str:
    """Hide the passwords of all URLs in a text."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


def one_line(text: str) -> str:
    """Escape what is not printable: names and messages from outside must not steer a terminal or fake a line."""
    text = without_passwords(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
