"""Settings: every bad value names the variable, the value and what is allowed."""

from __future__ import annotations

import copy
import math
import os
import pickle
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foundry_lab import Settings
from foundry_lab._ground.checks import MAX_TIMEOUT_S, check_retries, check_timeout
from foundry_lab.config import check_endpoint
from foundry_lab.errors import ConfigurationError, FoundryError


def from_environment(**variables: str) -> Settings:
    with mock.patch.dict(os.environ, variables):
        return Settings()


def test_defaults() -> None:
    settings = Settings()
    assert (settings.endpoint, settings.model, settings.model_is_explicit) == (None, "phi-4-mini", False)
    assert (settings.timeout, settings.retries) == (30.0, 3)
    assert (settings.log_level, settings.catalog, settings.api_key) == ("INFO", "local", None)


def test_everything_comes_from_the_environment() -> None:
    settings = from_environment(
        FOUNDRY_ENDPOINT="http://127.0.0.1:5273/v1/",
        FOUNDRY_API_KEY="k",
        FOUNDRY_MODEL="phi-3",
        FOUNDRY_TIMEOUT="12.5",
        FOUNDRY_RETRIES="0",
        FOUNDRY_LOG_LEVEL="debug",
        FOUNDRY_LAB_CATALOG="PUBLIC",
    )
    assert settings.endpoint == "http://127.0.0.1:5273"
    assert (settings.model, settings.model_is_explicit) == ("phi-3", True)
    assert (settings.timeout, settings.retries, settings.log_level) == (12.5, 0, "DEBUG")
    assert (settings.catalog, settings.api_key) == ("public", "k")


def test_empty_counts_as_not_set() -> None:
    names = ("ENDPOINT", "API_KEY", "MODEL", "TIMEOUT", "RETRIES", "LOG_LEVEL", "LAB_CATALOG")
    assert from_environment(**{f"FOUNDRY_{name}": "" for name in names}) == Settings()
    assert not from_environment(FOUNDRY_MODEL="  ").model_is_explicit


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("FOUNDRY_TIMEOUT", "abc", "positive number of seconds"),
        ("FOUNDRY_TIMEOUT", "0", "positive number of seconds"),
        ("FOUNDRY_TIMEOUT", "-1", "positive number of seconds"),
        ("FOUNDRY_TIMEOUT", "nan", "positive number of seconds"),
        ("FOUNDRY_TIMEOUT", "inf", "positive number of seconds"),
        ("FOUNDRY_RETRIES", "two", "whole number from 0"),
        ("FOUNDRY_RETRIES", "-1", "whole number from 0"),
        ("FOUNDRY_RETRIES", "1.5", "whole number from 0"),
        ("FOUNDRY_RETRIES", "101", "to 100"),
        ("FOUNDRY_LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("FOUNDRY_LAB_CATALOG", "mine", "local, public"),
        ("FOUNDRY_ENDPOINT", "127.0.0.1:5273", "http://"),
        ("FOUNDRY_ENDPOINT", "ftp://127.0.0.1", "http://"),
        ("FOUNDRY_ENDPOINT", "http://", "http://"),
        ("FOUNDRY_ENDPOINT", "http://host:99999", "http://"),
        ("FOUNDRY_ENDPOINT", "http://two words:5273", "http://"),
        ("FOUNDRY_ENDPOINT", "http://localhost\\", "http://"),
        ("FOUNDRY_ENDPOINT", "http://localhost%20", "http://"),
        ("FOUNDRY_ENDPOINT", "http://a[::1]", "http://"),
        ("FOUNDRY_ENDPOINT", "http://[::1", "http://"),
        ("FOUNDRY_ENDPOINT", "http://a..b:80", "http://"),
        ("FOUNDRY_ENDPOINT", f"http://{'a' * 70}.test:80", "http://"),
        ("FOUNDRY_ENDPOINT", "http://host:5273/some/where", "no path"),
        ("FOUNDRY_ENDPOINT", "http://host:5273/v1/v1", "no path"),
    ],
)
def test_a_bad_variable_is_named_with_its_value_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_environment(**{variable: value})
    message = str(caught.value)
    assert variable in message and repr(value) in message and allowed in message
    assert isinstance(caught.value, FoundryError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:hunter2@gateway:8080",
        "http://me:hunter2@127.0.0.1:99999",
        "http://me:hunter2@127.0.0.1:abc",
        "http://me:hunter2@[::1",
        "me:hunter2@127.0.0.1:5000",
        "http://gateway:8080/me:hunter2@",
        "http://me:hunter2%40127.0.0.1:5000",
        "http://me:hunter2\uff20127.0.0.1:5000",
    ],
)
def test_a_password_in_the_endpoint_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        from_environment(FOUNDRY_ENDPOINT=endpoint)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://host:1/v1?api-key=hunter2", "https://host#hunter2", "host?hunter2"]
)
def test_a_query_in_the_endpoint_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match=r"host.*[?#]….*no query") as caught:
        from_environment(FOUNDRY_ENDPOINT=endpoint)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("explicit", [True, False])
