"""What an idle keep-alive connection costs: thousands of them held, beside other servers.

Read `server` (trioserve), `peers` (the others), `holding` (how they are measured), `__main__`.
"""
