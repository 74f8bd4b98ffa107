"""The group `logger` composes: none, one, several, one taken away."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

GROUP = Path(__file__).resolve().parents[2] / "conf/logger"


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], ["jsonl"]),
        (["logger=none"], []),
        (["logger=csv"], ["csv"]),
        (["logger=[csv,wandb]"], ["csv", "wandb"]),
        (["logger=[csv,wandb]", "~logger.wandb"], ["csv"]),
        (["logger=[jsonl,csv]"], ["jsonl", "csv"]),
    ],
    ids=str,
)
def test_loggers_are_selected_by_name(overrides, names, tmp_path):
    (tmp_path / "root.yaml").write_text("defaults:\n  - logger: jsonl\n  - _self_\nname: digits\n")
    (tmp_path / "logger").symlink_to(GROUP)
    with initialize_config_dir(str(tmp_path), version_base=None):
        config = OmegaConf.to_container(compose("root", overrides=overrides), resolve=True)
    assert list(config["logger"]) == names
