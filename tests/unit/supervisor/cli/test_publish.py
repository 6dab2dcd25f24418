"""`moorage publish`: the data, the answer, the exit code."""

from io import StringIO

from tests.fakes_cli import beside


async def test_publish_waits_for_the_server(moorage, anonymous_server):
    async with anonymous_server as server:
        (url,) = server.addresses
        arguments = (url, "--topic", "news", "--data", '{"n": 1}')
        assert await beside(moorage, "publish", *arguments) == (0, "", "")


async def test_publish_reads_its_data_from_a_file_or_standard_input(
    moorage, anonymous_server, tmp_path, monkeypatch
):
    (tmp_path / "data").write_text("[1, 2]")
    monkeypatch.setattr("sys.stdin", StringIO("null"))
    async with anonymous_server as server:
        (url,) = server.addresses
        for data in ("-", f"@{tmp_path / 'data'}"):
            code, _, _ = await beside(moorage, "publish", url, "--topic", "t", "--data", data)
            assert code == 0


async def test_publish_says_what_the_server_refused(moorage, anonymous_server):
    async with anonymous_server as server:
        (url,) = server.addresses
        code, out, err = await beside(moorage, "publish", url, "--topic", "a b")
    assert (code, out) == (1, "")
    assert "bad_topic" in err
