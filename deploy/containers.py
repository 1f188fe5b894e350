"""The federation of deploy/compose.yaml from one command: build the images, bring it up and watch it, take it down.

Usage: python deploy/containers.py images | up | down | logs | token | certificate

Needs a container engine and Compose, and nothing beside Python's own library: ``make up`` works without an environment.
Settings come from the environment: DATA, ROUNDS, MONITORING, and the FEDMENTOR_... variables of compose.yaml; FEDMENTOR_PROJECT
names the containers, FEDMENTOR_TAG images that are not built but here already, FEDMENTOR_RESULTS the folder for what comes out.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import EXIT_INTERRUPTED, EXIT_PEER, EXIT_POLICY, EXIT_USAGE, ROOT, Fault, docker, say
from images import build, print_sizes, provide, provide_prometheus

ONE_SHOT = ("registrar", "data", "distil", "plan")
STEPS_TOLD = {"registrar": "certificates", "data": "data dealt", "distil": "student distilled", "plan": "manifest written"}
POLL_S = 1.0

NO_ENGINE = (
    "error: {what}\n"
    "  try: install Docker Engine with its Compose plugin (https://docs.docker.com/engine/install/); `make demo` needs none"
)


@dataclass(frozen=True)
class Federation:
    """One Compose project.

    Attributes:
        compose: the program, ``docker compose`` or ``docker-compose``.
        project: name before those of containers, networks and volumes.
        data: folder of images, or empty for phantoms.
        results: where report and model are copied to.
        monitoring: whether Prometheus is started, too.
    """

    compose: tuple[str, ...]
    project: str
    data: str
    results: Path
    environment: dict[str, str] = field(repr=False, default_factory=dict)
    monitoring: bool = False

    def command(self, *arguments: str) -> list[str]:
        """A Compose command line."""
        files = ["-f", str(ROOT / "deploy" / "compose.yaml")]
        if self.data:
            files += ["-f", str(ROOT / "deploy" / "compose.data.yaml")]
        # What another call started is shown and removed, too.
        profile = ["--profile", "monitoring"] if self.monitoring or "up" not in arguments else []
        return [*self.compose, "-p", self.project, *files, *profile, *arguments]

    def states(self) -> dict[str, tuple[str, str]]:
        """State and status of each service's container, e.g. ``("running", "Up 3 seconds (healthy)")``."""
        label = "com.docker.compose"
        form = f'{{{{.Label "{label}.service"}}}}\t{{{{.State}}}}\t{{{{.Status}}}}'
        listed = docker("ps", "--all", "--filter", f"label={label}.project={self.project}", "--format", form)
        return {name: (state, status) for name, state, status in (line.split("\t") for line in listed.splitlines())}

    def container(self, service: str) -> str:
        """Id of a service's container, empty where there is none."""
        label = "com.docker.compose"
        found = docker(
            *("ps", "--all", "--quiet", "--filter", f"label={label}.project={self.project}"),
            *("--filter", f"label={label}.service={service}"),
        ).split()
        return found[0] if found else ""

    def file(self, service: str, path: str) -> bytes | None:
        """Content of a file in a service's container, running or not; None where it is not there."""
        container = self.container(service)
        if not container:
            return None
        done = subprocess.run(["docker", "cp", f"{container}:{path}", "-"], capture_output=True, check=False)
        if done.returncode != 0:
            return None
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            member = archive.extractfile(archive.getmembers()[0])
            return member.read() if member else None


def main(arguments: list[str]) -> int:
    """Do one thing and give the exit code."""
    actions = {"images": images, "up": up, "down": down, "logs": logs, "token": token, "certificate": certificate}
    if len(arguments) != 1 or arguments[0] not in actions:
        sys.stderr.write(f"usage: containers.py {' | '.join(actions)}\n")
        return EXIT_USAGE
    try:
        actions[arguments[0]](find_federation())
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.code
    except KeyboardInterrupt:
        sys.stderr.write("\nno longer watching; what was started goes on: make up watches it again, make down removes it\n")
        return EXIT_INTERRUPTED
    return 0


