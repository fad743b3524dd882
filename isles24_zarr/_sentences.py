"""Errors as sentences: the base of all, and what a line that is shown may hold. To be imported from `errors`."""

from __future__ import annotations

import re
from typing import ClassVar, Final

RUN_AGAIN: Final = "run the same command again: it resumes where it stopped"
"""What to do after a conversion, a download or an export was killed, interrupted, or met a transient error."""


def without_passwords(text: str) -> str:
    """Hide the passwords of all URLs in a text."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


def one_line(text: str) -> str:
    """Escape what is not printable: names and messages from outside must not steer a terminal or fake a line."""
    text = without_passwords(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class Isles24Error(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    subject
        What the error is about: a path, a URL, a name.
    what
        What is wrong with it, as a clause that follows the subject. Without one, the subject is a text that ends with
        such an error: a DataLoader of PyTorch raises what a worker raised anew, with the worker's traceback for all
        arguments.
    """

    advice: ClassVar[str] = ""

    def __init__(self, subject: object, what: str | None = None) -> None:
        if what is None:
            subject, what = self._retold(str(subject))
        super().__init__(subject, what)
        self.subject = str(subject)
        self.what = what

    @classmethod
    def _retold(cls, text: str) -> tuple[str, str]:
        """Return both arguments of the error of this class whose traceback is in a text."""
        told = text.rpartition(f"{cls.__module__}.{cls.__qualname__}: ")[2].strip().partition("\n")[0]
        subject, _, what = told.removesuffix(f"; {cls.advice}").partition(": ")
        return subject, what

    def __str__(self) -> str:
        sentence = f"{self.subject}: {self.what}" if self.what else self.subject
        return one_line(f"{sentence}; {self.advice}" if self.advice else sentence)


def failure_line(error: Exception) -> str:
    """Return in one line what somebody's function raised: our own errors are sentences, others need their type."""
    text = " ".join(str(error).split())
    if isinstance(error, Isles24Error):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
