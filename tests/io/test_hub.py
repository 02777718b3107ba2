"""Downloads from a Hub that runs here: the real client against a small server of its routes."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import small_network
from safetensors.torch import save_file

from pyro_vble.io.hub import HubFile, parse_hub_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/priors/cae_0.0250.safetensors"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("owner/repo/a.pth", HubFile("owner/repo", "a.pth")),
        ("hf://owner/repo/folder/a.safetensors", HubFile("owner/repo", "folder/a.safetensors")),
        ("owner/repo/a.pth@v1.0", HubFile("owner/repo", "a.pth", "v1.0")),
        (f"owner/repo/a.pth@{COMMIT}", HubFile("owner/repo", "a.pth", COMMIT)),
        ("mbt2018-mean/5", None),
        ("cae-bsd", None),
        ("a.pth", None),
        ("/home/me/a.pth", None),
    ],
)
def test_names(name, file):
    assert parse_hub_name(name) == file
    if file is not None:
        assert parse_hub_name(file.name) == file


@pytest.fixture
def hub(tmp_path):
    """The routes of the Hub that a download takes; returns a runner of code against it."""
    path = tmp_path / "weights.safetensors"
    save_file(small_network().state_dict(), path, metadata={"alpha": "0.025"})
    content = path.read_bytes()
    behaviour = {"sha256": hashlib.sha256(content).hexdigest(), "requests": 0}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            behaviour["requests"] += 1
            if self.path.startswith("/api/models/someone/priors"):
                body = {"id": "someone/priors", "sha": COMMIT, "siblings": [{"rfilename": "cae_0.0250.safetensors"}]}
                listing = [{"type": "file", "path": "cae_0.0250.safetensors", "size": len(content), "oid": "x"}]
                body = listing if "/tree/" in self.path else body
                return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            if self.path == f"/someone/priors/resolve/{COMMIT}/cae_0.0250.safetensors":
                return self.answer(
                    200, content, ETag=f'"{behaviour["sha256"]}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes"
                )
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound", Content_Type="application/json")

        do_HEAD = do_GET

        def do_POST(self):
            wanted = self.rfile.read(int(self.headers["Content-Length"])).decode()
            lfs = {"oid": behaviour["sha256"], "size": len(content), "pointerSize": 134}
            file = {"type": "file", "path": "cae_0.0250.safetensors", "size": len(content), "oid": "x", "lfs": lfs}
            found = [file] if "cae_0.0250.safetensors" in wanted else []
            self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(code, port=server.server_port):
        # The client reads its settings at import: a process of its own.
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1",
        }
        code = (
            "from pyro_vble.io.hub import download, parse_hub_name\n"
            f"try:\n    {code}\nexcept Exception as e:\n    print(type(e).__name__, e)"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    yield run, behaviour
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_download_is_pinned_checked_and_kept(hub):
    run, behaviour = hub
    assert (
        run(f"from pyro_vble import load_prior; p = load_prior({NAME!r}); print(p.name, p.alpha)")
        == f"{NAME}@{COMMIT} 0.025"
    )
    before = behaviour["requests"]
    # Pinned and in the cache: no network, even if there is none.
    pinned = f"download(parse_hub_name('{NAME}@{COMMIT}')"
    assert run(f"print({pinned})[1].revision)", port=9) == COMMIT
    assert run(f"print({pinned}, sha256={behaviour['sha256']!r})[1].revision)") == COMMIT
    assert behaviour["requests"] == before
    # A checksum of the user's that is wrong says nothing against the file, which stays.
    assert "correct sha256" in run(f"{pinned}, sha256='{'0' * 64}')")
    assert run(f"print({pinned})[1].revision)", port=9) == COMMIT


def test_a_wrong_checksum_is_noticed(hub):
    run, behaviour = hub
    behaviour["sha256"] = "f" * 64
    answer = run(f"download(parse_hub_name({NAME!r}))")
    assert answer.startswith("ValueError")
    assert "f" * 64 in answer
    # It has left the cache: asked for by its commit, it is not taken from there.
    assert run(f"download(parse_hub_name('{NAME}@{COMMIT}'))", port=9).startswith("ConnectionError")


def test_what_is_not_there(hub):
    run, _ = hub
    answer = run("download(parse_hub_name('someone/priors/other.pth'))")
    assert "ValueError someone/priors has no file 'other.pth'" in answer
    assert "it has cae_0.0250.safetensors" in answer
    answer = run("download(parse_hub_name('nobody/nothing/a.pth'))")
    assert answer.startswith("ValueError nobody/nothing/a.pth must be a local file, or one of a repository")


def test_offline(hub):
    run, _ = hub
    answer = run(f"download(parse_hub_name({NAME!r}))", port=9)
    assert answer.startswith("ConnectionError")
    assert "and pass its path" in answer