def test_settings_are_pickled_without_the_key(explicit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle lies on disks and travels to the workers of a cluster."""
    settings = Settings(
        endpoint="http://127.0.0.1:1", api_key="hunter2", model="m" if explicit else "", timeout=3, retries=0
    )
    data = pickle.dumps(settings)
    assert b"hunter2" not in data
    monkeypatch.setenv("FOUNDRY_API_KEY", "of that machine")
    assert pickle.loads(data) == msgspec.structs.replace(
        settings, api_key="of that machine", model="m" if explicit else ""
    )
    for copied in (copy.copy(settings), copy.deepcopy(settings)):
        assert copied == settings and copied.api_key == "hunter2"


ENVIRONMENT_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.sampled_from(["TIMEOUT", "RETRIES", "LOG_LEVEL", "LAB_CATALOG", "ENDPOINT"]), ENVIRONMENT_TEXT)
def test_any_text_is_a_valid_setting_or_a_useful_complaint(name: str, value: str) -> None:
    assume(not set("@\uff20\ufe6b%?#") & set(value))  # taken for a password or a query, and so not repeated
    variable = f"FOUNDRY_{name}"
    try:
        settings = from_environment(**{variable: value})
    except ConfigurationError as error:
        assert variable in str(error) and repr(value.strip()) in str(error)
    else:
        assert 0 < settings.timeout < math.inf and 0 <= settings.retries <= 100
        assert check_endpoint(settings.endpoint) == settings.endpoint if settings.endpoint else True


@given(st.floats())
def test_timeouts_are_positive_and_finite(value: float) -> None:
    if 0 < value < math.inf:
        assert check_timeout(value) == min(value, MAX_TIMEOUT_S)
    else:
        with pytest.raises(ConfigurationError, match="timeout="):
            check_timeout(value)


@pytest.mark.parametrize("value", [np.True_, b"5", [5]])
def test_what_only_looks_like_a_number_is_no_time(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout="):
        check_timeout(value)
    assert check_timeout(np.float32(2.5)) == 2.5 and check_timeout(" 5 ") == 5.0


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.binary(max_size=3)))
def test_retries_are_whole_numbers_in_range(value: Any) -> None:
    if type(value) is int and 0 <= value <= 100:
        assert check_retries(value) == value
    else:
        with pytest.raises(ConfigurationError, match="retries="):
            check_retries(value)


@pytest.mark.parametrize("value", [5, b"http://x:1", None, ["http://x:1"]])
def test_an_endpoint_of_the_wrong_type_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="endpoint"):
        check_endpoint(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("endpoint", 5), ("model", 5), ("api_key", 5), ("timeout", "x"), ("retries", 1.0), ("log_level", 3)],
)
def test_an_argument_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Settings(**{field: value})


@given(st.text(min_size=8, max_size=40))
def test_the_key_is_never_shown(key: str) -> None:
    assume(key not in repr(Settings()) + "***")
    settings = Settings(api_key=key)
    assert key not in repr(settings) and key not in str(settings)


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/", "/v1/models", "/v1/chat/completions", "/status", "/openai/status"]
)
def test_what_people_paste_along_with_the_address_is_left_out(path: str) -> None:
    assert check_endpoint(f"http://127.0.0.1:50920{path}") == "http://127.0.0.1:50920"


def test_replace_keeps_what_is_not_given() -> None:
    settings = Settings(timeout=5, model="a").replace(timeout=None, retries=1)
    assert (settings.timeout, settings.retries, settings.model, settings.model_is_explicit) == (
        5,
        1,
        "a",
        True,
    )
    assert not Settings().replace(timeout=5).model_is_explicit
    with pytest.raises(ConfigurationError):
        Settings().replace(timeout=-1)
