# SPDX-License-Identifier: Apache-2.0
"""Both ends of a migration without a QEMU: a stream made by hand, and a listener that takes a state as QEMU would."""
import os, random, socket, struct

PAGE = 4096


def be(size, value):
    return value.to_bytes(size, "big")


def name(text):
    return bytes([len(text)]) + text.encode()


FOOTER = b"\x7e" + be(4, 2)
EOS = be(8, 0x10) + FOOTER
DESCRIPTION = b'{"page_size": 4096, "devices": []}'
TAIL = b"\x04" + be(4, 9) + b"the devices' own bytes" + b"\0\x06" + be(4, len(DESCRIPTION)) + DESCRIPTION


class Stream:
    """A guest of `pages` pages: every third is zero, the last `hot` are sent again in a second pass."""

    def __init__(self, pages=600, hot=40, seed=1):
        r = random.Random(seed)
        self.memory = [b"" if i % 3 == 2 else r.randbytes(PAGE) for i in range(pages)]
        first = self.part("ram", enumerate(self.memory))
        screen = self.part("vga", enumerate([b"\1" * PAGE, b""]))
        for i in range(pages - hot, pages):
            self.memory[i] = r.randbytes(PAGE)
        second = self.part("ram", [(i, self.memory[i]) for i in range(pages - hot, pages)])
        self.order_hot = [i for i in range(pages - hot, pages)]
        head = b"QEVM" + be(4, 3) + b"\x07" + be(4, 10) + b"pc-q35-7.2"
        start = (b"\x01" + be(4, 2) + name("ram") + be(4, 0) + be(4, 4) + be(8, (pages + 2) * PAGE | 4)
                 + name("ram") + be(8, pages * PAGE) + name("vga") + be(8, 2 * PAGE) + EOS)
        self.bytes = head + start + first + screen + second + b"\x03" + be(4, 2) + EOS + TAIL

    @staticmethod
    def part(block, pages):
        out = [b"\x02" + be(4, 2)]
        for n, (i, page) in enumerate(pages):
            out.append(be(8, i * PAGE | (8 if page else 2) | (0x20 if n else 0)))
            out.append((b"" if n else name(block)) + (page or b"\0"))
        return b"".join(out) + EOS


class Closed(Exception):
    pass


class Target:
    """Takes what watari-stream load sends. Each page that comes is kept; a second copy is an error, as in QEMU."""

    def __init__(self, sock):
        self.sock, self.buffer, self.at = sock, b"", 0
        self.pages, self.order, self.small = {}, [], {}
        self.commands, self.package, self.blocks, self.block = [], None, {}, None
        self.listening = self.ended = False

    def need(self, size):
        while len(self.buffer) - self.at < size:
            data = self.sock.recv(1 << 16)
            if not data:
                raise Closed
            self.buffer, self.at = self.buffer[self.at:] + data, 0
        self.at += size
        return self.buffer[self.at - size:self.at]

    def number(self, size):
        return int.from_bytes(self.need(size), "big")

    def text(self):
        return self.need(self.number(1)).decode()

    def ask(self, index, block=None, pages=1):
        body = be(8, index * PAGE) + be(4, PAGE * pages) + (name(block) if block else b"")
        self.sock.sendall(be(2, 3 if block else 4) + be(2, len(body)) + body)

    def pong(self, value):
        self.sock.sendall(be(2, 2) + be(2, 4) + be(4, value))

    def shut(self, status=0):
        self.sock.sendall(be(2, 1) + be(2, 4) + be(4, status))

    def element(self):
        """Takes one element; returns its tag, 0 at the end of the file."""
        tag = self.number(1)
        if tag == 0x51:
            assert self.need(7) == b"EVM" + be(4, 3)
        elif tag == 0x07:
            self.need(self.number(4))
        elif tag == 0x01:
            assert self.number(4) == 2 and self.text() == "ram"
            self.need(8)
            self.section()
        elif tag in (0x02, 0x03):
            assert self.number(4) == 2
            self.section()
        elif tag == 0x08:
            self.command()
        else:
            assert tag == 0, hex(tag)
        return tag

    def command(self):
        number, size = self.number(2), self.number(2)
        data = self.need(size)
        self.commands.append(number)
        if number == 7:
            self.package = self.need(int.from_bytes(data, "big"))
            self.listening = True

    def section(self):
        while True:
            entry = self.number(8)
            flags, index = entry & 0xfff, entry >> 12
            if flags == 0x10:
                break
            if flags == 0x04:
                left = index << 12
                while left:
                    block = self.text()
                    self.blocks[block] = self.number(8)
                    left -= self.blocks[block]
                continue
            if not flags & 0x20:
                self.block = self.text()
            page = self.need(PAGE) if flags & 8 else self.need(1) and b""
            if self.block == "ram":
                assert index not in self.pages, f"page {index} twice"
                self.pages[index] = page
                self.order.append(index)
            else:
                self.small[index] = page
        assert self.need(5) == FOOTER

    def take_head(self):
        """Up to and with the package; answers its ping."""
        while not self.package:
            self.element()
        ping = self.package.index(b"\x08\0\2\0\4") + 5
        self.pong(int.from_bytes(self.package[ping:ping + 4], "big"))

    def take_all(self):
        while self.element():
            pass
        self.ended = True


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
