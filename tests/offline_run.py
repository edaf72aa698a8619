"""Reads back what W&B wrote offline: a LevelDB-style log (blocks of 32 KiB, CRC-checked fragments) of protobuf records."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK, HEADER, PREAMBLE = 32768, struct.Struct("<IHB"), 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """One process's part of a run."""

    folder: Path
    identity: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    metrics: list = field(default_factory=list)
    artifacts: list[tuple[str, str, list[str]]] = field(default_factory=list)
    exit_code: int | None = None


def payloads(raw: bytes) -> Iterator[bytes]:
    """The log's records, put together from their fragments."""
    assert raw[:4] in (b":W&B", b""), "no W&B log"
    position, record = PREAMBLE, b""
    while position + HEADER.size <= len(raw):
        room = BLOCK - position % BLOCK
        if room < HEADER.size:
            position += room
            continue
        checksum, length, kind = HEADER.unpack_from(raw, position)
        data = raw[position + HEADER.size : position + HEADER.size + length]
        if kind == 0 or len(data) < length:
            return
        assert checksum in checksums(kind, data), f"damaged at byte {position}"
        position += HEADER.size + length
        record = data if kind in (FULL, FIRST) else record + data
        if kind in (FULL, LAST):
            yield record


def checksums(kind: int, data: bytes) -> tuple[int, int]:
    """CRC-32 of kind and data, plain and masked as LevelDB does."""
    plain = zlib.crc32(bytes([kind]) + data)
    rotated = (plain >> 15 | plain << 17) & 0xFFFFFFFF
    return plain, (rotated + 0xA282EAD8) & 0xFFFFFFFF


def items(pairs) -> dict:
    """Names and JSON values; what is nested (images, tables) comes as one entry per leaf, joined by dots."""
    return {pair.key or ".".join(pair.nested_key): json.loads(pair.value_json) for pair in pairs}


def read_offline(folder: Path, patience: float = 20) -> OfflineRun:
    """The run in an offline-run-* folder, once it is closed: W&B's own process writes on for a moment after finish()."""
    run, end = _read(folder), time.monotonic() + patience
    while run.exit_code is None and time.monotonic() < end:
        time.sleep(0.05)
        run = _read(folder)
    return run


def _read(folder: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    (log,) = Path(folder).glob("*.wandb")
    run = OfflineRun(Path(folder))
    for payload in payloads(log.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            _artifact(run, record.request.log_artifact.artifact)
        elif kind in READERS:
            READERS[kind](run, getattr(record, kind))
    return run


def _run(run, r):
    run.identity, run.name, run.group, run.job_type = r.run_id, r.display_name, r.run_group, r.job_type
    run.tags = list(r.tags)
    run.config |= items(r.config.update)


def _artifact(run, a):
    run.artifacts.append((a.type, a.name, sorted(entry.path for entry in a.manifest.contents)))


READERS = {
    "run": _run,
    "config": lambda run, r: run.config.update(items(r.update)),
    "summary": lambda run, r: run.summary.update(items(r.update)),
    "history": lambda run, r: run.history.append(items(r.item)),
    "metric": lambda run, r: run.metrics.append(r),
    "artifact": _artifact,
    "exit": lambda run, r: setattr(run, "exit_code", r.exit_code),
}


def part(row: dict, name: str) -> dict:
    """The leaves of one nested entry of a row."""
    return {key.removeprefix(f"{name}."): value for key, value in row.items() if key.startswith(f"{name}.")}
