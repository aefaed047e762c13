"""`python -m zoofleet` is the command `zoofleet`."""

from zoofleet._cli import app

if __name__ == "__main__":
    app()
