import os
import subprocess
import sys
import threading

import pytest

from challenge.files import NotAFileError, only_writer, open_regular, read_regular, write_text, written_whole


def test_writing_that_breaks_off_leaves_what_was_there(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("old")

    def break_off():
        with written_whole(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("old")
    with written_whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("trap", ["link", "pipe", "folder"])
def test_what_lies_at_a_name_that_could_be_guessed_is_not_written_to(tmp_path, trap):
    victim, old_name = tmp_path / "victim", tmp_path / ".partial-scores.json"
    victim.write_text("untouched")
    {"link": lambda: old_name.symlink_to(victim), "pipe": lambda: os.mkfifo(old_name), "folder": old_name.mkdir}[trap]()
    write_text(tmp_path / "scores.json", "{}")
    assert (tmp_path / "scores.json").read_text() == "{}"
    assert victim.read_text() == "untouched"


def test_a_link_at_the_final_name_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "scores.json").symlink_to(victim)
    write_text(tmp_path / "scores.json", "{}")
    assert not (tmp_path / "scores.json").is_symlink()
    assert victim.read_text() == "untouched"


def test_a_link_put_in_the_place_of_the_hidden_file_is_noticed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")

    def swap():
        with written_whole(tmp_path / "scores.json") as partial:
            partial.unlink()
            partial.symlink_to(victim)

    with pytest.raises(OSError, match="got another file in its place"):
        swap()
    assert sorted(tmp_path.iterdir()) == [victim]


def test_two_writers_of_one_path_do_not_tear_it(tmp_path):
    path, contents = tmp_path / "scores.json", ["a" * 300_000, "b" * 200_000]
    write_text(path, contents[0])
    writers = [threading.Thread(target=lambda c=c: [write_text(path, c) for _ in range(4)]) for c in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_one_is_let_alone(tmp_path):
    path = tmp_path / "scores.json"
    code = (
        "import os, sys, pathlib; from challenge.files import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    with written_whole(path) as living:
        write_text(path, "whole")
        assert set(tmp_path.iterdir()) == {path, living}
        living.write_text("later")
    assert path.read_text() == "later"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.timeout(30)
def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "to_itself").symlink_to("to_itself")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "to_pipe", "a pipe"),
        (tmp_path / "to_itself", "a link to itself"),
        (tmp_path, "a folder"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(NotAFileError, match=kind):
            open_regular(tmp_path / path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_link_must_not_leave_the_folder_that_is_given(tmp_path):
    team, reference = tmp_path / "team", tmp_path / "reference"
    team.mkdir()
    reference.mkdir()
    (reference / "labels").write_bytes(b"the truth")
    (team / "own").write_bytes(b"own")
    (team / "to_own").symlink_to("own")
    (team / "to_reference").symlink_to(reference / "labels")
    (team / "folder").symlink_to(reference)
    with open_regular(team / "to_own", within=team) as file:
        assert file.read() == b"own"
    for name in ("to_reference", "folder/labels", "../reference/labels"):
        with pytest.raises(NotAFileError, match="a link that leaves its folder"):
            open_regular(team / name, within=team)


def test_a_file_larger_than_allowed_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than"):
        read_regular(tmp_path / "file", 4)


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with only_writer(tmp_path):
        with pytest.raises(OSError, match="another process"), only_writer(tmp_path):
            pass
        assert not list(tmp_path.iterdir())
    with only_writer(tmp_path):
        pass
