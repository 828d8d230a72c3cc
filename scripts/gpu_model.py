#!/usr/bin/env python3
"""Writes the first layers of a GGUF model as a model of its own, for a machine to which only little can be carried.

    scripts/gpu_model.py MODEL LAYERS TARGET

What it answers means nothing, but its weights are packed as the whole model's are, and its vocabulary is the whole one.
"""

import re
import struct
import sys

ALIGNMENT = 32
# Bytes of GGUF's numbers by type; strings and arrays have lengths of their own.
NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def numbers(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def text(self):
        (length,) = self.numbers("Q")
        self.at += length
        return self.data[self.at - length:self.at].decode(errors="replace")

    def skip(self, kind):
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            element, count = self.numbers("IQ")
            for _ in range(count):
                self.skip(element)
        else:
            self.at += NUMBER_BYTES[kind]


def cut(data, layers):
    """The file's parts."""
    reader = Reader(data)
    magic, version, num_tensors, num_fields = reader.numbers("IIQQ")
    fields_begin = reader.at
    for _ in range(num_fields):
        name = reader.text()
        (kind,) = reader.numbers("I")
        if name.endswith(".block_count"):
            struct.pack_into("<I", data, reader.at, layers)
        reader.skip(kind)
    fields = data[fields_begin:reader.at]
    tensors = []
    for _ in range(num_tensors):
        name = reader.text()
        (num_dims,) = reader.numbers("I")
        tensors.append((name, reader.numbers("Q" * num_dims), *reader.numbers("IQ")))
    data_begin = -(-reader.at // ALIGNMENT) * ALIGNMENT
    # Each ends where the next one in the file begins.
    begins = sorted(offset for *_, offset in tensors) + [len(data) - data_begin]
    infos, bodies, end = b"", [], 0
    for name, dims, kind, offset in tensors:
        block = re.match(r"blk\.(\d+)\.", name)
        if block and int(block[1]) >= layers:
            continue
        body = data[data_begin + offset:data_begin + begins[begins.index(offset) + 1]]
        body += bytes(-len(body) % ALIGNMENT)
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, end)
        bodies.append(body)
        end += len(body)
    header = struct.pack("<IIQQ", magic, version, len(bodies), num_fields) + fields + infos
    return [header + bytes(-len(header) % ALIGNMENT), *bodies]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        data = bytearray(file.read())
    with open(sys.argv[3], "wb") as file:
        file.writelines(cut(data, int(sys.argv[2])))


if __name__ == "__main__":
    main()
