"""The lines of standard input."""

import os

from moorage.supervisor.cli.terminal.input import lines


async def test_lines_come_from_pipes_files_and_devices(tmp_path):
    async def all_of(fd):
        return [line async for line in lines(fd)]

    path = tmp_path / "text"
    path.write_bytes(b"one\r\ntw\xc3\xb6\n\nno end \xff")
    expected = ["one", "twö", "", "no end �"]
    with path.open("rb") as file:
        assert await all_of(file.fileno()) == expected
    read, write = os.pipe()
    os.write(write, path.read_bytes())
    os.close(write)
    assert await all_of(read) == expected
    os.close(read)
    null = os.open(os.devnull, os.O_RDONLY)
    assert await all_of(null) == []
    os.close(null)
