"""Answer over HTTP with an adapter: `python examples/serve_an_adapter.py [ADAPTER]`, or with `--port 8000` for good.

Standard library only; an edited model may be asked from many threads. Adapters that were logged to MLflow are served
by MLflow as well: `mlflow models serve -m models:/NAME@champion --env-manager local`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import elder


def main() -> None:
    """Serve an adapter, or one that is made first; without a port, ask it two questions and end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", nargs="?", help="adapter directory, from Editor.save or elder pull")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    edited = load(given.adapter)
    print(f"serving {edited}")
    server = ThreadingHTTPServer(("127.0.0.1", given.port), handler(edited))
    address = f"http://127.0.0.1:{server.server_port}"
    if given.port:
        print(f'try: curl -d \'{{"prompt": "..."}}\' {address}')
        server.serve_forever()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    edit = elder.load_edits("world:tiny", limit=1)[0]
    for prompt in (edit.prompt, edit.locality[0].prompt):
        print(f"POST {json.dumps({'prompt': prompt})}\n  -> {json.dumps(post(address, {'prompt': prompt}))}")
    server.shutdown()
    server.server_close()


def load(adapter: str | None) -> Any:
    """An adapter on the base model that it names; without one, a fresh adapter with five facts."""
    home = os.environ.get("ELDER_HOME")
    if adapter:
        return elder.load_edited(adapter, device="cpu", cache_dir=home)
    base = elder.load_base("world:tiny", device="cpu", cache_dir=home)
    editor = elder.make_editor("elder-plus", base, terminator="sentence")
    editor.edit(elder.load_edits("world:tiny", limit=5))
    with tempfile.TemporaryDirectory() as directory:
        editor.save(directory)
        return elder.load_edited(directory, base=base)


def handler(edited: Any) -> type[BaseHTTPRequestHandler]:
    """What answers a request: a prompt in, the answer and the edit that gave it out."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
                answer = edited.ask(prompt, max_new_tokens=16)
            except (ValueError, TypeError, KeyError) as error:
                return self.say(400, {"error": f"expected a JSON object with a prompt: {error}"})
            self.say(200, {"text": answer.text, "edit": answer.edit, "score": answer.score})

        def say(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    return Handler


def post(address: str, content: dict[str, Any]) -> Any:
    """The answer to one request."""
    with urllib.request.urlopen(address, json.dumps(content).encode(), timeout=60) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
