#!/usr/bin/env python3
"""Prints the lines of a run as they come, from the live feed; with the standard library alone.

    python3 follow.py URL RUN_ID [FROM_SEQ]      a key that reads in KAHN_KEY, where the server wants one

Each line is printed once and in order. When the connection is lost it comes back and goes on with the next line, so it misses
nothing and prints nothing twice. It ends with the run, or when its output closes.
"""

import base64
import http.client
import json
import os
import struct
import sys
import time
import urllib.parse


def receive(stream, count):
    data = stream.read(count)
    if len(data) < count:
        raise ConnectionError("the server ended the connection")
    return data


def send(sock, opcode, payload):
    """One frame; what a client sends is masked, and these messages are short."""
    length = struct.pack("!B", 0x80 | len(payload)) if len(payload) < 126 else struct.pack("!BH", 0xFE, len(payload))
    mask = os.urandom(4)
    sock.sendall(bytes([0x80 | opcode]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))


def messages(sock, stream):
    """The server's messages; pings are answered."""
    whole = b""
    while True:
        first, length = receive(stream, 2)
        if length == 126:
            (length,) = struct.unpack("!H", receive(stream, 2))
        elif length == 127:
            (length,) = struct.unpack("!Q", receive(stream, 8))
        payload = receive(stream, length)
        opcode = first & 0x0F
        if opcode == 8:
            raise ConnectionError(f"the server closed with {struct.unpack('!H', payload[:2])[0]}" if payload else "the server closed")
        if opcode == 9:
            send(sock, 10, payload)
        elif opcode in (0, 1):
            whole += payload
            if first & 0x80:
                yield json.loads(whole)
                whole = b""


def follow(address, run_id, position):
    """One connection: frames from `position` on, which is kept up to date."""
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.netloc, timeout=20)
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}
    if key := os.environ.get("KAHN_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    connection.request("GET", "/ws/live", headers=headers)
    # Kept from here on: the connection gives it away with its answer.
    sock = connection.sock
    answer = connection.getresponse()
    if answer.status != 101:
        said = answer.read(4096).decode("utf-8", "replace")
        if answer.status in (429, 502, 503, 504):
            raise ConnectionError(said)
        sys.exit(f"follow.py: {answer.status} {said}")
    send(sock, 1, json.dumps({"type": "subscribe", "run_id": run_id, **position}).encode())
    for frame in messages(sock, answer.fp):
        if frame["type"] == "event":
            line = frame["line"]
            print(line if line is not None else f"(a line of {frame['bytes']} bytes: read it from /api/runs/{run_id}/events)", flush=True)
            position.update(from_seq=frame["seq"] + 1, log_id=frame["log_id"])
            if line is not None and json.loads(line)["event"] in ("run_end", "agent_run_end"):
                return
        elif frame["type"] == "reset":
            print(f"follow.py: the log of {run_id} is another one now; it begins again", file=sys.stderr)
            position.update(from_seq=0, log_id=frame["log_id"])
        elif frame["type"] == "error":
            sys.exit(f"follow.py: {frame['code']}: {frame['detail']}")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    position = {"from_seq": int(sys.argv[3]) if len(sys.argv) == 4 else 0}
    while True:
        try:
            follow(urllib.parse.urlsplit(sys.argv[1]), sys.argv[2], position)
            return
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        except (OSError, http.client.HTTPException) as error:
            print(f"follow.py: {error}; again in a second", file=sys.stderr)
            time.sleep(1)


if __name__ == "__main__":
    main()
