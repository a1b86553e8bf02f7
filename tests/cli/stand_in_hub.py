"""A stand-in for the Hugging Face Hub on this machine: a repository, of a dataset or a model, for huggingface_hub's client."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "me/data"
_OID = "0" * 39 + "1"


@contextmanager
def stand_in_hub(files: dict[str, bytes], kind: str = "datasets", sent: dict[str, int] | None = None):
    """Serves `files` (path in the repository -> content), which commits change; gives the endpoint's URL. `kind`: datasets or
    models; `sent`: the bytes of each file that were sent are added to it."""
    path = f"/{'' if kind == 'models' else f'{kind}/'}{REPOSITORY}/resolve/"
    attributes = {"files": files, "api": f"/api/{kind}/{REPOSITORY}", "resolve": path, "sent": {} if sent is None else sent}
    handler = type("Handler", (_Handler,), attributes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    sent: dict[str, int]
    api: str
    resolve: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Nothing."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(self.resolve):
            return self._send_file(path.split("/resolve/", 1)[1].partition("/")[2])
        if path.startswith(f"{self.api}/tree/"):
            recursive = "recursive=True" in urlsplit(self.path).query
            entries = self._tree(path.split("/tree/", 1)[1].partition("/")[2], recursive)
            return self._send_json({"error": "not found"}, 404) if entries is None else self._send_json(entries)
        if path == self.api or path.startswith(f"{self.api}/revision/"):
            return self._send_json(
                {"id": REPOSITORY, "sha": _OID, "private": False, "siblings": [{"rfilename": name} for name in self.files]}
            )
        return self._send_json({"error": "not found"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers["Content-Length"]))
        if path.startswith(f"{self.api}/paths-info/"):
            is_json = self.headers["Content-Type"].startswith("application/json")
            paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
            return self._send_json([entry for entry in self._tree("") if entry["path"] in paths])
        if path.startswith(f"{self.api}/preupload/"):
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self._send_json({"files": modes})
        if path.startswith(f"{self.api}/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._send_json(
                {
                    "success": True,
                    "commitOid": _OID,
                    "commitUrl": f"http://{self.headers['Host']}/datasets/{REPOSITORY}/commit/{_OID}",
                }
            )
        return self._send_json({"error": "not found"}, 404)

    def _tree(self, under, recursive=True):
        """Files and folders below a folder; None where there is none of this name."""
        head = f"{under}/" if under else ""
        names = [name for name in self.files if name.startswith(head)]
        folders = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/" and at >= len(head)}
        entries = [{"type": "directory", "path": name, "oid": _OID, "size": 0} for name in sorted(folders)]
        for name in names:
            content = self.files[name]
            entries.append({"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)})
        return [entry for entry in entries if recursive or "/" not in entry["path"][len(head) :]] if names else None

    def _send_file(self, name):
        if name not in self.files:
            return self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        content = self.files[name]
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        if self.command != "HEAD":
            self.sent[name] = self.sent.get(name, 0) + len(part)
        self._send(
            part,
            206 if "Range" in self.headers else 200,
            {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": _OID},
        )

    def _send_json(self, value, status=200):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
