"""What an idle keep-alive connection costs: thousands of them held, beside other servers.

Read `server` (trioserve), `peers` (the others), `__main__` (how they are measured).
"""