def find_federation() -> Federation:
    """The engine, Compose, and the settings in the environment.

    Raises:
        Fault: no engine, or a data folder that is none.
    """
    if shutil.which("docker") is None:
        raise Fault(NO_ENGINE.format(what="there is no container engine here"))
    answer = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        said = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise Fault(NO_ENGINE.format(what=f"the container engine does not answer: {said}"))
    data = os.environ.get("DATA", "")
    if data and not (Path(data).expanduser() / "images").is_dir():
        raise Fault(f"error: {data} is not a dataset folder: it has no images/\n  try: see docs/data.md")
    data = str(Path(data).expanduser().resolve()) if data else ""
    environment = {**os.environ, "FEDMENTOR_DATA": data}
    if os.environ.get("ROUNDS"):
        environment["FEDMENTOR_ROUNDS"] = os.environ["ROUNDS"]
    results = Path(os.environ.get("FEDMENTOR_RESULTS") or ROOT / "runs" / "up")
    project, monitoring = os.environ.get("FEDMENTOR_PROJECT") or "fedmentor", bool(os.environ.get("MONITORING"))
    return Federation(find_compose(), project, data, results, environment, monitoring)


def find_compose() -> tuple[str, ...]:
    """The Compose plugin, or docker-compose.

    Raises:
        Fault: neither is there.
    """
    for program in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(program[0]) and subprocess.run([*program, "version"], capture_output=True, check=False).returncode == 0:
            return program
    raise Fault(NO_ENGINE.format(what="the container engine has no Compose"))


def images(federation: Federation) -> None:
    """Build the images and print their sizes."""
    build(federation.results)
    print_sizes()


