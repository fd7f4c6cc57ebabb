"""Weights in files: convert the released layout, load a native folder, build random weights."""

from llama_omni.checkpoint.conversion import convert, convert_vocoder
from llama_omni.checkpoint.native import empty_model, load_model, load_vocoder, random_model

__all__ = [
    "convert",
    "convert_vocoder",
    "empty_model",
    "load_model",
    "load_vocoder",
    "random_model",
]
