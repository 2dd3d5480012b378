"""`python -m tests.kit.provision [WHAT…]`: install what is named, or everything; exit 1 if something failed."""

import sys
import time

from tests.kit import provision


def main(arguments: list[str]) -> int:
    failures = 0
    for what in arguments or list(provision.RECIPES):
        begun = time.monotonic()
        try:
            made = provision.provision(what)
        except provision.Unprovisioned as error:
            failures += 1
            print(f"kit: {error}", file=sys.stderr)
            continue
        if made:
            print(f"kit: {what} installed in {time.monotonic() - begun:.0f} s")
        else:
            print(f"kit: {what} ready")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
