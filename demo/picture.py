"""Draws a picture of a real run of the demo, as its terminal showed it.

python -m demo.picture docs/demo.svg
"""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

_WIDTH = 118
_TRAINING = re.compile(r"    round (\d+):")
_ROUNDS_SHOWN = 20
"""Of the trainer's lines, one in two: the others say the same."""


def styled(line: str) -> Text:
    """Return a line as the picture shows it: commands and titles stand out."""
    if line.startswith("==="):
        return Text(line, style="bold cyan")
    if line.startswith(("$ ", "kill ")):
        return Text(line, style="bold white")
    if line.startswith("#"):
        return Text(line, style="dim")
    return Text(line, style="green" if line.startswith("equal:") or "durable" in line else "")


def is_shown(line: str) -> bool:
    """Return False for lines that the picture can do without."""
    match = _TRAINING.match(line)
    return match is None or int(match[1]) % _ROUNDS_SHOWN == 10


def main() -> int:
    """Run the demo, show what it prints, and draw it; return the demo's exit code."""
    target = Path(sys.argv[1])
    console = Console(record=True, width=_WIDTH, force_terminal=True, color_system="truecolor", highlight=False)
    with subprocess.Popen([sys.executable, "-m", "demo.run"], stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout or ():
            if is_shown(line):
                console.print(styled(line.rstrip()), soft_wrap=False)
    if run.returncode == 0:
        # the reader's own monospace font instead of one fetched from elsewhere
        target.write_text(re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
