"""A rolling upgrade of everything but Redis, under load: ``make upgrade`` also draws what was seen."""
