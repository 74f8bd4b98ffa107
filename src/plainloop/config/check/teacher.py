"""task.teacher: a run with the same classes and images; which weights it has becomes a fact of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plainloop.config.check.findings import CheckContext, Finding
from plainloop.config.check.meta_model import example_batch, lacks_entry
from plainloop.errors import RunError
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.weights_file import weights_file
from plainloop.system import storage

KEY = "task.teacher"
EXPECTED = "the folder of a run on the same classes and image size"
NOT_GIVEN = Finding(KEY, "must be given", "???", EXPECTED, f"{KEY}=<run directory>")


def teacher_facts(context: CheckContext, facts: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """{"teacher": hash of its weights}, {} where the task has no teacher; and what is wrong, in one finding."""
    if KEY.partition(".")[2] not in context.config["task"]:
        return {}, []
    batch = example_batch(context.config | {"facts": facts})
    if batch is not None and "label" not in batch:
        return {}, [lacks_entry("label", batch, context)]
    folder = context.get(KEY)
    if not isinstance(folder, str):
        return {}, [NOT_GIVEN]
    try:
        path = weights_file(Path(folder))
        theirs = read_config(Path(folder))["facts"]
        digest = hashlib.sha256(storage.read_whole(path)).hexdigest()[:16]
    except (RunError, ValueError, KeyError, OSError) as error:
        what = f"is no finished run: {str(error).replace('init_from=', '')}".partition("; type")[0]
        return {}, [Finding(KEY, what.replace("init_from", KEY), folder, EXPECTED, f"{KEY}=<run directory>")]
    wrong = []
    if list(theirs["class_names"]) != list(facts["class_names"]):
        counts = [
            f"{len(names)}: {', '.join(map(str, names[:4]))}" for names in (theirs["class_names"], facts["class_names"])
        ]
        wrong.append(f"other classes ({counts[0]}{'...' * (len(theirs['class_names']) > 4)}; here {counts[1]})")
    if list(theirs["image_shape"]) != list(facts["image_shape"]):
        there, here = ("x".join(map(str, shape)) for shape in (theirs["image_shape"], facts["image_shape"]))
        wrong.append(f"other images ({there}; here {here})")
    if wrong:
        return {}, [Finding(KEY, f"was trained with {' and '.join(wrong)}", folder, EXPECTED, f"{KEY}=<another run>")]
    return {"teacher": digest}, []
