"""`python -m fastproxy` is the console script."""

from fastproxy import cli

if __name__ == "__main__":
    cli.main()
