"""Writes header blocks and what PyPI's hpack makes of them, for proxy/tests/hpack.rs: `hpack_cases.py > ../../proxy/tests/hpack_cases.txt`.
Others come with `hpack_cases.py SEED CONNECTIONS`.

A line is `connection LIMIT`, `block HEX`, `field NAME VALUE` in hex, or `refused`; after that the connection is over. Half of the
connections have a block in which some octets were changed.
"""

import random
import sys

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

SEED, CONNECTIONS = 7541, 90
NAMES = [":authority", ":path", ":status", "cookie", "content-type", "date", "x-a", "x-request-id", "set-cookie", "x-" + "n" * 30]
VALUES = ["", "a", "GET", "/index.html", "text/html; charset=utf-8", "no-cache", "v" * 70, "\x00\x7f\xff", "1234567890"]


def fields(dice):
    value = lambda: "".join(chr(dice.randrange(256)) for _ in range(dice.randrange(40)))
    for _ in range(dice.randrange(1, 8)):
        text = dice.choice(VALUES) if dice.random() < 0.7 else value()
        yield dice.choice(NAMES).encode(), text.encode("latin-1"), dice.random() < 0.1


def changed(dice, block):
    block = bytearray(block)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(block))
        match dice.randrange(3):
            case 0:
                block[at] = dice.randrange(256)
            case 1:
                block.insert(at, dice.randrange(256))
            case _ if len(block) > 1:
                del block[at]
    return bytes(block)


def main():
    seed, connections = map(int, sys.argv[1:]) if sys.argv[1:] else (SEED, CONNECTIONS)
    dice = random.Random(seed)
    for _ in range(connections):
        limit = dice.choice([0, 50, 200, 4096])
        encoder, decoder = Encoder(), Decoder(max_header_list_size=1 << 24)
        encoder.header_table_size = limit
        decoder.max_allowed_table_size = limit
        print("connection", limit)
        broken = dice.randrange(4) if dice.random() < 0.5 else None
        for number in range(4):
            if dice.random() < 0.2:
                encoder.header_table_size = dice.randrange(limit + 1)
            block = encoder.encode(list(fields(dice)), huffman=dice.random() < 0.7)
            if number == broken:
                block = changed(dice, block)
            print("block", block.hex())
            try:
                for field in decoder.decode(block, raw=True):
                    print("field", field[0].hex(), field[1].hex())
            except HPACKError:
                print("refused")
                break
            if number == broken:
                break


if __name__ == "__main__":
    sys.exit(main())
