"""A labelling run while the teacher's worker and its server are killed: no image is lost, none is labelled twice.

FEDMENTOR_TEACHER_KILLS sets how many kills there are (default 2); worker and server take turns.
"""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from fedmentor.teacher.cache import CachedTeacher, FolderStore
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Prompt, image_digest, soft_label_key
from fedmentor.teacher.endpoint import STATE_FILE
from fedmentor.teacher.prompts import central_box
from teacher_service.local import local_teacher
from teacher_service.server import ServerConfig, serving

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("FEDMENTOR_TEACHER_KILLS", "2"))
LONGEST_S = 300.0 + 60.0 * KILLS
SIDE = 48
PROMPT = Prompt(central_box((SIDE, SIDE)))


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def family(run_folder):
    """The keeper, then Java, then the worker; fewer while something starts."""
    keeper = psutil.Process(json.loads((run_folder / STATE_FILE).read_text())["keeper_pid"])
    return [keeper, *keeper.children(recursive=True)]


class Killer(threading.Thread):
    """Kills the worker and Java in turn, each time after some labels more were stored."""

    def __init__(self, run_folder, cached):
        super().__init__(daemon=True)
        self.run_folder, self.cached, self.kills = run_folder, cached, 0
        self.over = threading.Event()

    def run(self):
        """Until there were enough, or the test is over."""
        random = np.random.default_rng(0)
        while self.kills < KILLS and not self.over.is_set():
            seen = self.cached.misses
            while self.cached.misses < seen + 1 and not self.over.wait(0.05):
                pass
            self.over.wait(float(random.uniform(0, 2)))
            victims = [process for process in family(self.run_folder)[1:] if self._is(process, self.kills % 2)]
            if victims:
                victims[0].kill()
                self.kills += 1

    @staticmethod
    def _is(process, java):
        try:
            return ("java" in process.name()) == bool(java) and "probe" not in " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            return False


def test_no_label_is_lost_and_none_is_made_twice(tmp_path):
    started = time.monotonic()
    store = FolderStore(tmp_path / "cache")
    patience = Patience(busy_s=300.0, lost_s=300.0, in_flight=2)
    with serving(ServerConfig(tmp_path / "run")) as server, TorchServeTeacher(server.endpoint, patience) as client:
        cached = CachedTeacher(client, store)
        killer = Killer(tmp_path / "run", cached)
        killer.start()
        indices = iter(range(100_000))
        labelled = {}

        def work():
            while killer.kills < KILLS and time.monotonic() < started + LONGEST_S:
                index = next(indices)
                labelled[index] = cached.soften(picture(index), PROMPT)
            index = next(indices)  # one more after the last kill
            labelled[index] = cached.soften(picture(index), PROMPT)

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(work) for _ in range(2)]:
                future.result()
        killer.over.set()
        killer.join(10)
        assert killer.kills == KILLS
        assert server.alive()
        card = client.card()
    assert cached.misses == len(labelled)
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == len(labelled)
    for index, answer in labelled.items():
        soft = store.get(soft_label_key(image_digest(picture(index)), PROMPT, card))
        assert soft.logits.tobytes() == answer.logits.tobytes()
    last = max(labelled)
    assert labelled[last].logits.tobytes() == local_teacher().soften(picture(last), PROMPT).logits.tobytes()
    print(f"{killer.kills} kills, {len(labelled)} labels, {time.monotonic() - started:.0f} s")  # noqa: T201  # the campaign's result
