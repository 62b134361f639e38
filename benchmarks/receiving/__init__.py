"""What receiving a request costs the engine and its gate, and what hostile ones do. See ../README.md."""
