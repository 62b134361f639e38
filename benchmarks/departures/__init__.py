"""How soon a handler is stopped after its client has left, in every situation in which a client can leave.

Read `server` (what runs), `situations` (the rows), `client`, `measure`, `__main__`.
"""
