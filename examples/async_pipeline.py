"""A pipeline of three stages with queues between them: python examples/async_pipeline.py

Tasks read documents; an async actor asks a slow service about each, many at a time in one process;
the driver prints the answers as they come. The queues are short: no stage runs far ahead.
"""

import asyncio
import collections
import time

import pyray as ray
from pyray.util.queue import Queue

DOCUMENTS, READERS, AT_A_TIME = 60, 2, 20


@ray.remote
def read(part, out):
    """Make every READERS-th document, from `part` on."""
    for number in range(part, DOCUMENTS, READERS):
        words = [f"word{hash((number, i)) % 100}" for i in range(2000)]
        out.put((number, collections.Counter(words).most_common(1)[0]))
    out.put(None)


@ray.remote
class Service:
    """Looks documents up: 50 ms each, nearly all of it waiting."""

    def __init__(self):
        self.open = 0
        self.most = 0

    async def run(self, source, target):
        """Take documents until all readers are done; returns how many were open at most."""
        readers = READERS
        slots = asyncio.Semaphore(AT_A_TIME)
        async with asyncio.TaskGroup() as lookups:
            while readers:
                document = await source.get_async()
                if document is None:
                    readers -= 1
                    continue
                await slots.acquire()
                lookups.create_task(self.look_up(document, target, slots))
        await target.put_async(None)
        return self.most

    async def look_up(self, document, target, slots):
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.05)
        self.open -= 1
        slots.release()
        number, (word, times) = document
        await target.put_async((number, f"{word} is in it {times} times"))


async def main():
    """Run the stages side by side, and print what comes out."""
    ray.init(num_cpus=2)
    documents, answers = Queue(maxsize=30), Queue(maxsize=30)
    started = time.perf_counter()
    readers = [read.remote(part, documents) for part in range(READERS)]
    service = Service.remote()
    most = service.run.remote(documents, answers)
    seen = 0
    while (answer := await answers.get_async()) is not None:
        seen += 1
        if seen % 20 == 0:
            print(f"{seen} answers; document {answer[0]}: {answer[1]}")
    await asyncio.gather(*readers)  # raises if one failed
    seconds = time.perf_counter() - started
    print(f"{seen} documents in {seconds:.2f} s, up to {await most} at a time", end="; ")
    print(f"the lookups one after the other take {DOCUMENTS * 0.05:.0f} s")


if __name__ == "__main__":
    asyncio.run(main())
