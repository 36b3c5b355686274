from __future__ import annotations

from typing import Any

import pytest

from codex_actors.errors import InvalidRequest
from codex_actors.tools.environment import ShellEnvironment

HOST = {"PATH": "/bin", "HOME": "/home/me", "EDITOR": "vi", "LEVEL": "3"}


def kept(rules: ShellEnvironment | None = None, /, **more: str) -> dict[str, str]:
    return (rules or ShellEnvironment()).of({**HOST, **more})


def test_plain_variables_are_inherited_by_default() -> None:
    assert kept() == HOST


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "aws_secret_access_id",
        "GH_TOKEN",
        "PGPASSWORD",
        "MYSQL_PWD",
        "CREDENTIALS",
        "NPM_AUTH",
        "GH_PAT",
    ],
)
def test_names_of_secrets_are_left_out(name: str) -> None:
    assert kept(**{name: "x"}) == HOST


@pytest.mark.parametrize(
    "value",
    [
        "postgres://me:hunter2@db/x",
        "https://ghp_abc@github.com/x.git",
        "-----BEGIN RSA PRIVATE KEY-----\nabc",
    ],
)
def test_values_that_are_secrets_are_left_out(value: str) -> None:
    assert kept(WHERE=value) == HOST


def test_value_of_an_excluded_name_is_secret() -> None:
    assert kept(API_KEY="sk-12345", COPY="sk-12345") == HOST
    assert kept(API_KEY="3") == HOST  # too short to say anything of LEVEL


def test_urls_without_a_user_stay() -> None:
    assert kept(SITE="https://example.org/@me")["SITE"] == "https://example.org/@me"


@pytest.mark.parametrize("name", ["BASH_ENV", "BASH_FUNC_ls%%", "ENV", "SHELLOPTS", "SSH_CLIENT"])
def test_variables_that_make_shells_act_are_left_out(name: str) -> None:
    assert kept(ShellEnvironment(exclude=()), **{name: "x"}) == HOST


def test_core_and_none_inherit_less() -> None:
    assert kept(ShellEnvironment(inherit="core")) == {"PATH": "/bin", "HOME": "/home/me"}
    assert kept(ShellEnvironment(inherit="none", set={"A": "1"})) == {"A": "1"}


def test_set_adds_even_what_is_excluded() -> None:
    assert kept(ShellEnvironment(set={"API_KEY": "mine"})) == {**HOST, "API_KEY": "mine"}


def test_include_only_narrows_what_is_left() -> None:
    assert kept(ShellEnvironment(include_only=("*path", "a"), set={"A": "1"})) == {"PATH": "/bin", "A": "1"}


def test_values_that_are_set_are_not_shown() -> None:
    assert "hunter2" not in repr(ShellEnvironment(set={"A": "hunter2"}))
    with pytest.raises(InvalidRequest) as caught:
        ShellEnvironment(set={"A": "hunter2\0"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"inherit": "some"}, "inherit: 'some'"),
        ({"exclude": "*KEY*"}, "exclude"),
        ({"include_only": (1,)}, "include_only"),
        ({"set": [("A", "1")]}, "set: list"),
        ({"set": {"A=B": "1"}}, "'A=B'"),
        ({"set": {"A": 1}}, "the value of 'A'"),
    ],
)
def test_wrong_rules_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ShellEnvironment(**wrong)
    assert named in str(caught.value)
