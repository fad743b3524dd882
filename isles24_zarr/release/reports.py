"""What is fetched, and what it costs."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """What was fetched.

    Parameters
    ----------
    destination
        The folder.
    fetched, unchanged
        Names of files that were downloaded, and of those that were there.
    nbytes
        Bytes that came over the network.
    seconds
        Time taken.
    """

    destination: str
    fetched: tuple[str, ...]
    unchanged: tuple[str, ...]
    nbytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchCost:
    """What it takes to read files out of an archive behind HTTP; as a text, one line that says so.

    An archive compresses its files into blocks, each of which is read from its start up to the last file that is
    wanted.

    Parameters
    ----------
    source
        The archive.
    files
        How many files are read.
    blocks, of_blocks
        How many blocks hold them, and how many there are in the archive.
    nbytes, at_most
        Bytes that come over the network: about, as no archive tells where in a block a file begins; and those of the
        whole blocks.
    archive_bytes
        Those of the archive.
    """

    source: str
    files: int
    blocks: int
    of_blocks: int
    nbytes: int
    at_most: int
    archive_bytes: int

    def __str__(self) -> str:
        about = "" if self.nbytes == self.at_most else f"about {self.nbytes / 1e6:,.1f} MB and "
        return (
            f"{self.source}: {self.files} {'file' if self.files == 1 else 'files'} in {self.blocks} of "
            f"{self.of_blocks} {'block' if self.of_blocks == 1 else 'blocks'}: {about}at most "
            f"{self.at_most / 1e6:,.1f} MB of {self.archive_bytes / 1e6:,.1f} MB will be read"
            f"{'; to download the whole is little more' if 2 * self.nbytes > self.archive_bytes else ''}"
        )
