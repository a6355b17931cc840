"""A whole result in a store, made without any step."""

from pathlib import Path

from core.storage import files
from pipelines.store import results

KEY = "ab" * 32
IDENTITY = {"format": 1, "run": "make", "request": {"number": 1}, "parts": {}, "inputs": {}}


def made(root: Path) -> Path:
    folder = results.folder_of(root, "a", KEY)
    results.begin(folder, KEY, IDENTITY, "a")
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "values.bin").write_bytes(bytes(range(64)))
    (folder / "empty.txt").write_text("")
    (folder / "events.jsonl").write_text("{}\n")
    files.write_json(folder / "result.json", {"made": "deep"})
    files.write_json(folder / "env.json", {})
    results.commit(folder, KEY)
    return folder
