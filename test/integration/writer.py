# SPDX-License-Identifier: Apache-2.0
"""Proves that a guest's disk had one writer at a time, and shows the gap between one owner and the next.

The lab's guest with watari.writer=DISK keeps a log there (lab/guest/writer.c). Log reads it from the raw image and says what
cannot be if there was one writer. Watch reads along while the guest runs, with the machine's own clock beside each record,
so that it also sees what was overwritten later, and how long nobody wrote between two owners.

    python3 test/integration/writer.py IMAGE [OFFSET_MIB]     judges an image, as JSON; exit status 1: two writers
"""
import json
import os
import struct
import sys
import threading
import time
import zlib

RECORD = struct.Struct("<8s16sQQQQQQI432xI")
BYTES, MAGIC = 512, b"WATARIW1"
assert RECORD.size == BYTES


class Record:
    """One record; equal to another when all of its bytes are."""

    __slots__ = ("nonce", "number", "count", "realtime_ns", "monotonic_ns", "strangers", "strange_number", "before", "crc")

    def __init__(self, data):
        (_, nonce, self.number, self.count, self.realtime_ns, self.monotonic_ns, self.strangers, self.strange_number,
         self.before, self.crc) = RECORD.unpack(data)
        self.nonce = nonce.hex()

    def __eq__(self, other):
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self):
        return f"record {self.number} ({self.nonce[:8]} {self.count})"


def parse(data):
    """A Record, None for an empty or torn place."""
    if data[:8] != MAGIC or len(data) != BYTES or zlib.crc32(data[:-4]) != struct.unpack_from("<I", data, BYTES - 4)[0]:
        return None
    return Record(data)


def judge(records, violations=None):
    """What is wrong with records in the order of their numbers, as texts; [] for nothing."""
    wrong, ended, before = [] if violations is None else violations, set(), None
    for record in records:
        if record.strangers:
            wrong.append(f"{record!r} says: its guest met {record.strangers} strange records, the last at "
                         f"{record.strange_number}")
        if before is not None:
            if record.number != before.number + 1:
                wrong.append(f"{before!r} is followed by {record!r}: numbers are missing")
            elif record.before != before.crc:
                wrong.append(f"{record!r} was written behind another record than {before!r}")
            if record.nonce == before.nonce and record.count != before.count + 1:
                wrong.append(f"{before!r} is followed by {record!r}: its guest wrote more than is here")
            if record.nonce != before.nonce:
                ended.add(before.nonce)
                if record.count != 1:
                    wrong.append(f"{record!r} is its owner's first here, but not its first")
        if record.nonce in ended:
            wrong.append(f"{record!r} was written after another owner had begun")
        before = record
    return wrong


class Log:
    """What lies on the disk now."""

    def __init__(self, image, offset_mib=16):
        with open(image, "rb") as file:
            file.seek(offset_mib << 20)
            data = file.read()
        self.places = len(data) // BYTES
        found = (parse(data[at * BYTES:(at + 1) * BYTES]) for at in range(self.places))
        kept = [(record.number, at, record) for at, record in enumerate(found) if record]
        self.violations = [f"{record!r} lies in place {at}" for number, at, record in kept if number % self.places != at]
        self.records = [record for _, _, record in sorted(kept, key=lambda item: item[:2])]
        judge(self.records, self.violations)

    def owners(self):
        """The boots of the guest that wrote, in order: [nonce]."""
        return list(dict.fromkeys(record.nonce for record in self.records))

    def check(self):
        assert self.records, "the writer wrote nothing"
        assert not self.violations, self.violations[:10]
        return self


class Watch:
    """Reads along: `with Watch(image) as watch: ...`, then watch.check(). Never writes, and holds nothing back."""

    EVERY_S = 0.01

    def __init__(self, image, offset_mib=16):
        self.image, self.offset = image, offset_mib << 20
        self.seen = []  # (CLOCK_REALTIME in ms, Record), in the order of numbers
        self.violations = []
        self.stop = threading.Event()
        self.worker = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        log = Log(self.image, self.offset >> 20)
        self.places = log.places
        self.before = len(log.records)  # how many of `seen` are older than this watch
        now_ms = time.time_ns() // 1000000
        self.seen = [(now_ms, record) for record in log.records]
        self.file = os.open(self.image, os.O_RDONLY | os.O_CLOEXEC)
        self.worker.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.worker.join(10)
        os.close(self.file)

    def _read(self, number):
        return parse(os.pread(self.file, BYTES, self.offset + number % self.places * BYTES))

    def _look(self):
        while True:
            last = self.seen[-1][1] if self.seen else None
            # The last one again: a copy that ran on behind the other's back writes its own over it.
            if last and (again := self._read(last.number)) != last:
                self.violations.append(f"{last!r} was written over by {again!r}")
                if again:
                    self.seen[-1] = (self.seen[-1][0], again)
            number = last.number + 1 if last else 1
            record = self._read(number)
            if record is None or record.number + self.places == number:
                return
            if record.number != number:
                self.violations.append(f"{record!r} lies where record {number} belongs")
                return
            self.seen.append((time.time_ns() // 1000000, record))

    def _run(self):
        while not self.stop.wait(self.EVERY_S):
            try:
                self._look()
            except OSError as error:
                self.violations.append(f"cannot read along: {error}")
                return

    def owners(self):
        """[{nonce, first_ms, last_ms, records, gap_ms}], the gap being the silence before its first record (None for the
        first owner, and where the watch had not yet begun). Times are when this watch saw the record: 10 ms late at most,
        on an idle machine."""
        owners = []
        for at, (ms, record) in enumerate(list(self.seen)):
            if not owners or owners[-1]["nonce"] != record.nonce:
                is_watched = owners and at > self.before
                owners.append({"nonce": record.nonce, "first_ms": ms, "records": 0,
                               "gap_ms": ms - owners[-1]["last_ms"] if is_watched else None})
            owners[-1]["last_ms"] = ms
            owners[-1]["records"] += 1
        return owners

    def longest_silence_ms(self, nonce):
        """The longest time without a record within one owner: a move's blackout, with a rate of 20/s at least 50."""
        times = [ms for ms, record in list(self.seen)[self.before:] if record.nonce == nonce]
        return max((after - before for before, after in zip(times, times[1:])), default=0)

    def check(self):
        """Everything seen, and everything that lies there now, was written by one guest at a time."""
        wrong = self.violations + judge([record for _, record in self.seen])
        now = {record.number: record for record in Log(self.image, self.offset >> 20).check().records}
        wrong += [f"{record!r} was written over by {now[record.number]!r}" for _, record in self.seen
                  if record.number in now and now[record.number] != record]
        assert not wrong, wrong[:10]
        return self.owners()


def main():
    log = Log(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 16)
    print(json.dumps({"records": len(log.records), "owners": log.owners(), "violations": log.violations}))
    return 1 if log.violations else 0


if __name__ == "__main__":
    sys.exit(main())
