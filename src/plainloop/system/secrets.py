"""Keeps keys, tokens and passwords out of everything that a run writes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

# "token" alone is a secret; models have tokens too, and these are names of theirs (timm, tokenizers). Where a short
# word is part of many names (image_key, two_pass, OLDPWD), it counts as variables are written, or behind what logs in.
_SECRET = re.compile(
    r"(?i:api[_-]?key|access[_-]?key|private[_-]?key|kaggle_key|credential|token|secret|passw|passphrase|authorization)"
    r"|(?:^|\W)[A-Z0-9_]+_(?:KEY|PASS)$|(?i:[_-]pwd$|(?:db|user|root|admin|smtp|mail|ftp|pg|proxy|ssh|sudo)_?pass$)"
)
_MODEL_TOKENS = re.compile(
    r"(?:num|max|min|reg|cls|class|dist|mask|pad|sep|prefix|use|has|no|return|extra|register|special|pos)_(?:\w+_)?tokens?"
    r"|token_(?:mixers?|dim|length|mask|size|type|pool|label|id)\w*|\w*tokens_(?:norm|per_\w+)|tokeniz\w+"
    r"|\w+_(?:cls|class|reg|mix|pos)_tokens?|\w+_token_(?:only|id|emb)",
    re.IGNORECASE,
)

_SHORTEST = 8  # characters; replacing shorter values of the environment would change ordinary words

_VALUE = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|\[[^\]\n]*\]|(?:[^\s\"',;&}\])]|,(?=[^\s\"']))+"
_ASSIGNED = re.compile(rf"(?<![\w.-])([\w.-]+)([\"']?\s*[=:]\s*)(?!\"?'?\*\*\*)({_VALUE})")
_QUOTED_WHOLE = re.compile(r"(?<=')(\+*[\w.-]+)(=)(?!\"?\*\*\*)([^'\"\n]+)(?=')")  # 'password=a b', as shells write it
_FLAG = re.compile(rf"(?<![\w-])(--[\w-]+)(\s+)(?!\"?'?\*\*\*|-)({_VALUE})")
_IN_QUERY = re.compile(r"([?&][\w-]*sig(?:nature)?)(=)([^&\s\"']+)", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s\"']+(?=@)|(?<![\w.:/@-])[A-Za-z][\w.-]*:[^\s/\"']{1,200}(?=@[A-Za-z])")
_AUTHORIZATION = re.compile(
    r"(?<=\bBearer )\S+|(?<=\bBasic )\S+|(?<=\bauthorization:)[^\"'\n]+|(?<=\bauthorization=)[^\"'\n]+", re.IGNORECASE
)
# What GitHub, GitLab, Hugging Face, OpenAI, AWS, Slack and W&B prefix theirs with; and W&B's older form.
_KNOWN = re.compile(
    r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|AKIA|xox[abp]-|wandb_v1_)[\w-]{12,}|(?<=key )[0-9a-f]{40}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",  # a JSON Web Token
)


def looks_secret(key: str) -> bool:
    """Whether a config key or a variable of that name holds a secret; a dotted key is judged by its last part.

    >>> [looks_secret(key) for key in ("logger.wandb.api_key", "HF_TOKEN", "db_password", "clientSecret")]
    [True, True, True, True]
    >>> [looks_secret(key) for key in ("model.num_tokens", "class_token", "key", "tokenizer", "passes")]
    [False, False, False, False, False]
    """
    name = key.rsplit(".", 1)[-1]
    return bool(_SECRET.search(name)) and not _MODEL_TOKENS.fullmatch(name)


def redact(text: str) -> str:
    """Puts *** for values of secret environment variables, users in addresses, what secret names are given, and tokens.

    >>> redact("https://me:hunter2@example.org/a.git api_key=0123 lr=0.1")
    'https://***@example.org/a.git api_key=*** lr=0.1'
    """
    for value in _values_of_environment():
        text = text.replace(value, "***")
    text = _USERINFO.sub("***", text)
    text = _AUTHORIZATION.sub("***", text)
    text = _KNOWN.sub("***", text)
    text = _IN_QUERY.sub(r"\1\2***", text)
    for pattern in (_QUOTED_WHOLE, _FLAG, _ASSIGNED):
        text = pattern.sub(lambda found: _hidden(found) if looks_secret(found[1]) else found[0], text)
    return text


def _hidden(found: re.Match[str]) -> str:
    quote = found[3][0] if found[3][0] in "\"'" else ""  # so that JSON stays JSON
    return f"{found[1]}{found[2]}{quote}***{quote}"


def redact_tree(value: Any, *, secret: bool = False) -> Any:
    """The same for every string in a config or summary, keys included; what a secret name holds becomes ***."""
    if isinstance(value, Mapping):
        pairs = ((str(key), item) for key, item in value.items())
        return {redact(key): redact_tree(item, secret=secret or looks_secret(key)) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [redact_tree(item, secret=secret) for item in value]
    if secret and isinstance(value, str | int):
        return "***"
    return redact(value) if isinstance(value, str) else value


def _values_of_environment() -> list[str]:
    """Longest first, so that a value that contains another one is replaced as a whole."""
    found = {value for name, value in os.environ.items() if looks_secret(name) and len(value) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
