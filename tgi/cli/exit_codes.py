"""What every exit code means: read by the manual pages and docs/cli.md."""

from __future__ import annotations

EXIT_CODES = {
    0: "done; for a server: ended by a signal",
    1: "failed; the only code of a running server, and of `tgi launch` once it has begun",
    2: "the command line cannot be understood",
    10: "tgi.toml cannot be used",
    11: "the port is in use",
    12: "the model was not found",
    13: "the model is gated, or the token does not allow it",
    14: "the network failed",
    15: "the disk is full",
    16: "a file is corrupt, or not what it should be",
    17: "the memory does not suffice",
    18: "the model's architecture or format is not supported",
    130: "interrupted by Ctrl-C",
}
