"""Measurements of trioserve: how soon departures are noticed, whether anything leaks, what a request costs, and what
a hostile network does to it.
"""
