"""``python -m issuer`` is the same as the command ``issuer``."""

from issuer.cli import app

if __name__ == "__main__":
    app(prog_name="issuer")
