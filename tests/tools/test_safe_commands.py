from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codex_actors.tools.safe_commands import PlainCommand, is_dangerous, is_harmless, plain_commands


def words_of(script: str) -> list[tuple[str, ...]] | None:
    commands = plain_commands(script)
    return None if commands is None else [command.words for command in commands]


def test_chains_of_plain_commands_are_split() -> None:
    assert words_of("ls -la && cat 'a b' || echo \"it's\" ; pwd | wc -l") == [
        ("ls", "-la"),
        ("cat", "a b"),
        ("echo", "it's"),
        ("pwd",),
        ("wc", "-l"),
    ]


def test_quotes_within_a_word_join_it() -> None:
    assert words_of("""l's' a"b c"'d'""") == [("ls", "ab cd")]
    assert words_of("echo '' \"\"") == [("echo", "", "")]


def test_globs_behind_a_name_are_plain() -> None:
    assert plain_commands("ls src/*.py") == (PlainCommand(("ls", "src/*.py"), True),)
    assert plain_commands("ls '*'") == (PlainCommand(("ls", "*"), False),)


@pytest.mark.parametrize(
    "script",
    [
        "",
        "ls >a",
        "ls 2>&1",
        "cat <a",
        "ls &",
        "ls & pwd",
        "ls |& cat",
        "ls ;",
        "ls ;; ls",
        "&& ls",
        "ls $HOME",
        "ls ${HOME}",
        'ls "$HOME"',
        "ls `pwd`",
        "ls $(pwd)",
        'ls "`pwd`"',
        "(ls)",
        "{ ls; }",
        "ls {a,b}",
        "ls ~",
        "ls \\a",
        "ls 'a",
        'ls "a\\"',
        "ls # no",
        "ls\npwd",
        "ls [a]",
        "ls *",
        "ls ?x",
        "ls -*",
        "ls '-'*",
        "ls\rpwd",
        "ls !x",
        "cat <<E\nE",
    ],
)
def test_anything_else_is_not_plain(script: str) -> None:
    assert plain_commands(script) is None


HARMLESS = [
    "ls -la",
    "cat a.txt | head -n 5",
    "cd src && ls a*",
    "grep -rn 'def f(' src",
    "find . -name '*.py' -type f",
    "rg -n TODO src",
    "sed -n 1,20p a.py",
    "sed -n '$p' a.py",
    "sort -rn -k2,2n a | uniq -c",
    "printf '%s' a",
    "git status -sb",
    "git log --oneline -5 -- src",
    "git log --format=%h --since=yesterday",
    "git diff --stat HEAD",
    "git show HEAD",
    "git branch --show-current",
    "git branch",
    "echo 'rm -rf /'",
]


@pytest.mark.parametrize("script", HARMLESS)
def test_what_only_reads_is_harmless(script: str) -> None:
    assert is_harmless(script)


@pytest.mark.parametrize(
    "script",
    [
        "rm a",
        "/bin/ls",
        "./ls",
        "PATH=. ls",
        "'PATH=.' ls",
        "ls; rm a",
        "ls | tee a",
        "ls | xargs rm",
        "find . -delete",
        "find . -exec rm {} +",
        "find . '-execdir' rm",
        "find . -fprintf a b",
        "find . -ok rm",
        "rg --pre x y",
        "rg --pre=x y",
        "rg -nz y",
        "rg -.z y",
        "rg --hostname-bin x y",
        "sed -n 1p -i a",
        "sed -i 1p a",
        "sed -n 'w b' a",
        "sed -n '1e rm' a",
        "sort -o a b",
        "sort -no a b",
        "sort --output=a b",
        "sort --compress-program=x a",
        "sort -T a",
        "uniq a b",
        "uniq a*",
        "printf -v PATH x",
        "test -v 'a[$(rm b)]'",
        "git -C x status",
        "git -c core.pager=x log",
        "git --git-dir=x log",
        "git --paginate log",
        "git log --output=x",
        "git log --outp x",
        "git diff --ext-diff",
        "git diff --textconv",
        "git branch -d x",
        "git branch x",
        "git branch --list x",
        "git checkout status",
        "git fetch",
        "git",
        "cd x && git status",
        "env",
        "time ls",
        "command ls",
        "awk 1",
        "python x.py",
        "exec ls",
        "export A=b",
    ],
)
def test_what_may_do_more_is_not_harmless(script: str) -> None:
    assert not is_harmless(script)


def test_git_is_only_harmless_at_home() -> None:
    assert not is_harmless("git status", in_own_folder=False)
    assert is_harmless("ls", in_own_folder=False)


ANY_TEXT = st.text(alphabet=" \t\nabcls./-'\"|&;*?", max_size=15)


@given(ANY_TEXT, st.sampled_from([">", "<", "$", "`", "(", "{", "\\", "~", "\n", "&"]), ANY_TEXT)
def test_script_with_an_active_sign_is_not_harmless(before: str, sign: str, behind: str) -> None:
    script = f"cat {before.replace(chr(39), '').replace(chr(34), '')}a{sign}b{behind}"
    if sign == "&":  # one of its own, not of a chain
        script = script.replace("&&", "&").replace("b&", "b")
    assert not is_harmless(script)


@given(
    st.lists(st.sampled_from([*HARMLESS, "ls", "pwd"]), max_size=3),
    st.sampled_from(["rm x", "sudo ls", "git reset", "sh -c ls", "dd", "chmod +x a", "curl x", "tee a", "mv a b"]),
    st.lists(st.sampled_from([*HARMLESS, "ls"]), max_size=3),
    st.sampled_from([" && ", " || ", ";", " | ", "|"]),
)
def test_one_other_command_spoils_a_chain(before: list[str], other: str, behind: list[str], sign: str) -> None:
    assert not is_harmless(sign.join([*before, other, *behind]))


@given(st.text(max_size=40))
@example("'" * 3)
def test_no_text_breaks_the_judgement(script: str) -> None:
    if is_harmless(script):
        assert plain_commands(script)
    assert is_dangerous(script) in (True, False)


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf /",
        "rm -f a",
        "rm a -r",
        "/bin/rm --force a",
        "\\rm -rf a",
        "sudo ls",
        "A=1 sudo ls",
        "ls && sudo -u x ls",
        "ls\nrm -rf a",
        "if true; then rm -rf a; fi",
        "find . | xargs -0 rm -f",
        "find . -delete",
        "bash -c 'rm -rf a'",
        'echo "$(rm -rf a)"',
        "echo `rm -rf a`",
        "(rm -rf a)",
        "git reset --hard",
        "git -C x -c a=b reset",
        "git clean -fd",
        "git push --force",
        "git push -f",
        "git rm a",
        "mkfs.ext4 /dev/x",
        "dd if=a of=b",
        "cat <<'E'\nit's\nE\nrm -rf a",
    ],
)
def test_what_is_regretted_is_dangerous(script: str) -> None:
    assert is_dangerous(script)


@pytest.mark.parametrize(
    "script",
    [
        *(script for script in HARMLESS if "rm " not in script),
        "rm a",
        "git commit -m x",
        "make su",
        "git push",
        "npm run rm",
    ],
)
def test_everyday_commands_are_not_dangerous(script: str) -> None:
    assert not is_dangerous(script)
