"""The files people deploy with say what the program understands: flags, variables, ports, paths, times."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tgi import __version__
from tgi.cli.options import all_options, read_config
from tgi.cli.serve import serve
from tgi.config import Config, Http
from tgi.server.app import OPEN_ROUTES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GRACE_S = Http().graceful_termination_timeout
NOT_FLAGS = {"HF_TOKEN", "HF_HOME", "XDG_CACHE_HOME"}  # read by the command line and by the hub's library


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def config(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Config:
    """What `tgi serve` makes of a command line; no warning may come with it. Raises: click's error of a wrong flag."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    assert arguments[0] == "serve"
    with serve.make_context("tgi serve", list(arguments[1:])) as context:
        found, warnings = read_config(context)
    assert not warnings
    return found


def variables() -> set[str]:
    names = {option.envvar for option in all_options() if isinstance(option, click.Option)}
    return {name for name in names if isinstance(name, str)}


def test_a_flag_that_does_not_exist_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError):
        config(["serve", "--no-such-flag"], monkeypatch)


def read_unit() -> tuple[str, configparser.ConfigParser]:
    text = (DEPLOY / "systemd" / "tgi.service").read_text(encoding="utf-8")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return text, unit


def test_the_systemd_unit_starts_the_program_and_lets_it_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    text, unit = read_unit()
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "tgi"
    found = config(arguments, monkeypatch)
    assert found.http.hostname == "127.0.0.1"
    assert found.http.port == Http().port
    assert int(service["TimeoutStopSec"]) > GRACE_S
    assert service["KillMode"] == "mixed"
    assert (service["PrivateDevices"], service["MemoryDenyWriteExecute"]) == ("false", "false")
    named = set(re.findall(r"\b([A-Z][A-Z_]+)=", text))
    assert named <= variables() | NOT_FLAGS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text, _ = read_unit()
    program = tmp_path / "tgi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "tgi.service"
    unit.write_text(text.replace("/usr/local/bin/tgi", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "tgi.service" in line]
    assert ours == []


def test_the_module_hardens_as_the_unit_does() -> None:
    """`services.tgi` of the flake and the unit file are two forms of one service."""
    module = (ROOT / "nix" / "module.nix").read_text(encoding="utf-8")
    _, unit = read_unit()
    elsewhere = {"ExecStart", "EnvironmentFile", "Environment"}
    for name, value in unit["Service"].items():
        if name in elsewhere:
            continue
        written = re.search(rf"\b{name} = (\[.*?\]|[^;]*);", module, flags=re.DOTALL)
        assert written is not None, name
        assert " ".join(re.findall(r"[\w/.-]+", written[1])) == value


def test_the_modules_flags_are_the_programs() -> None:
    module = (ROOT / "nix" / "module.nix").read_text(encoding="utf-8")
    known = {name for option in all_options() for name in option.opts}
    written = set(re.findall(r'"(--[a-z-]+)"', module))
    assert written == {"--hostname", "--port", "--model-id"}
    assert written <= known
    example = re.search(r"example = \{(.*?)\}", module, flags=re.DOTALL)
    assert example is not None
    assert {f"--{name}" for name in re.findall(r"([a-z-]+) =", example[1])} <= known
    ports = re.search(r"type = types.port;\s*default = (\d+);", module)
    assert ports is not None
    assert int(ports[1]) == Http().port


def test_compose_starts_a_server_that_prometheus_scrapes_and_grafana_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    services = documents("compose/compose.yaml")[0]["services"]
    tgi = services["tgi"]
    found = config(tgi["command"], monkeypatch)
    assert found.http.hostname == "0.0.0.0"
    assert tgi["ports"] == [f"127.0.0.1:{Http().port}:{found.http.port}"]
    assert set(tgi["environment"]) <= variables() | NOT_FLAGS
    assert int(tgi["stop_grace_period"].removesuffix("s")) > GRACE_S
    (job,) = documents("compose/prometheus.yml")[0]["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"tgi:{found.http.port}"]
    assert job["metrics_path"] in {path for path, _ in OPEN_ROUTES}
    (source,) = documents("compose/grafana/datasources.yml")[0]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = documents("compose/grafana/dashboards.yml")[0]["providers"]
    mounts = dict(volume.removesuffix(":ro").split(":") for volume in services["grafana"]["volumes"])
    assert mounts["../grafana"] == provider["options"]["path"]
    for service in services.values():
        for volume in service["volumes"]:
            source_path = volume.split(":")[0]
            if source_path.startswith("."):
                assert (DEPLOY / "compose" / source_path).exists(), source_path


def test_the_dashboards_that_grafana_loads_are_there() -> None:
    dashboards = sorted((DEPLOY / "grafana").glob("*.json"))
    assert dashboards
    assert all(json.loads(path.read_text(encoding="utf-8"))["panels"] for path in dashboards)


def test_kubernetes_waits_probes_and_lets_it_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {item["kind"]: item for item in documents("kubernetes/tgi.yaml")}
    template = objects["Deployment"]["spec"]["template"]
    pod, (container,) = template["spec"], template["spec"]["containers"]
    found = config(container["args"], monkeypatch)
    assert found.http.hostname == "0.0.0.0"
    assert container["ports"] == [{"name": "http", "containerPort": found.http.port}]
    assert pod["terminationGracePeriodSeconds"] == 100 > GRACE_S
    paths = {path for path, _ in OPEN_ROUTES}
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
        assert container[probe]["httpGet"]["port"] == "http"
    assert container["livenessProbe"]["tcpSocket"] == {"port": "http"}
    notes = template["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == found.http.port
    assert notes["prometheus.io/path"] in paths
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    assert objects["Service"]["spec"]["selector"] == template["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume]
    assert claims == [objects["PersistentVolumeClaim"]["metadata"]["name"]]


def test_all_use_the_image_of_this_version_and_its_folders() -> None:
    image = (ROOT / "nix" / "image.nix").read_text(encoding="utf-8")
    assert 'name = "tgi";' in image
    assert "tag = tgi.version;" in image
    compose = documents("compose/compose.yaml")[0]["services"]["tgi"]
    deployment = next(item for item in documents("kubernetes/tgi.yaml") if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert compose["image"] == container["image"] == f"tgi:{__version__}"
    home = re.search(r"HF_HOME=([\w/]+)", image)
    assert home is not None
    assert compose["volumes"] == [f"models:{home[1]}"]
    assert home[1] in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_image_serves_with_flags_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    image = (ROOT / "nix" / "image.nix").read_text(encoding="utf-8")
    command = re.search(r"Cmd = \[(.*?)\]", image, flags=re.DOTALL)
    assert command is not None
    found = config(re.findall(r'"([^"]+)"', command[1]), monkeypatch)
    assert f'ExposedPorts."{found.http.port}/tcp"' in image
