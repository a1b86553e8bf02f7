"""Secrets do not reach what is kept or shown; ordinary text does, unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.jobs.storage.redaction import HIDDEN, is_secret_name, redact, redact_values

SECRET = "s3cr3tV4lue0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://user:{SECRET}@host/path", f"https://{HIDDEN}@host/path"),
        (f"https://{SECRET}@host/path", f"https://{HIDDEN}@host/path"),
        (f"s3://key:{SECRET}@bucket/in.jsonl: no such file", f"s3://{HIDDEN}@bucket/in.jsonl: no such file"),
        (f"https://user:p@{SECRET}@host/x", f"https://{HIDDEN}@host/x"),
        (f"https://host/in.jsonl?token={SECRET}", f"https://host/in.jsonl?token={HIDDEN}"),
        (f"https://host/in?a=1&access_token={SECRET}&b=2", f"https://host/in?a=1&access_token={HIDDEN}&b=2"),
        (f"https://host/in?API_KEY={SECRET}#top", f"https://host/in?API_KEY={HIDDEN}#top"),
        (f"https://h/i?X-Amz-Credential={SECRET}&X-Amz-Date=1", f"https://h/i?X-Amz-Credential={HIDDEN}&X-Amz-Date=1"),
        (f"https://h/i?X-Amz-Signature={SECRET}", f"https://h/i?X-Amz-Signature={HIDDEN}"),
        (f"https://blob/i?sv=2022&sig={SECRET}", f"https://blob/i?sv=2022&sig={HIDDEN}"),
        (f"Authorization: Bearer {SECRET}", f"Authorization: Bearer {HIDDEN}"),
        (f"HF_TOKEN={SECRET} pagecli generate", f"HF_TOKEN={HIDDEN} pagecli generate"),
        (f"{{'aws_secret_access_key': '{SECRET}'}}", f"{{'aws_secret_access_key': '{HIDDEN}'}}"),
        ("401 for hf_abcdefghijKLMNOPqrst1234", f"401 for {HIDDEN}"),
        ("key AKIAIOSFODNN7EXAMPLE", f"key {HIDDEN}"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789 refused", f"{HIDDEN} refused"),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "4,375 tokens in, 3,897 out; max_tokens=64 min_tokens: 100000",
        "https://host:8080/path?page=2&tokens=5",
        "s3://bucket/in.jsonl",
        "mail to someone@example.org",
        "the tokenizer knows no token: <|endoftext|>, nor token: something-longer",
        "stop_token_id=151643 and kv_bytes_per_token: 46080 of 123456789",
    ],
)
def test_ordinary_text_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "X_API_KEY"])
def test_values_of_secret_environment_variables_are_hidden_wherever_they_stand(name, monkeypatch):
    monkeypatch.setenv(name, "plainword77")
    assert is_secret_name(name)
    assert redact("the server said: plainword77 is no good") == f"the server said: {HIDDEN} is no good"


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "PAGECLI_MAX_TOKENS", "PATH", "KEYBOARD", "output_tokens"])
def test_other_environment_variables_are_not_secret(name):
    assert not is_secret_name(name)


def test_data_is_redacted_throughout(monkeypatch):
    data = {
        "input": f"https://u:{SECRET}@h/x",
        "rows": 5,
        "list": [f"?token={SECRET}", None],
        "token": SECRET,
        "sub": {"a": 1.5},
    }
    found = redact_values(data)
    assert SECRET not in str(found)
    assert found["rows"] == 5
    assert found["sub"] == {"a": 1.5}
    assert data["token"] == SECRET


@given(st.text(max_size=80))
def test_redacting_twice_changes_nothing_more(text):
    once = redact(text)
    assert redact(once) == once


@given(st.text("abcXYZ019-._~", min_size=8, max_size=30), st.sampled_from(["https", "s3", "gs", "hf", "ssh+git"]))
def test_no_password_of_a_url_survives(password, scheme):
    assert "qq" + password not in redact(f"cannot open {scheme}://user:qq{password}@host/file now")
