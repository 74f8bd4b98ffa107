"""The sources that a job was submitted with: it runs what it finds, and says so when that is something else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 8


@dataclass(frozen=True)
class Snapshot:
    """A digest for each Python file of our packages, by its path."""

    root: Path
    digests: dict[str, str]

    def differences(self) -> list[str]:
        """One line when files have changed, appeared or gone since; else none."""
        now = take(self.root).digests
        changed = sorted(path for path in self.digests.keys() | now.keys() if self.digests.get(path) != now.get(path))
        if not changed:
            return []
        shown = ", ".join(changed[:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        return [f"the code has changed since this job was submitted: {shown} below {self.root}; it runs as it is now"]


def take(root: Path | None = None) -> Snapshot:
    """The sources as they are. `root` is where our packages lie."""
    root = root or Path(__file__).resolve().parents[2]
    files = [file for package in ("plainloop", "hydra_plugins") for file in sorted((root / package).rglob("*.py"))]
    return Snapshot(
        root, {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    )
