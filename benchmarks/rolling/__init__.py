"""Whether requests are lost while the workers of a server are replaced, again and again, under load.

Read `app` (what is served), `clients` (who asks how, and when a request counts as lost), `restarts` (the server's
process and what is done to it), `__main__` (what is promised).
"""
