"""The commands people type. Nothing else reads the environment, and nothing here computes."""

import time

STARTED_S = time.monotonic()  # this is the first module of every command: what users wait for begins here
