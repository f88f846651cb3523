"""Ports and the server itself; no browser."""

import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from sds3d.errors import BackendError, ConfigError
from systems.viewing import server
from systems.viewing.server import HOST, choose_port, close_server, is_free, open_server


@pytest.fixture
def busy() -> int:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_an_error_or_the_next_is_taken(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_free(busy)
    with pytest.raises(ConfigError, match=rf"--port {busy} is in use by another program\. Give another one, or none"):
        choose_port(busy)
    monkeypatch.setattr(server, "FIRST_PORT", busy)
    assert busy < choose_port(None) < busy + server.PORTS
    monkeypatch.setattr(server, "is_free", lambda port: False)
    with pytest.raises(ConfigError, match="All ports from"):
        choose_port(None)
    with pytest.raises(ConfigError, match="1024 to 65535"):
        choose_port(80)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["view", "FILE"], ["generate", "a red mug", "--tiny", "--view"]])
def test_a_port_in_use_is_told_before_anything_begins(verb: list[str], busy: int, tmp_path: Path) -> None:
    pytest.importorskip("viser")
    (tmp_path / "splats.ply").touch()
    words = [str(tmp_path / "splats.ply") if word == "FILE" else word for word in verb]
    program = Path(__file__).parents[3] / "launch.py"
    done = subprocess.run(
        [sys.executable, str(program), *words, "--port", str(busy)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"--port {busy} is in use by another program. Give another one" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "outputs").exists()


def test_without_viser_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "missing_viser", lambda: "viser is not installed: pip install 'sds3d[view]'")
    with pytest.raises(BackendError, match="cannot be shown: viser is not installed"):
        open_server(None, "x")


def test_this_machine_only_and_nothing_to_share(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viser")
    opened = open_server(None, "x")
    try:
        port = opened.get_port()
        assert opened.get_host() == HOST
        with urllib.request.urlopen(f"http://{HOST}:{port}", timeout=20) as page:
            html = page.read().decode()
        assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", html) == []  # no tracker, no foreign fonts
        assert opened.request_share_url() is None
    finally:
        close_server(opened)
    assert is_free(port) and capsys.readouterr().out == ""


def test_other_addresses_of_this_machine_do_not_answer() -> None:
    pytest.importorskip("viser")
    opened = open_server(None, "x")
    try:
        with socket.socket() as probe, pytest.raises(OSError):
            probe.settimeout(2)
            probe.connect(("127.0.0.2", opened.get_port()))
    finally:
        opened.stop()


def test_what_generate_checks_before_it_begins(monkeypatch: pytest.MonkeyPatch, busy: int) -> None:
    from systems.viewing import verb

    verb.check_view(False, None)
    with pytest.raises(ConfigError, match="--port 8080 is for the page of --view"):
        verb.check_view(False, 8080)
    monkeypatch.setattr(verb, "missing_viser", lambda: "")
    with pytest.raises(ConfigError, match="is in use"):
        verb.check_view(True, busy)
    monkeypatch.setattr(verb, "missing_viser", lambda: "viser is not installed")
    with pytest.raises(BackendError, match="viser is not installed"):
        verb.check_view(True, None)
