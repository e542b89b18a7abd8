"""Nothing that a piece of code switches on may stay on behind it."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.backends import cuda
from torch.nn.modules import module as modules

Getter = Callable[[], Any]
Setter = Callable[[Any], Any]

# pytest changes the first between the set-up, the call and the tear-down of a test; the others are set by OpenMP and by
# the PyTorch compiler for themselves when they are first used.
IGNORED_VARIABLES = ("PYTEST_CURRENT_TEST", "KMP_", "TORCHINDUCTOR_", "TRITON_")

_HOOKS = tuple(name for name in vars(modules) if name.startswith("_global_") and name.endswith("hooks"))


def _attribute(owner: Any, name: str) -> tuple[Getter, Setter]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(IGNORED_VARIABLES)}


def _restore_environment(before: dict[str, str]) -> None:
    for name in _environment().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _restore_hooks(before: dict[str, tuple[Any, ...]]) -> None:
    for name, keys in before.items():
        hooks: MutableMapping[Any, Any] = getattr(modules, name)
        for key in set(hooks) - set(keys):
            del hooks[key]


def _numpy_state() -> tuple[Any, ...]:
    kind, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  (the global state is what may not be used)
    return (kind, np.asarray(words).tobytes(), *rest)


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    kind, words, *rest = state
    np.random.set_state((kind, np.frombuffer(words, np.uint32), *rest))  # noqa: NPY002


def _set_default_device(device: torch.device) -> None:
    # None is how PyTorch says "cpu" without the overhead of a device mode.
    torch.set_default_device(None if device.type == "cpu" else device)


PYTHON_RANDOM = "Python's random state"

SETTINGS: dict[str, tuple[Getter, Setter]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, _set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (_deterministic, lambda on: torch.use_deterministic_algorithms(on[0], warn_only=on[1])),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "CPU autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    "the matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "mkldnn": _attribute(torch.backends.mkldnn, "enabled"),
    "cuDNN": _attribute(torch.backends.cudnn, "enabled"),
    "cuDNN benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "cuDNN deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "the attention fast path": (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    "flash attention": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    "efficient attention": (
        cuda.mem_efficient_sdp_enabled,
        cuda.enable_mem_efficient_sdp,
    ),
    "plain attention": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    "global module hooks": (lambda: {name: tuple(getattr(modules, name)) for name in _HOOKS}, _restore_hooks),
    PYTHON_RANDOM: (random.getstate, random.setstate),
    "NumPy's global random state": (_numpy_state, _set_numpy_state),
    "environment variables": (_environment, _restore_environment),
    "the working directory": (Path.cwd, os.chdir),
}


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail for what the block changes in the process and does not put back; it is put back here, too.

    Watched: the settings above. PyTorch's own random state may be used; it is put back without a word. So is Python's
    if the block is the first to import some package, as some draw numbers then. An exception in the block passes
    through.

    Raises `AssertionError` with everything that leaked.

    >>> with no_leaks():
    ...     torch.set_default_dtype(torch.float64)
    Traceback (most recent call last):
    AssertionError: Left changed: the default dtype (torch.float32 -> torch.float64).
    >>> torch.get_default_dtype()
    torch.float32
    """
    random_state = torch.get_rng_state()
    before = {what: read() for what, (read, _) in SETTINGS.items()}
    packages = _packages()
    try:
        yield
    except BaseException:
        _put_back(before)
        raise
    finally:
        torch.set_rng_state(random_state)
    leaks = _put_back(before)
    if packages != _packages():
        leaks.pop(PYTHON_RANDOM, None)
    if leaks:
        raise AssertionError(f"Left changed: {'; '.join(leaks.values())}.")


def _packages() -> set[str]:
    return {name for name in sys.modules if "." not in name}


def _put_back(before: dict[str, Any]) -> dict[str, str]:
    leaks = {}
    for what, (read, write) in SETTINGS.items():
        now = read()
        if now != before[what]:
            write(before[what])
            leaks[what] = f"{what} ({_difference(before[what], now)})"
    return leaks


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        return ", ".join(sorted(changed))
    plain = isinstance(before, bool | int | str | Path | torch.dtype | torch.device)
    return f"{before} -> {after}" if plain else "used"
