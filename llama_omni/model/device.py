"""`find_device`: a device by the name that a user gives it, or why there is none."""

import torch

from llama_omni.errors import ConfigError


def find_device(name: str, *, field: str = "device") -> torch.device:
    """Return a device that exists.

    Args:
        name: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", or another of torch's.
        field: What the name was given as, for the message.

    Raises:
        ConfigError: There is none of that name here; says which CUDA devices there are.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{field} must be auto, cpu or cuda[:N], got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= found:
        there = ", ".join(f"cuda:{number}" for number in range(found)) or "no CUDA device"
        raise ConfigError(f"{field} {name!r} must exist, found {there}")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=device).cpu()
        except (AssertionError, NotImplementedError, RuntimeError) as error:  # as torch pleases
            reason = (str(error).splitlines() or ["none"])[0][:120]
            raise ConfigError(f"{field} {name!r} must exist, got: {reason}") from error
    return device
