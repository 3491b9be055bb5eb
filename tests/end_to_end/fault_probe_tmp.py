import asyncio, json, os, struct
from pathlib import Path
import pytest
from protocol.header import Format, Header, Kind, pack
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream, png
from tests.end_to_end.raw import RawSocket, TEXT, BINARY
from tests.end_to_end.fault_loop import watching_callbacks, elsewhere


def frame(op, payload):
    size = len(payload)
    head = bytes([0x80 | op])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + b"\0\0\0\0" + payload


def jf(**m):
    return frame(1, json.dumps(m).encode())


def chunk(i, data, off, total, last):
    return frame(
        2, pack(Header(kind=16, format=2, job_id=i, total_size=total, chunk_offset=off, flags=int(last))) + data
    )


BIG = png(64, 64, (1, 2, 3), padding=16 * 1024 * 1024 - 400)


def upload(i, data, size=262144 - 64):
    out = []
    for o in range(0, len(data), size):
        part = data[o : o + size]
        out.append(chunk(i, part, o, len(data), o + len(part) == len(data)))
    return b"".join(out)


U = "01JD9Z6PZZ0000000000000001"
deep = b'{"type":"submit","ref":"d","task":"txt2img","params":{"prompt":' + b"[" * 10000 + b"]" * 10000 + b"}}"
deep2 = b'{"type":"x","a":' + b'{"a":' * 10000 + b"1" + b"}" * 10000 + b"}"
keys = b'{"type":"ping",' + b",".join(b'"%c":1' % (97 + i % 26) for i in range(10000)) + b"}"
badkeys = (
    b'{"type":"submit","ref":"k","task":"txt2img","params":{'
    + b",".join(b'"%c":1' % (97 + i % 26) for i in range(5000))
    + b"}}"
)
have = [{"job": "01JD9Z6Q8M4T7V2XK3B5N0RC%02d" % i, "seq": 1} for i in range(100)] + [
    {"job": "01JD9Z6Q8M4T7V2XK3B5N0R%03d" % i, "seq": 1} for i in range(156)
]
CASES = {
    "deep": frame(1, deep),
    "deep2": frame(1, deep2),
    "keys": frame(1, keys),
    "badkeys": frame(1, badkeys),
    "acks": jf(type="ack", bytes=1) * 9000,
    "pings": (b"\x89\x80\0\0\0\0") * 44000,
    "pongs": (b"\x8a\x80\0\0\0\0") * 44000,
    "badchunks": chunk(U, b"", 5, 9, False) * 2500,
    "tinychunks": b"".join(chunk(U, b"x", o, 200000, False) for o in range(2500)),
    "conts": b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 44000,
    "upload": upload(U, BIG),
    "uploads4": b"".join(upload("01JD9Z6PZZ000000000000000%d" % i, BIG) for i in range(4)),
    "prompt": jf(type="submit", ref="p", task="txt2img", params={"prompt": "é" * 8000}),
    "longname": jf(type="submit", ref="p2", task="txt2img", params={"a" * 20000: 1}),
    "submits": b"".join(
        jf(type="submit", ref="s%d" % i, task="txt2img", params={"prompt": "x" * 7900, "steps": 1}) for i in range(60)
    ),
    "badsubmits": b"".join(
        jf(type="submit", ref="s%d" % i, task="txt2img", params={"prompt": "x" * 100, "steps": "x"}) for i in range(90)
    ),
    "bigint": frame(
        1, b'{"type":"submit","ref":"b","task":"txt2img","params":{"prompt":"x","seed":' + b"9" * 30000 + b"}}"
    ),
    "bigint2": frame(1, b'{"type":"ping","t":' + b"9" * 60000 + b"}"),
    "bigfloat": frame(
        1, b'{"type":"submit","ref":"b","task":"txt2img","params":{"prompt":"x","guidance":1.' + b"9" * 30000 + b"}}"
    ),
    "unknowns": jf(type="zzz") * 90,
}


@pytest.mark.parametrize("name", CASES)
async def test_probe(tmp_path, name):
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__max_connections=500) as running:

        async def story():
            one = await RawSocket.open(running.url)
            await one.hello(
                running.key,
                have=[],
            )
            one.writer.write(CASES[name])
            out = []
            try:
                async with asyncio.timeout(15):
                    one.send({"type": "ping", "t": 77, "ref": "end"})
                    while True:
                        m = await one.message()
                        out.append(m)
                        if m["type"] == "pong" and m["t"] == 77:
                            break
            except Exception as e:
                out.append(repr(e))
            one.cut()
            return (
                [json.dumps(o)[:200] for o in out[:3]],
                [json.dumps(o)[:100] for o in out[-1:]],
                max(len(json.dumps(o)) for o in out),
                one.close_code,
            )

        with watching_callbacks(0.02) as w:
            res = await elsewhere(story())
            await asyncio.sleep(0.05)
        print("\nRES", name, round(w.seconds, 3), [(a, b[:150]) for a, b in w.slow[:4]], *res)


async def test_hello(tmp_path):
    async with gateway_here(tmp_path, upstreams=[PaperUpstream()], limits__max_connections=500) as running:

        async def story():
            one = await RawSocket.open(running.url)
            s = await one.hello(running.key)
            one.cut()
            one = await RawSocket.open(running.url)
            return await one.hello(running.key, have=have, resume=s["resume"])

        with watching_callbacks(0.02) as w:
            res = await elsewhere(story())
        print("RES hello", w, res)
