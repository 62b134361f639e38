"""The suite, `python -m benchmarks`: trioserve beside its peers, and what a request costs each of them.

Read `workloads` (what is asked), `peers` (who is asked), `wrk` and `servers` (how), `measure` (the rounds), `targets`
(what is promised); then what becomes of the results: `report`, `plots`, `compare`.
"""
