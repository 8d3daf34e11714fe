"""A bucket of gs:// in this process: for etils through fsspec, for TensorStore over HTTP."""

import contextlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Objects that appear whole, and neither append nor rename."""

    protocol = ("gcs", "gs")
    store: dict = {}  # noqa: RUF012
    pseudo_dirs: list = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def _open(self, path, mode="rb", **kwargs):
        if "a" in mode or "+" in mode:
            raise NotImplementedError("objects do not append")
        return super()._open(path, mode=mode, **kwargs)

    def mv(self, path1, path2, **kwargs):
        raise NotImplementedError("objects have no rename")

    rename = mv


class _Api(http.server.BaseHTTPRequestHandler):
    """Of the JSON API what TensorStore asks for."""

    protocol_version = "HTTP/1.1"
    generations = itertools.count(1)
    of: dict = {}  # noqa: RUF012 - object -> generation

    def log_message(self, *args):
        pass

    def do_POST(self):
        _, query = self._parse()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name, before = query["name"], query.get("ifGenerationMatch")
        now = self._generation(name) if self.bucket.exists(f"bucket/{name}") else 0
        if before is not None and int(before) != now:
            return self._send(412)
        self.bucket.pipe_file(f"bucket/{name}", content)
        self.of[name] = next(self.generations)
        return self._send(200, self._about(name))

    def do_GET(self):
        name, query = self._parse()
        if not name:
            inside = sorted(path.removeprefix("/bucket/") for path in self.bucket.store)
            first, last = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            found = [n for n in inside if first <= n < last and n.startswith(query.get("prefix", ""))]
            return self._send(200, {"items": [self._about(name) for name in found]})
        if not self.bucket.isfile(f"bucket/{name}"):
            return self._send(404)
        content, headers = self.bucket.cat_file(f"bucket/{name}"), {}
        headers["x-goog-generation"] = str(self._generation(name))
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first = int(asked[1])
            last = min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], headers)
        return self._send(200, content, headers)

    def do_DELETE(self):
        name, _ = self._parse()
        if not self.bucket.isfile(f"bucket/{name}"):
            return self._send(404)
        self.bucket.rm_file(f"bucket/{name}")
        return self._send(204)

    def _parse(self):
        url = urllib.parse.urlsplit(self.path)
        name = urllib.parse.unquote(url.path.partition("/b/bucket/o")[2].removeprefix("/"))
        return name, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))

    def _generation(self, name):
        return self.of.setdefault(name, next(self.generations))

    def _about(self, name):
        size = self.bucket.size(f"bucket/{name}")
        return {
            "name": name,
            "bucket": "bucket",
            "size": str(size),
            "generation": str(self._generation(name)),
            "updated": "2026-01-01T00:00:00Z",
            "timeCreated": "2026-01-01T00:00:00Z",
        }

    def _send(self, code, body=b"", headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def mounted():
    """Makes gs://bucket that bucket; yields its file system."""
    with pytest.MonkeyPatch.context() as patch:
        Bucket.store.clear()
        fsspec.register_implementation("gcs", Bucket, clobber=True)
        backend.fsspec_backend._get_filesystem.cache_clear()
        _Api.bucket = Bucket()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
        yield _Api.bucket
        server.shutdown()
        backend.fsspec_backend._get_filesystem.cache_clear()
