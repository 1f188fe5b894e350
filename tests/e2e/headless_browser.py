"""A headless Chromium for the tests beside it, spoken to over its debugging pipe (Chrome DevTools Protocol)."""

import json
import os
import shutil
import subprocess
import time

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)
PATIENCE_S = 60.0


class Browser:
    """One browser, with a profile of its own in a folder."""

    def __init__(self, profile):
        (their_input, self._output), (self._input, their_output) = os.pipe(), os.pipe()
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}")
        command = f'exec "$@" 3<&{their_input} 4>&{their_output}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", command, "chromium", CHROMIUM, *options, "--remote-debugging-pipe"],
            pass_fds=(their_input, their_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_input)
        os.close(their_output)
        self._left, self._number, self._session = b"", 0, None

    def close(self):
        """End the browser."""
        self._process.terminate()
        self._process.wait(30)
        os.close(self._input)
        os.close(self._output)

    def open(self, url, ready):
        """Show a page, and wait until an expression is true on it; later calls are about it."""
        self._session = None
        target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.until(f"document.readyState === 'complete' && ({ready})")

    def call(self, method, **parameters):
        """One command and its result; events are passed over."""
        answer = self._answer(method, parameters)
        assert "error" not in answer, answer
        return answer["result"]

    def _answer(self, method, parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                return answer

    def _next(self):
        while b"\0" not in self._left:
            block = os.read(self._input, 1 << 16)
            assert block, "the browser ended"
            self._left += block
        message, self._left = self._left.split(b"\0", 1)
        return json.loads(message)

    def value(self, expression):
        """What a JavaScript expression gives."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, expression):
        """Wait until an expression is true; it is not where it fails, or where a page is just being left."""
        deadline = time.monotonic() + PATIENCE_S
        question = {"expression": f"!!({expression})", "returnByValue": True}
        while self._answer("Runtime.evaluate", question).get("result", {}).get("result", {}).get("value") is not True:
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)
