"""The servers that the suite compares, each an app as the users of that framework would write it.

All answer the same: `content` says what. `trioserve_app` is ours; `bare_trio` is the floor, which no server in Python
on trio can beat, and `bare_h11` what any server pays that speaks HTTP with h11. `asgi_app` is bare ASGI, without a
framework, for uvicorn, hypercorn, anycorn and granian; the others are named after their frameworks. How each is started
is in `benchmarks.suite.peers`.

    GET /                     "Hello, world!"
    GET /json                 the document, as JSON, encoded anew each time
    GET /items/{id}?color=&page=    "{id} {color} {page}"
    POST /echo                the content of the request
    GET /large                1 MB in one piece
    GET /stream               1 MB in sixteen pieces
    POST /upload              how many bytes came, which are not kept
"""
