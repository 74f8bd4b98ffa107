"""What counts as a secret, and that none of it is left in a text."""

import time

import pytest

from plainloop.system.secrets import looks_secret, redact, redact_tree

SECRETS = (
    *("api_key", "apikey", "API-KEY", "logger.wandb.api_key", "token", "hf_token", "auth_token", "access_token"),
    *("KAGGLE_KEY", "hydra.job.env_set.KAGGLE_KEY", "DB_PASS", "db_pass", "MYSQL_PWD", "passphrase", "Authorization"),
    *("secret", "client_secret", "password", "passwd", "db.passw", "AWS_SECRET_ACCESS_KEY", "aws_access_key_id"),
)
HARMLESS = (  # names of timm's models and of tokenizers, and words that only look like a secret's name
    *("num_tokens", "num_prefix_tokens", "reg_tokens", "num_reg_tokens", "class_token", "has_cls_token"),
    *("token_mixers", "tokenizer", "model.class_token", "token_mixer_type", "max_tokens_per_batch", "use_mix_token"),
    *("pad_token_id", "mlp_ratio_token_only", "key", "monkey", "seed", "compass", "pass_through", "token.lr"),
    *("PWD", "OLDPWD", "image_key", "label_key", "two_pass", "num_pass", "KEY", "sig", "signature"),
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
        "KAGGLE_KEY=SECRETVALUE",
        "DB_PASS: SECRETVALUE",
        "export MYSQL_PWD=SECRETVALUE",
        "passphrase = SECRETVALUE",
        "train.py --password SECRETVALUE x",
        "train.py --password 'a SECRETVALUE b' x",
        "Authorization: token SECRETVALUE",
        "authorization: SECRETVALUE",
        "curl -H 'Authorization: Digest username=SECRETVALUE, nonce=SECRETVALUE'",
        "https://store.example/a?sp=r&sig=SECRETVALUE&se=2026",
        "https://store.example/a?X-Amz-Signature=SECRETVALUE",
        "got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJTRUNSRVRWQUxVRSJ9.SECRETVALUE back",
        "https://u:p@SECRETVALUE@host.example/a",
        "u:p@SECRETVALUE@host",
        'password="a SECRETVALUE b"',
        "password='a SECRETVALUE b'",
        "'password=a SECRETVALUE b'",
        r'password="a \" SECRETVALUE"',
        "tokens=[a, SECRETVALUE]",
        "api_key=a,SECRETVALUE,c",
        """'+hydra.job.env_set.KAGGLE_KEY="a SECRETVALUE"' seed=3""",
        "ghp_SECRETVALUE0123456789",
        "hf_SECRETVALUE0123456789",
    ],
)
def test_no_secret_is_left(text, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "8charENV_SECRETVALUE")
    assert "SECRETVALUE" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        *("optimizer.lr=0.1 seed=3", "step 10/20  ep 1.0", "num_tokens=197", "a: b", "https://example.org/a@b", ""),
        *("git@github.com:a/b.git", "hf-hub:timm/tiny@main", "12:30@noon", "first pass: 3", "a?design=3", "--lr 0.1"),
        *("data.image_key=jpg,png", "https://a.example,https://b.example/c@d", "password=***", "--token *** x"),
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_short_values_of_the_environment_do_not_spoil_words(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "a")
    assert redact("banana") == "banana"


def test_a_tree_loses_its_secrets_and_nothing_else(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "12345678")
    tree = {
        "api_key": "x",
        "api_keys": ["x", None, {"b": "y"}],
        "lr": 0.1,
        "model": {"num_tokens": 4, "names": ["a 12345678", None]},
        "token": None,
    }
    assert redact_tree(tree) == {
        "api_key": "***",
        "api_keys": ["***", None, {"b": "***"}],
        "lr": 0.1,
        "model": {"num_tokens": 4, "names": ["a ***", None]},
        "token": None,
    }


def test_a_long_text_is_redacted_in_linear_time():
    for text in ("x" * 300_000 + " a=b" * 50_000, "a:" * 150_000, "'a=" * 100_000, "--a " * 100_000, "[" * 200_000):
        begun = time.process_time()
        assert redact(text) == text
        assert time.process_time() - begun < 5
