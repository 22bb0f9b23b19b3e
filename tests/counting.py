"""How often the tests did what docs/reliability.md counts. conftest.py writes it where FTP_OPTAX_COUNTS says."""

import collections

COUNTS: collections.Counter[str] = collections.Counter()


def count(what: str) -> None:
    COUNTS[what] += 1
