"""Checks: bad input gets one error naming the call, the rule, the value and the remedy."""
