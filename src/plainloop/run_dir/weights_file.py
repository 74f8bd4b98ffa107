"""Finds the weights file that a path means. Does not import torch, so the answer is fast."""

from __future__ import annotations

from pathlib import Path

from plainloop.run_dir.status import command_to_continue

IN_A_RUN = ("best.safetensors", "last.safetensors")
SAFE = ".safetensors"
PICKLED = (".pt", ".pth", ".bin", ".tar", ".ckpt")


def weights_file(source: Path) -> Path:
    """The file that a run directory or a path means. Raises ValueError when there is none of a kind that is read."""
    if source.is_dir():
        for name in IN_A_RUN:
            if (source / name).is_file():
                return source / name
        raise ValueError(
            f"init_from={source} holds neither {' nor '.join(IN_A_RUN)}: a run writes them at its first best "
            f"evaluation and at its end; type init_from=<a weights file>, or continue that run: "
            f"{command_to_continue(source)}"
        )
    if not source.is_file():
        raise ValueError(f"init_from={source} does not exist; type a run directory or a weights file")
    if source.suffix not in (SAFE, *PICKLED):
        raise ValueError(f"init_from={source} must end in {SAFE}, {', '.join(PICKLED)}, or be a run directory")
    return source
