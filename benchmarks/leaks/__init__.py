"""Whether anything of an abandoned exchange is left: tasks, file descriptors, threads, memory; and whether each was
told of exactly once.

Read `server` (what runs), `clients` (who leaves, and how), `__main__` (what is compared).
"""
