"""What finding a route costs, by the number of routes. See ../README.md."""
