"""The search by itself: which files, which lines, how they are shown, and that it can be stopped."""

from __future__ import annotations

import itertools
import math
import os

import pytest

from trioserve.demo import search
from trioserve.demo.search import (
    FILE_SIZE,
    LINE_SHOWN,
    MATCHES_SHOWN,
    QUERY_LENGTH,
    QueryError,
    Search,
    Tree,
    TreeError,
)


def paths(tree: Tree) -> list[str]:
    return [path.relative_to(tree.root).as_posix() for path in tree.files]


def never() -> None:
    """A check that does not stop the search."""


def run(query: str, tree: Tree) -> tuple[Search, list[search.Match]]:
    it = Search(query, tree)
    return it, it.scan(math.inf, never)


# The tree


def test_a_tree_has_the_files_of_all_its_directories_in_the_order_of_their_paths(tmp_path):
    for name in ["b/c.py", "b/a.py", "a.py", "z.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert paths(Tree.under(tmp_path)) == ["a.py", "b/a.py", "b/c.py", "z.txt"]


def test_a_tree_has_nothing_that_was_made_or_installed_or_is_hidden(tmp_path):
    for name in ["__pycache__", "site-packages", "node_modules", ".git"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("x")
    (tmp_path / "a.py").write_text("x")
    assert paths(Tree.under(tmp_path)) == ["a.py"]


def test_a_tree_follows_no_links_and_has_no_pipes(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.py").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("x")
    (tree / "file").symlink_to(tmp_path / "outside" / "secret.py")
    (tree / "directory").symlink_to(tmp_path / "outside")
    os.mkfifo(tree / "pipe")
    assert paths(Tree.under(tree)) == ["a.py"]


def test_a_tree_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "FILES", 2)
    for name in "abc":
        (tmp_path / name).write_text("x")
    assert paths(Tree.under(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", "there is no directory"), ("file", "is no directory"), ("empty", "no files under")]
)
def test_what_is_no_tree_says_why(tmp_path, name, words):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TreeError, match=words):
        Tree.under(tmp_path / name)


# Queries


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "nothing to search for"),
        ("  ", "nothing to search for"),
        ("x" * (QUERY_LENGTH + 1), f"{QUERY_LENGTH} are the most"),
        ("a\nb", "one line"),
        ("a\r", "one line"),
    ],
)
def test_a_query_that_cannot_be_searched_for_says_what_to_do(tmp_path, query, words):
    (tmp_path / "a").write_text("x")
    with pytest.raises(QueryError, match=words):
        Search(query, Tree.under(tmp_path))


@pytest.mark.parametrize(
    ("query", "line", "found"),
    [
        ("async", "an ASYNC call", True),
        ("ASYNC", "an async call", True),
        ("a.c", "abc", False),
        ("a.c", "x(a.c)", True),
        ("[", "a[0]", True),
        ("größe", "die GRÖSSE", False),
        ("größe", "die GRÖßE", True),
        ("two  blanks", "two blanks", False),
        ("a\tb", "a\tb", True),
        ("a\N{NO-BREAK SPACE}b", "a\N{NO-BREAK SPACE}b", True),
        ("x" * QUERY_LENGTH, "X" * QUERY_LENGTH, True),
    ],
)
def test_a_query_is_text_as_it_stands_in_upper_or_lower_case(tmp_path, query, line, found):
    (tmp_path / "a").write_text(line, encoding="utf-8")
    assert run(query, Tree.under(tmp_path))[0].matches == found


# Matches


def test_a_match_has_its_path_its_line_and_what_is_before_between_and_after(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.py").write_text("zero\n    one Two three two\r\n")
    _, (match,) = run("two", Tree.under(tmp_path))
    assert match == ("d/a.py", 2, ["one ", "Two", " three ", "two", ""])


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("needle", ["", "needle", ""]),
        ("  needle", ["", "needle", ""]),
        ("needleneedle", ["", "needle", "", "needle", ""]),
        ("x" * 300 + "needle" + "y" * 300, ["…" + "x" * 40, "needle", "y" * 114 + "…"]),
        ("needle" + "y" * 300, ["", "needle", "y" * 154 + "…"]),
        (" " * 300 + "needle", ["", "needle", ""]),
    ],
)
def test_a_line_is_shown_around_its_first_match(line, pieces):
    assert search.pieces_of(line, search.needle_for("needle")) == pieces


def test_a_query_of_blanks_within_text_is_found_at_the_end_of_a_line_too():
    assert search.pieces_of("a b ", search.needle_for("b ")) == ["a ", "b ", ""]


def test_no_line_is_shown_longer_than_the_bound(tmp_path):
    (tmp_path / "a").write_text(" needle x" * 400)
    _, (match,) = run("needle", Tree.under(tmp_path))
    assert len("".join(match.pieces)) <= LINE_SHOWN + 2  # the ellipses


def test_every_match_is_counted_and_so_many_are_shown(tmp_path):
    (tmp_path / "a").write_text("needle\n" * (MATCHES_SHOWN + 5))
    it, shown = run("needle", Tree.under(tmp_path))
    assert (it.matches, len(shown)) == (MATCHES_SHOWN + 5, MATCHES_SHOWN)


# What is skipped


@pytest.mark.parametrize(
    ("content", "scanned"),
    [
        (b"needle\n" + b"x" * (FILE_SIZE - 7), True),
        (b"needle\n" + b"x" * (FILE_SIZE - 6), False),
        (b"needle\0", False),
        (b"", True),
        (b"caf\xe9 needle", True),  # not UTF-8, and text all the same
    ],
    ids=["as large as may be", "too large", "binary", "empty", "Latin-1"],
)
def test_what_is_not_text_or_too_large_is_skipped_and_counted(tmp_path, content, scanned):
    (tmp_path / "a").write_bytes(content)
    it, _ = run("needle", Tree.under(tmp_path))
    assert (it.scanned, it.skipped, it.never_scanned) == (scanned, not scanned, 0)


def test_a_file_that_has_gone_since_is_skipped(tmp_path):
    (tmp_path / "a").write_text("needle")
    (tmp_path / "b").write_text("needle")
    tree = Tree.under(tmp_path)
    (tmp_path / "a").unlink()
    it, _ = run("needle", tree)
    assert (it.scanned, it.skipped, it.matches) == (1, 1, 1)


# Going on, and stopping


def test_a_search_goes_on_where_it_was(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("needle")
    it = Search("needle", Tree.under(tmp_path))
    assert [[match.path for match in it.scan(0, never)] for _ in "abc"] == [["a"], ["b"], ["c"]]
    assert it.done
    assert it.cpu_time >= 0


class Stop(Exception):
    pass


def test_a_search_that_is_stopped_in_a_file_has_not_scanned_it(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("x\n" * 1000)
    calls = itertools.count(1)

    def stop_in_the_second() -> None:
        # One before each file, and two in each.
        if next(calls) == 5:
            raise Stop

    it = Search("needle", Tree.under(tmp_path))
    with pytest.raises(Stop):
        it.scan(math.inf, stop_in_the_second)
    assert (it.scanned, it.never_scanned, it.done) == (1, 2, False)
