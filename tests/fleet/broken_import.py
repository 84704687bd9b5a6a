"""A definition whose import fails, as a user's may."""

raise ValueError("the file of prompts is empty")
