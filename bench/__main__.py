"""`python -m bench [PART]... [OPTION]...`: run the parts that are named, all that `make bench` runs if none is.

Options go to every part: name one part alone to use an option of its own.
"""

import subprocess
import sys

_PARTS = ("mount", "versions", "durable")
_KNOWN = (*_PARTS, "codec", "memory")
"""codec is `make bench-codec`, memory `make bench-memory`."""


def main(arguments: list[str]) -> int:
    """Run each part in a process of its own; return the first exit code that is not 0."""
    count = next((place for place, word in enumerate(arguments) if word not in _KNOWN), len(arguments))
    parts, options = arguments[:count] or _PARTS, arguments[count:]
    for part in parts:
        code = subprocess.run([sys.executable, "-m", f"bench.{part}", *options], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
