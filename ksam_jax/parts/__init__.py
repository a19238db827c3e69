"""Answers to the questions: which examples, which direction and radius, what of both."""
