"""Whether the server keeps its promises under mixed traffic of which a third misbehaves, at times without descriptors.

Read `server` (what runs), `traffic` (who asks what, and how often), `behaved` (clients that verify their answers, with
`answers`), `misbehaving`, `ledger` (that each exchange has one record), `__main__` (what is compared in the end).
"""