def up(federation: Federation) -> None:
    """Provide the images, start, and watch until the rounds are done; then say where everything is.

    Raises:
        Fault: a step or the run failed.
    """
    federation.results.mkdir(parents=True, exist_ok=True)
    provide(federation.results)
    if federation.monitoring:
        provide_prometheus()
    log = federation.results / "compose.log"
    with log.open("wb") as output:
        starting = subprocess.Popen(
            federation.command("up", "--detach"), env=federation.environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        report = watch(federation, starting, log)
    finally:
        if starting.poll() is None:
            starting.terminate()
            starting.wait()
    take_results(federation, report)
    tell_where(federation)


def watch(federation: Federation, starting: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Tell what happens until the run is over.

    Returns:
        The coordinator's last report.

    Raises:
        Fault: something ended that should not have.
    """
    told: set[str] = set()
    while True:
        states = federation.states()
        for line in news(states):
            if line not in told:
                told.add(line)
                say(line)
        refuse_failures(federation, states, starting, log)
        report = read_report(federation) if "coordinator" in states else None
        if report is not None:
            for line in round_lines(report):
                if line not in told:
                    told.add(line)
                    say(line)
            if report["outcome"] is not None and starting.poll() is not None:
                return report
        time.sleep(POLL_S)


def news(states: dict[str, tuple[str, str]]) -> list[str]:
    """What can be said of the services' states."""
    lines = [STEPS_TOLD[name] for name in ONE_SHOT if states.get(name, ("", ""))[1].startswith("Exited (0)")]
    ready = {"teacher": "teacher is ready", "coordinator": f"coordinator is ready; {dashboard()} shows the run"}
    lines += [line for name, line in ready.items() if "(healthy)" in states.get(name, ("", ""))[1]]
    lines += [f"{name} is not well; make logs says why" for name in ailing(states)]
    return lines


def dashboard() -> str:
    """Address of the page that shows the run; its metrics lie beside it."""
    return f"http://127.0.0.1:{os.environ.get('FEDMENTOR_METRICS_PORT') or '9464'}/"


def ailing(states: dict[str, tuple[str, str]]) -> list[str]:
    """Services that end again and again, or are not well."""
    return [name for name, (state, status) in states.items() if state == "restarting" or "(unhealthy)" in status]


def refuse_failures(
    federation: Federation, states: dict[str, tuple[str, str]], starting: subprocess.Popen[bytes], log: Path
) -> None:
    """Raise a Fault with the last words of a step that failed, or of Compose."""
    for name in ONE_SHOT:
        code = re.match(r"Exited \((\d+)\)", states.get(name, ("", ""))[1])
        if code and code[1] != "0" and starting.poll() is not None:
            raise Fault(f"{last_words(federation, name)}\nerror: step {name} failed with exit code {code[1]}", int(code[1]))
    if starting.poll() not in (None, 0):
        compose_said = log.read_text(errors="replace")
        refuse_taken_port(compose_said)
        said = [f"{name}: {last_words(federation, name)}" for name in ailing(states)]
        last = "\n".join([*said, *compose_said.splitlines()[-5:]])
        raise Fault(f"{last}\nerror: Compose could not start the federation\n  try: read {log}, or make logs")


def refuse_taken_port(compose_said: str) -> None:
    """Raise a Fault where the engine could not have a port."""
    taken = re.search(r"127\.0\.0\.1:(\d+)(?: failed)?: (?:bind: address already in use|port is already allocated)", compose_said)
    if taken:
        cure = "give another one with FEDMENTOR_TEACHER_PORT, FEDMENTOR_METRICS_PORT or FEDMENTOR_PROMETHEUS_PORT"
        raise Fault(f"error: port {taken[1]} on 127.0.0.1 is taken\n  try: {cure}")


def last_words(federation: Federation, service: str) -> str:
    """The end of a service's log."""
    command = ["docker", "logs", "--tail", "6", federation.container(service)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout.strip()


def read_report(federation: Federation) -> dict[str, Any] | None:
    """The coordinator's report, once there is one."""
    content = federation.file("coordinator", "/state/report.json")
    return json.loads(content) if content else None


def round_lines(report: dict[str, Any]) -> list[str]:
    """One line for each model that was scored and, but for the last one, trained from."""
    lines = []
    for entry in report["rounds"]:
        last = report["outcome"] is not None and entry is report["rounds"][-1]
        if entry["dice"] is not None and (entry["published"] or last):
            worst = f"worst {entry['worst_dice']:.4f} at {entry['worst_site']}"
            lines.append(f"round {entry['round']}/{report['total_rounds']}  Dice {entry['dice']:.4f}  {worst}")
    return lines


def take_results(federation: Federation, report: dict[str, Any]) -> None:
    """Copy report and final model out of the coordinator.

    Raises:
        Fault: the run failed.
    """
    federation.results.mkdir(parents=True, exist_ok=True)
    (federation.results / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    if report["outcome"] != "completed":
        raise Fault(f"error: the run failed: {report['reason']}\n  try: make logs, then make down", EXIT_POLICY)
    model = federation.results / "model"
    shutil.rmtree(model, ignore_errors=True)
    docker("cp", f"{federation.container('coordinator')}:/state/models/{report['model']}", str(model))


def tell_where(federation: Federation) -> None:
    """Where everything is."""
    teacher = os.environ.get("FEDMENTOR_TEACHER_PORT") or "8085"
    say("the run is complete; the federation stays up")
    say(f"  model and report   {federation.results / 'model'}, {federation.results / 'report.json'}")
    say(f"  teacher            https://127.0.0.1:{teacher}/predictions/teacher   (make token, make certificate)")
    say(f"  dashboard          {dashboard()}")
    say(f"  metrics            {dashboard()}metrics")
    if federation.monitoring:
        prometheus = os.environ.get("FEDMENTOR_PROMETHEUS_PORT") or "9090"
        say(f"  alerts             http://127.0.0.1:{prometheus}/alerts")
    say("  make logs shows what every service says; make down removes containers, networks and volumes")


def down(federation: Federation) -> None:
    """Remove containers, networks and volumes; images and results stay."""
    done = subprocess.run(
        federation.command("down", "--volumes", "--remove-orphans", "--timeout", "20"),
        env={**federation.environment, "FEDMENTOR_DATA": federation.data or str(ROOT)},
        check=False,
    )
    if done.returncode != 0:
        raise Fault("error: Compose could not remove everything\n  try: the same again")


def logs(federation: Federation) -> None:
    """Follow what every service says."""
    subprocess.run(federation.command("logs", "--follow", "--tail", "200"), env=federation.environment, check=False)


def token(federation: Federation) -> None:
    """Print the teacher's token; it is renewed every half hour.

    Raises:
        Fault: no teacher is up.
    """
    content = federation.file("teacher", "/teacher/key_file.json")
    if content is None:
        raise Fault("error: no teacher is up\n  try: make up", EXIT_PEER)
    say(json.loads(content)["inference"]["key"])


def certificate(federation: Federation) -> None:
    """Print the certificate by which the teacher is known.

    Raises:
        Fault: no teacher is up.
    """
    content = federation.file("teacher", "/teacher/tls-certificate.pem")
    if content is None:
        raise Fault("error: no teacher is up\n  try: make up", EXIT_PEER)
    say(content.decode().strip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
