"""Whether slow attackers are cut in time, at bounded cost, and whether ordinary clients are served meanwhile.

Read `server` (what is attacked), `attacks` (slowhttptest's four modes), `ordinary` (the other clients), `__main__`.
"""
