"""Put a trained model into one folder as it is shipped: float16, vocoder, units, nothing else.

python runs/embed.py --model STAGE2 --vocoder VOCODER --units UNITS -o llama_omni/assets/tiny
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch

from llama_omni.checkpoint.native import load_model, load_vocoder, quiet_transformers
from llama_omni.errors import LlamaOmniError
from llama_omni.loading import load
from llama_omni.model.tokenizer import load_tokenizer

MOST_BYTES = 30_000_000
CARD = "README.md"  # written by hand, kept


def main() -> int:
    """Write the folder, then load it again and answer a question with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocoder", type=Path, required=True)
    parser.add_argument("--units", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        embed(options.model, options.vocoder, options.units, options.output)
    except LlamaOmniError as error:
        print(f"embed: error: {error}", file=sys.stderr)
        return 2
    return 0


def embed(model: Path, vocoder: Path, units: Path, output: Path) -> None:
    """Write the folder in place of what was there, but for its card."""
    omni, voice = load_model(model), load_vocoder(vocoder)
    tokenizer = load_tokenizer(model)
    output.mkdir(parents=True, exist_ok=True)
    for old in output.iterdir():
        if old.name != CARD:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    with quiet_transformers():
        omni.to(torch.float16).save_pretrained(output)
        voice.to(torch.float16).save_pretrained(output / "vocoder")
    tokenizer.inner.save_pretrained(output)
    for name in ("recipe.json", "generation_config.json"):
        if (model / name).is_file():
            shutil.copyfile(model / name, output / name)
    for name in ("kmeans.npy", "features.json"):
        shutil.copyfile(units / name, output / name)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.1f} MB, {omni.num_parameters() / 1e6:.2f} M parameters and")
    print(f"{voice.num_parameters() / 1e6:.2f} M of the vocoder")
    if size > MOST_BYTES:
        raise LlamaOmniError(f"{output} must be at most {MOST_BYTES:,} bytes, got {size:,}")
    reply = load(output).reply(Path(__file__).parents[1] / "examples" / "question.wav")
    print(f"answers the example with: {reply.text}")


if __name__ == "__main__":
    sys.exit(main())
