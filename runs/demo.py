"""What `make demo` runs: answer the spoken question in examples/ with the embedded model."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Ask as a user would, from the checkout."""
    command = ["ask", "examples/question.wav", "-o", "demo/answer.wav"]
    (ROOT / "demo").mkdir(exist_ok=True)
    print("$ llama-omni", *command)
    return subprocess.call([sys.executable, "-m", "llama_omni.cli", *command], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
