"""What all tests share: the test kit that users get."""

pytest_plugins = ["colony.testing"]
