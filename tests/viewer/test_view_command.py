import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytest.importorskip("dash")

from digipath.cli import main, view
from digipath.viewer import server
from digipath.viewer.desk import Desk
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Shelf


class Ended:
    """A server that is ended as soon as it is waited for."""

    url = "http://127.0.0.1:1/"

    def wait(self):
        raise KeyboardInterrupt

    def stop(self):
        self.url = "stopped"


@pytest.fixture
def served(monkeypatch):
    """What was served, and how: filled by `digipath view`, which then ends."""
    asked = {}

    def serve(desk, **options):
        asked.update(options, desk=desk, running=Ended())
        return asked["running"]

    monkeypatch.setattr(server, "serve", serve)
    return asked


def test_it_serves_until_it_is_interrupted(tmp_path):
    program = (  # whoever runs the tests in the background has them ignore Ctrl-C
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from digipath.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "view", str(tmp_path), "--port", "0", "--no-browser", "--token"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            first, _, found = (process.stdout.readline() for _ in range(3))
            url = re.search(r"http://\S+", first)[0]
            assert "?token=" in url
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200 and "HttpOnly" in answer.headers["Set-Cookie"]
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(url.partition("?")[0], timeout=30)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                out, err = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()  # or leaving the block would wait for ever
                raise
    assert process.returncode == 0 and out == "The viewer has ended.\n"
    assert found == "0 slides and 0 results are there.\n"
    assert "Traceback" not in err and url.partition("token=")[2] not in out + err  # it was printed once


def test_without_the_extra_there_is_one_line_that_says_so(monkeypatch, capsys):
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda name: None if name.startswith("dash") else name)
    assert main(["view"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith('dash, dash_leaflet, which are not installed: pip install "digipath[viewer]".')


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["view", str(tmp_path), "--port", str(port), "--no-browser"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"port {port}, cannot be listened at" in line and "--port" in line


def test_what_is_not_there_is_told(tmp_path, capsys):
    assert main(["view", str(tmp_path / "absent")]) == 1
    assert "there is no" in capsys.readouterr().err


def test_the_current_folder_is_shown_to_this_machine_alone(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view"]) == 0
    desk = served["desk"]
    assert desk.shelf.allows(tmp_path / "x") and not desk.shelf.allows(tmp_path.parent)
    assert served["host"] == "127.0.0.1" and served["token"] is None and served["open_browser"]
    assert desk.shelf.out == tmp_path / "results" and desk.jobs.out == tmp_path / "results"
    assert not desk.blind and desk.reviewer == "" and served["running"].url == "stopped"


def test_beyond_this_machine_there_is_a_token_each_time_another(served, tmp_path, capsys):
    tokens = set()
    for _ in range(2):
        main(["view", str(tmp_path), "--host", "0.0.0.0"])
        tokens.add(served["token"])
    assert len(tokens) == 2 and min(map(len, tokens)) >= 32
    assert "not encrypted" in capsys.readouterr().out


def test_the_options_reach_the_desk(served, tmp_path):
    options = ["--reviewer", "A. Reader", "--blind", "--out", str(tmp_path / "new"), "--no-browser", "--mpp", "0.5"]
    main(["view", str(tmp_path), *options])
    desk = served["desk"]
    assert (desk.reviewer, desk.blind, desk.shelf.out) == ("A. Reader", True, tmp_path / "new")
    assert not served["open_browser"]
    main(["view", str(tmp_path), "--no-segment"])
    assert served["desk"].jobs is None and served["desk"].shelf.out is None


def test_new_results_lie_beside_the_first_source(served, tmp_path):
    (tmp_path / "made" / "a").mkdir(parents=True)
    (tmp_path / "made" / "a" / "result.json").write_text("{}")
    (tmp_path / "slide.tif").write_bytes(b"")
    for source, out in (("slide.tif", "results"), ("made/a", "made/results"), ("made", "made/results")):
        main(["view", str(tmp_path / source)])
        assert served["desk"].shelf.out == tmp_path / out


def test_links_that_are_not_followed_are_told(served, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to("/")
    main(["view", str(tmp_path / "in")])
    assert "1 links lead out of what was given" in capsys.readouterr().out and served


def test_a_blind_viewer_has_a_reviewer(library, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["view", str(library), "--blind"])
    assert stopped.value.code == 2 and "--reviewer" in capsys.readouterr().err


def test_whoever_presses_ctrl_c_again_does_not_wait_for_what_is_in_work(monkeypatch, capsys):
    class Busy:
        def close(self):
            raise KeyboardInterrupt

    ends = []
    monkeypatch.setattr(view.os, "_exit", ends.append)
    view._close(Desk(shelf=Shelf([]), opened=Opened(), jobs=Busy()), None)
    assert ends == [130] and "what is finished is kept" in capsys.readouterr().out
