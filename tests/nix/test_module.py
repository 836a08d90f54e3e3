"""`services.tgi` of NixOS: a unit an instance, whose command line the program accepts; mistakes are refused."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import pytest

from tests.nix.shim import evaluate, needs_nix
from tgi.cli.options import read_config
from tgi.cli.serve import serve

pytestmark = needs_nix

PACKAGE = "(shim { system = ''x86_64-linux''; }).python3 // { meta.mainProgram = ''tgi''; }"
SELF = f"{{ packages.x86_64-linux.default = {PACKAGE}; }}"


def system(services: str, result: str) -> subprocess.CompletedProcess[str]:
    """Evaluate `result` in the `config` of a machine with these settings of `services.tgi`."""
    return evaluate(
        f"let module = (import (root + /nix/module.nix)) {SELF}; "
        f"config = (nixpkgs.lib.nixosSystem {{ system = ''x86_64-linux''; "
        f"modules = [ module {{ services.tgi = {services}; }} ]; }}).config; in {result}"
    )


def units(services: str) -> dict[str, Any]:
    done = system(services, "config.systemd.services")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_instance_is_a_unit_whose_command_line_the_program_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = units("""{ enable = true;
        instances.small = { };
        instances.large = { modelId = ''some folder/model''; host = ''0.0.0.0''; port = 3001;
            settings = { max-concurrent-requests = 4; prefix-caching = false; json-output = true;
                cuda-memory-fraction = 0.5; cors-allow-origin = [ ''a'' ''b'' ]; }; }; }""")
    assert set(found) == {"tgi-small", "tgi-large"}
    for name in ("HOSTNAME", "PORT", "MODEL_ID"):
        monkeypatch.delenv(name, raising=False)
    configs = {}
    for name, unit in found.items():
        program, command, *arguments = shlex.split(unit["serviceConfig"]["ExecStart"])
        assert program.endswith("/bin/tgi")
        assert command == "serve"
        with serve.make_context("tgi serve", arguments) as context:
            configs[name], _ = read_config(context)
    small, large = configs["tgi-small"], configs["tgi-large"]
    assert (small.http.hostname, small.http.port, small.model.model_id) == ("127.0.0.1", 3000, None)
    assert (large.http.hostname, large.http.port, large.model.model_id) == ("0.0.0.0", 3001, "some folder/model")
    assert (large.limits.max_concurrent_requests, large.batching.prefix_caching) == (4, False)
    assert (large.telemetry.json_output, large.batching.cuda_memory_fraction) == (True, 0.5)
    assert large.http.cors_allow_origin == ("a", "b")


def test_secrets_come_from_a_file_and_models_are_shared() -> None:
    unit = units("{ enable = true; instances.a.environmentFile = ''/run/secrets/tgi''; }")["tgi-a"]
    assert unit["serviceConfig"]["EnvironmentFile"] == ["/run/secrets/tgi"]
    assert unit["serviceConfig"]["User"] == "tgi"
    assert re.fullmatch(r"/var/lib/tgi/\w+", unit["environment"]["HF_HOME"])


def test_the_firewall_opens_for_those_that_ask() -> None:
    done = system("{ enable = true; instances.a = { openFirewall = true; }; instances.b.port = 3001; }",
                  "config.networking.firewall.allowedTCPPorts")  # fmt: skip
    assert json.loads(done.stdout) == [3000]


def test_nothing_happens_unless_it_is_enabled() -> None:
    done = system("{ instances.a = { }; }", "config.systemd.services or { }")
    assert json.loads(done.stdout) == {}


@pytest.mark.parametrize(
    ("services", "says"),
    [
        ("{ enable = true; instances.a = { }; instances.b = { }; }", "two servers share a port"),
        ("{ enable = true; instances.a.port = 99999; }", "option `port'"),
        ("{ enable = true; instances.a.port = ''3000''; }", "option `port'"),
        ("{ enable = true; instances.a.settings.max-best-of = { }; }", "option `settings.max-best-of'"),
    ],
)
def test_a_mistake_is_refused_by_the_name_of_its_option(services: str, says: str) -> None:
    done = system(services, "config.system.build.toplevel.drvPath")
    assert done.returncode != 0
    assert says in done.stderr
