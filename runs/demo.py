"""What `make demo` runs: answer the spoken question in examples/ through the whole path."""

import subprocess
import sys
from pathlib import Path

from llama_omni.loading import EMBEDDED

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Ask, with the embedded model if this version has one, else with random weights."""
    command = ["ask", "examples/question.wav", "-o", "demo/answer.wav"]
    if not EMBEDDED.is_dir():
        print("This version embeds no trained model yet: the demo runs the tiny preset with")
        print("RANDOM WEIGHTS. Every part computes for real; the words and the sound are noise.\n")
        command += ["--preset", "tiny", "--random-weights", "--max-new-tokens", "40"]
    (ROOT / "demo").mkdir(exist_ok=True)
    print("$ llama-omni", *command)
    return subprocess.call([sys.executable, "-m", "llama_omni.cli", *command], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
