"""The benchmark: ``make bench``. What it measures, and how, is in `tests.bench.__main__`."""
