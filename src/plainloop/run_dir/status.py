"""The state of a run, for every reader, and the command that continues it. No torch here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path


def command_to_continue(
    folder: Path,
    *,
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
    key: str = "resume",
    script: str = "train.py",
) -> str:
    """The line to type to continue a run (or a sweep), quoted for the shell and for Hydra.

    Args:
        plugins: the run's; a person allows them anew at each start.
        overrides: words as they were typed, which come first.
        key: `hydra.sweep.dir` for a sweep.

    >>> print(command_to_continue(Path("a"), plugins=["mine"]), command_to_continue(Path("a=1,b")), sep="; ")
    python train.py resume=a 'plugins=[mine]'; python train.py 'resume="a=1,b"'
    """
    words = [*overrides, f"{key}={quote_for_hydra(str(folder))}"]
    return shlex.join(["python", script, *words, *([f"plugins=[{','.join(plugins)}]"] if plugins else [])])


def quote_for_hydra(text: str) -> str:
    r"""An override's value that Hydra reads as exactly this text.

    >>> print(*map(quote_for_hydra, ("outputs/a", "a b", "1e3", 'a"b', "${a}")))
    outputs/a "a b" "1e3" "a\"b" "\${a}"
    """
    is_number = re.fullmatch(r"[-+\d._]*(e[-+\d]*)?|null|true|false|nan|[-+]?inf", text, re.IGNORECASE)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII) and not is_number:
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # for OmegaConf, whose interpolations begin so
    quoted = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'"{quoted}"'
