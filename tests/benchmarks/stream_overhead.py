"""Client CPU per token of a stream, beside the same tokens parsed out of one finished body.

A stub server in a process of its own writes canned events as fast as they are taken. CPU is that of this process, all
threads, less that of an idle client. Exits with 1 where a token costs more than 200 us on either transport.

    python tests/benchmarks/stream_overhead.py [TOKENS]
"""

import multiprocessing
import socket
import sys
import time
from typing import Any

import tinker_actors as ta
from tinker_actors.api.sampling import StreamReader
from tinker_actors.wire.sse import ServerSentEvents

LIMIT_US = 200.0
ANSWERS = {
    "create_session": b'{"session_id": "s"}',
    "create_sampling_session": b'{"sampling_session_id": "s:sample:0"}',
}


def event(number: int) -> bytes:
    """One token."""
    return (
        b'event: token\ndata: {"token":"abc","token_id":%d,"index":%d,"logprob":-1.2345678,"sequence":0}\n\n'
        % (number, number)
    )


END = b'event: done\ndata: {"finish_reason":"length","total_tokens":1}\n\n'


def serve(listener: socket.socket, tokens: int) -> None:
    """Answer each connection on a thread."""
    import threading

    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=talk, args=(connection, tokens), daemon=True).start()


def talk(connection: socket.socket, tokens: int) -> None:
    """HTTP, as far as the client asks for it here."""
    reader = connection.makefile("rb")
    while line := reader.readline():
        path = line.split()[1].decode().rpartition("/api/v1/")[2]
        length = 0
        while (header := reader.readline()) != b"\r\n":
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        reader.read(length)
        if path == "stream_sample":
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for part in [*map(event, range(tokens)), END]:
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            connection.sendall(b"0\r\n\r\n")
            continue
        status, body = (200, ANSWERS[path]) if path in ANSWERS else (404, b"{}")
        if path.startswith("samplers/"):
            status, body = 404, b"{}"
        connection.sendall(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))


def parsing_us(tokens: int) -> float:
    """CPU per token of the parser alone, over one finished body."""
    body = b"".join(map(event, range(tokens)))
    began, reader, events = time.process_time(), StreamReader(1), ServerSentEvents(2**30)
    count = sum(len(reader.read(one)) for one in events.feed(body))
    return (time.process_time() - began) / count * 1e6


def streamed_us(url: str, transport: str, tokens: int) -> float:
    """CPU per token of a stream, sync."""
    with ta.ServiceClient(base_url=url, api_key="tml-x", transport=transport) as service:
        sampler = service.create_sampling_client(base_model="a/b").result(60)
        prompt: Any = ta.ModelInput.from_ints([1, 2, 3])
        list(sampler.sample_stream(prompt, ta.SamplingParams(max_tokens=8)))
        began = time.process_time()
        count = sum(not one.is_done for one in sampler.sample_stream(prompt, ta.SamplingParams(max_tokens=8)))
        assert count == tokens
        return (time.process_time() - began) / count * 1e6


def main() -> int:
    """Measure both transports."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listener, tokens), daemon=True)
    server.start()
    try:
        parsing = parsing_us(tokens)
        costs = {transport: streamed_us(url, transport, tokens) for transport in ("fast", "httpx")}
    finally:
        server.kill()
    for transport, cost in costs.items():
        print(f"{transport}: {cost:.0f} us of CPU per token, {cost / parsing:.1f}x the parser alone")
    return int(max(costs.values()) > LIMIT_US)


if __name__ == "__main__":
    sys.exit(main())
