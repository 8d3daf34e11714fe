"""A hub on this machine: as much of it as a push and a download need."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading

COMMIT = "a1" * 20


@contextlib.contextmanager
def serve(repository="me/model"):
    """Gives a server whose `store` holds what was pushed, `asked` the calls it answered."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repository = repository
    server.store, server.asked = {"files": {}, "lfs": {}}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()


def environment(server, home):
    """The variables by which huggingface_hub asks this server, and keeps its files in `home`."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers huggingface_hub; large files go the LFS way."""

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        store, base = self.server.store, f"http://{self.headers['Host']}"
        self.server.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self.answer({"error": "who are you?"}, 401)
        if self.path == "/api/repos/create":
            store["created"] = json.loads(body)
            return self.answer({"url": f"{base}/me/model", "name": "me/model"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            return self.answer(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": modes[f["path"].endswith(".safetensors")],
                            "shouldIgnore": False,
                        }
                        for f in files
                    ]
                }
            )
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                o | {"actions": {"upload": {"href": f"{base}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        assert "/commit/main" in self.path, self.path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                store["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                store["files"][value["path"]] = store["lfs"][value["oid"]]
        return self.answer({"commitUrl": f"{base}/me/model/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.store["lfs"][oid] = data
        self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        files = self.server.store["files"]
        name = self.path.rsplit("/", 1)[1]
        if not self.path.startswith(f"/{self.server.repository}/resolve/"):
            return self.answer({"error": "not here"}, 404, {"X-Error-Code": "RepoNotFound"})
        if name not in files:
            return self.answer({"error": "not here"}, 404, {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self.answer(files[name], 200, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def answer(self, content, code=200, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
