"""The way of a kit with real processes: a registrar makes it, a hospital unpacks it in an empty folder, enrols, checks and runs."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from federation_processes import ENVIRONMENT, FEDMENTOR, PATIENCE_S, lines, wait_for, write_sites

from coordinator.manifests import make_manifest
from fedmentor.errors import EXIT_CONFIG, EXIT_OK, EXIT_POLICY
from fedmentor.ids import SiteId
from fedmentor.testing.registrar import found_by_commands
from study.processes import Child, Children, children, wait_for_file

pytestmark = pytest.mark.e2e

SITES = (SiteId("north"), SiteId("south"))


def fedmentor(folder: Path, *arguments: str, code: int = EXIT_OK) -> str:
    """Run one command in a folder; gives its standard output, or its standard error where it is to fail."""
    done = subprocess.run([*FEDMENTOR, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == EXIT_OK else done.stderr


def found(folder: Path) -> str:
    """Found a federation with a coordinator; gives the authority's fingerprint."""
    return found_by_commands(lambda *arguments: fedmentor(folder, *arguments))


def open_doors(processes: Children, folder: Path) -> dict[str, str]:
    """Start the registrar's server; gives its addresses."""
    listen = ("--listen", "localhost:0", "--listen-renewals", "localhost:0")
    serve = ["federation", "serve", "--registrar", str(folder / "registrar"), *listen, "--json"]
    door = processes.start("door", serve, folder / "logs", ENVIRONMENT)
    wait_for(lambda: door.out.read_text().endswith("\n"), [door])
    return json.loads(door.out.read_text())


def start_coordinator(processes: Children, folder: Path, doors: dict[str, str]) -> tuple[Child, str]:
    """Start a coordinator of a run of one round; gives its address."""
    options = {"rounds": 1, "local_epochs": 1, "batch_images": 2, "quorum": 2}
    (folder / "run.json").write_bytes(make_manifest(folder / "model", "run", SITES, options).to_bytes())
    arguments = ["coordinator", "run", "--manifest", str(folder / "run.json"), "--model", str(folder / "model")]
    arguments += ["--state", str(folder / "coordinator"), "--certificates", str(folder / "c"), "--registrar", doors["enrolment"]]
    arguments += ["--ready-file", str(folder / "ready"), "--listen", "localhost:0"]
    coordinator = processes.start("coordinator", arguments, folder / "logs", ENVIRONMENT)
    return coordinator, wait_for_file(folder / "ready", coordinator, PATIENCE_S)


def make_kit(folder: Path, site: SiteId, coordinator: str, doors: dict[str, str], *more: str) -> Path:
    """Have the registrar make a site's kit."""
    addresses = ("--coordinator", coordinator, "--enrol-at", doors["enrolment"], "--renew-at", doors["renewals"])
    fedmentor(folder, "federation", "kit", site, "--registrar", "registrar", *addresses, *more)
    return folder / f"fedmentor-{site}.tar.gz"


def install(folder: Path, site: SiteId, kit: Path, authority: str) -> Path:
    """What the hospital's IT does: unpack, say where the images are, enrol, check; gives the settings file."""
    hospital = folder / f"hospital of {site}"
    fedmentor(folder, "node", "unpack", str(kit), "--into", str(hospital), "--authority", authority)
    settings = hospital / "node.toml"
    text = settings.read_text()
    assert text.count('data = "/srv/xrays"') == 1
    settings.write_text(text.replace("/srv/xrays", str(folder / "data" / site)))
    place = ("--certificates", str(hospital / "certificates"))
    said = fedmentor(hospital, "node", "enrol", "--site", site, *place, "--invite", str(hospital / "kit" / "invite"))
    assert "valid until" in said
    return settings


def test_from_the_registrars_kit_to_a_finished_round(tmp_path):
    write_sites(tmp_path, SITES)
    authority = found(tmp_path)
    with ExitStack() as stack:
        processes = stack.enter_context(children())
        doors = open_doors(processes, tmp_path)
        coordinator, address = start_coordinator(processes, tmp_path, doors)
        kits = {site: make_kit(tmp_path, site, address, doors) for site in SITES}
        settings = {site: install(tmp_path, site, kits[site], authority) for site in SITES}
        checked = json.loads(fedmentor(tmp_path, "node", "check", "--config", str(settings["north"]), "--json"))
        assert checked["exit_code"] == EXIT_OK
        assert {"the coordinator takes this site's certificate"} <= {finding["what"] for finding in checked["findings"]}
        run = {
            site: processes.start(site, ["node", "run", "--json", "--config", str(file)], tmp_path / "logs", ENVIRONMENT)
            for site, file in settings.items()
        }
        # The same kit on top of a site that runs: nothing that the site has is touched.
        fedmentor(tmp_path, "node", "unpack", str(kits["north"]), "--into", str(settings["north"].parent))
        wait_for(lambda: all(child.process.poll() == 0 for child in (coordinator, *run.values())), [coordinator, *run.values()])
        assert [line["outcome"] for child in run.values() for line in lines(child) if "outcome" in line] == ["completed"] * 2
        # The invite is used, and the kit of a site that is a member needs none.
        again = ("node", "enrol", "--site", "north", "--certificates", "elsewhere", "--invite")
        refused = fedmentor(tmp_path, *again, str(settings["north"].parent / "kit" / "invite"), code=EXIT_POLICY)
        assert "proves no open invite: it was used" in refused
        make_kit(tmp_path, SITES[0], address, doors, "--no-invite", "--out", "newer.tar.gz")
        fedmentor(tmp_path, "node", "unpack", "newer.tar.gz", "--into", str(settings["north"].parent))
        assert not (settings["north"].parent / "kit" / "invite").exists()
    report = json.loads((tmp_path / "coordinator" / "report.json").read_text())
    assert (report["outcome"], report["total_rounds"]) == ("completed", 1)


def test_an_expired_invite_and_one_of_another_site_install_nothing_and_another_kit_helps(tmp_path):
    authority = found(tmp_path)
    with children() as processes:
        doors = open_doors(processes, tmp_path)
        late = make_kit(tmp_path, SITES[0], "localhost:1", doors, "--hours", "0.000001")
        other = make_kit(tmp_path, SITES[1], "localhost:1", doors)
        site = tmp_path / "site"
        fedmentor(tmp_path, "node", "unpack", str(late), "--into", "site")
        time.sleep(0.1)  # more than the invite's life of 3.6 ms
        enrol = ("node", "enrol", "--site", "north", "--certificates", str(site / "certificates"), "--invite")
        said = fedmentor(tmp_path, *enrol, str(site / "kit" / "invite"), code=EXIT_POLICY)
        assert said.splitlines()[0] == "error: the invite of site north has expired"
        assert len(said.splitlines()) == 2
        fedmentor(tmp_path, "node", "unpack", str(other), "--into", "south")
        said = fedmentor(tmp_path, *enrol, str(tmp_path / "south" / "kit" / "invite"), code=EXIT_CONFIG)
        assert said.splitlines()[0] == "error: the invite is for site south of fed.example"
        assert "is the place of site north" in fedmentor(tmp_path, "node", "unpack", str(other), "--into", "site", code=EXIT_CONFIG)
        assert not (site / "certificates" / "sites" / "north" / "certificate.pem").exists()
        good = make_kit(tmp_path, SITES[0], "localhost:1", doors)
        fedmentor(tmp_path, "node", "unpack", str(good), "--into", "site", "--authority", authority)
        assert "valid until" in fedmentor(tmp_path, *enrol, str(site / "kit" / "invite"))
