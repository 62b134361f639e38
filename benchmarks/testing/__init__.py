"""How many exchanges a second a test can play in memory. See ../README.md."""
