"""Example colonies that run from an install: `survey` reads a folder and writes about it."""
