"""What clients that leave cost a server, beside other servers: the measurements that nobody else publishes.

Each module here that has a NAME is one: `latency`, `storm`, `wasted`, `retries`, `idle`. Read first `servers` (the
application, as its users would write it for each server) and `peers` (how they are started), then any of them; each
begins with what it measures, and how that is defined.
"""
