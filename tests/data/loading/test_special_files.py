"""Pipes, sockets and devices among the images of a list: named, and never waited for."""

import os
import socket
import threading
from contextlib import contextmanager

import pytest
from picture_files import encode, picture

from lookalike import storage
from lookalike.data.decoding.decode import load_image
from lookalike.data.inputs import read_places
from lookalike.data.loading.image_source import Source
from lookalike.data.record import Record
from lookalike.errors import StorageError


@contextmanager
def pipe(path):
    """A named pipe whose other end is opened after a second, so that nobody waits for ever."""
    os.mkfifo(path)
    done = threading.Event()

    def write() -> None:
        while not done.wait(1):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads
                continue

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield str(path)
    finally:
        done.set()
        thread.join()


def test_images_that_are_pipes_sockets_or_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with pipe(tmp_path / "pipe.jpg") as fifo, socket.socket(socket.AF_UNIX) as open_socket:
        open_socket.bind("socket.jpg")
        for place, kind in (
            (fifo, "named pipe"),
            ("socket.jpg", "socket"),
            ("/dev/zero", "device"),
            ("/dev/null", "device"),
        ):
            message = f"^{place}: is a {kind}, not a file$"
            with pytest.raises(StorageError, match=message):
                Source().read(Record(place, "1", "list.txt", 3))
            with pytest.raises(StorageError, match=message):
                load_image(place)
            with pytest.raises(StorageError, match=message), storage.opened(place):
                pass
            assert storage.read_starts([place], 10) == [b""]


def test_the_images_of_a_folder_are_found_beside_a_pipe(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(picture(9, 9), "PNG"))
    with pipe(tmp_path / "without_a_suffix"):
        found = read_places([tmp_path])
    assert [record.uri for record in found] == [str(tmp_path / "a.png")]


def test_a_list_may_be_a_pipe(tmp_path):
    """As `mkfifo list.txt` and a program that writes to it."""
    os.mkfifo(tmp_path / "list.txt")
    writer = threading.Thread(target=(tmp_path / "list.txt").write_text, args=("a.jpg 1\n",))
    writer.start()
    assert [record.label for record in read_places([tmp_path / "list.txt"])] == ["1"]
    writer.join()
