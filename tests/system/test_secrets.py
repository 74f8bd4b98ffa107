"""What counts as a secret, and that none of it is left in a text."""

import pytest

from plainloop.system.secrets import looks_secret, redact, redact_tree

SECRETS = (
    *("api_key", "apikey", "API-KEY", "logger.wandb.api_key", "token", "hf_token", "auth_token", "access_token"),
    *("secret", "client_secret", "password", "passwd", "db.passw", "AWS_SECRET_ACCESS_KEY", "aws_access_key_id"),
)
HARMLESS = (  # names of timm's models and of tokenizers, and words that only look like a secret's name
    *("num_tokens", "num_prefix_tokens", "reg_tokens", "num_reg_tokens", "class_token", "has_cls_token"),
    *("token_mixers", "tokenizer", "model.class_token", "token_mixer_type", "max_tokens_per_batch", "use_mix_token"),
    *("pad_token_id", "mlp_ratio_token_only", "key", "monkey", "seed", "compass", "pass_through", "token.lr"),
)


def test_names_of_secrets_are_known_and_names_of_models_are_left_alone():
    assert [key for key in SECRETS if not looks_secret(key)] == []
    assert [key for key in HARMLESS if looks_secret(key)] == []


@pytest.mark.parametrize(
    "text",
    [
        "https://me:SECRETVALUE@example.org/a.git",
        "https://SECRETVALUE@github.com/a/b",
        "postgresql://SECRETVALUE:x@host/db",
        "+api_key=SECRETVALUE",
        "api_key: 'SECRETVALUE'",
        '{"hf_token": "SECRETVALUE", "lr": 1}',
        "Authorization: Bearer SECRETVALUE",
        "password = SECRETVALUE",
        "the value is 8charENV_SECRETVALUE here",
        "ghp_SECRETVALUE0123456789",
        "hf_SECRETVALUE0123456789",
    ],
)
def test_no_secret_is_left(text, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "8charENV_SECRETVALUE")
    assert "SECRETVALUE" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["optimizer.lr=0.1 seed=3", "step 10/20  ep 1.0", "num_tokens=197", "a: b", "https://example.org/a@b", ""]
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_short_values_of_the_environment_do_not_spoil_words(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "a")
    assert redact("banana") == "banana"


def test_a_tree_loses_its_secrets_and_nothing_else(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "12345678")
    tree = {"api_key": "x", "lr": 0.1, "model": {"num_tokens": 4, "names": ["a 12345678", None]}, "token": None}
    assert redact_tree(tree) == {
        "api_key": "***",
        "lr": 0.1,
        "model": {"num_tokens": 4, "names": ["a ***", None]},
        "token": None,
    }


def test_a_long_text_is_redacted_in_linear_time():
    assert len(redact("x" * 300_000 + " a=b" * 50_000)) == 500_000
