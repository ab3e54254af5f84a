"""What reading a streamed answer costs the client that measures it: this package's own HTTP client against httpx.

    python benchmarks/load_client_cost.py [--streams 16] [--events 200] [--rounds 5]

A process of its own streams answers, one event a token. Both clients read the same answers with the same event parser;
printed is the client's CPU time per event, medians over rounds that alternate. Needs httpx.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import httpx

from flyweight.bench.load.answers import AnswerReader
from flyweight.bench.load.asks import Ask, BodyWriter
from flyweight.bench.load.client import AnswerClient
from flyweight.bench.load.http_client import Address, HttpClient
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.sse import SseParser
from flyweight.machine import Machine

ASK = Ask(prompt="hello", output_tokens=8)
WRITER = BodyWriter(model="m", endpoint="completions", temperature=0.0, ignore_eos=True, extra={})


def serve(events: int, pipe: Connection) -> None:
    """Answer every request with so many events, 1 ms apart so that they are not read together."""
    choice = {"index": 0, "text": " word", "finish_reason": None, "logprobs": None}
    data = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    event = b"data: " + json.dumps(data).encode() + b"\n\n"
    chunk = b"%x\r\n%s\r\n" % (len(event), event)
    end = b"data: [DONE]\n\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for _ in range(events):
                    writer.write(chunk)
                    await asyncio.sleep(0.001)
                writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def own(url: str, streams: int) -> int:
    http = HttpClient(Address.parse(url))
    client = AnswerClient(http, WRITER, timeout=60)
    records = [RequestRecord(number=place, scheduled=0.0) for place in range(streams)]
    await asyncio.gather(*(client.answer(client.encode(ASK), record) for record in records))
    http.close()
    return sum(len(record.event_times) for record in records)


async def by_httpx(url: str, streams: int) -> int:
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as http:

        async def one(record: RequestRecord) -> None:
            reader, parser = AnswerReader(record), SseParser()
            async with http.stream("POST", url + "/v1/completions", content=WRITER.body(ASK)) as response:
                async for piece in response.aiter_bytes():
                    now = time.perf_counter()
                    for data in parser.feed(piece):
                        reader.read(now, data)
            reader.finish(None)

        records = [RequestRecord(number=place, scheduled=0.0) for place in range(streams)]
        await asyncio.gather(*(one(record) for record in records))
    return sum(len(record.event_times) for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(arguments.events, theirs), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    print(Machine.detect().describe())
    print(f"{arguments.streams} streams of {arguments.events} events, httpx {httpx.__version__}")
    spent: dict[str, list[float]] = {"own client": [], "httpx": []}
    for number in range(arguments.rounds + 1):
        for name, read in (("own client", own), ("httpx", by_httpx)):
            began = time.process_time()
            events = asyncio.run(read(url, arguments.streams))
            if number:  # the first round warms both up
                spent[name].append((time.process_time() - began) / events)
    process.terminate()
    for name, values in spent.items():
        low, high = min(values) * 1e6, max(values) * 1e6
        print(f"{name:10} {statistics.median(values) * 1e6:6.1f} us of CPU per event [{low:.1f}, {high:.1f}]")


if __name__ == "__main__":
    main()
