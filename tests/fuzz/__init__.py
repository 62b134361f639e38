"""Bytes that nobody meant: mutated requests, cut in every way, thrown at the whole server in memory.

Read `inputs` (what is thrown), `play` (how, and what must hold), then the tests; `python -m tests.fuzz` does the same
for as long as one likes.
"""
