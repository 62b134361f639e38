"""`python -m trioserve` is `trioserve`."""

from trioserve.cli import main

if __name__ == "__main__":
    main()
