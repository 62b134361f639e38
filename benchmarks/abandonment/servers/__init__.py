"""One application, written for each server as its users would: the handlers wait, work and call a back end, and note
what became of each request. Nothing in them asks whether the client is there; what a server does about that is what is
measured.

Routes: `/` greets; `/wait/NAME` waits for `WAIT` seconds; `/work/NAME/MS` waits for MS milliseconds and then works in
slices; `/call/MS` has the back end's pool of places work for MS milliseconds; `/notes` tells what was noted. A NAME is
a number, and is used once.

Read `backend` (what all handlers in Python have in common), then any of the servers. `go` has the same in Go.
"""
