"""Every flag of TGI's launcher is understood; flag, environment and default rank as promised."""

from __future__ import annotations

from typing import Any

import click
import pytest

from tgi.cli.options import Alias, Setting, SettingsCommand, all_options, read_config
from tgi.config import Config
from tgi.errors import ConfigError


def parse(*arguments: str) -> tuple[Config, list[str]]:
    """The settings of one command line, parsed as `tgi serve` parses it."""

    def callback(**_: Any) -> tuple[Config, list[str]]:
        return read_config(click.get_current_context())

    command = SettingsCommand("serve", params=list(all_options()), callback=callback)
    answer: tuple[Config, list[str]] = command.main(list(arguments), standalone_mode=False)
    return answer


def value(config: Config, name: str) -> Any:
    """A field of whichever section has it."""
    sections = (config.model, config.limits, config.batching, config.http, config.telemetry)
    return next(getattr(section, name) for section in sections if hasattr(section, name))


ACCEPTED = 0  # taken over
NO_EFFECT = 1  # taken, with a warning that says why it changes nothing
REFUSED = 2  # the feature does not exist yet: an error that says so

# TGI's launcher, flag by flag: (flag, value or None for a flag without one, what happens)
LAUNCHER: list[tuple[str, str | None, int]] = [
    ("--model-id", "org/model", ACCEPTED), ("--revision", "refs/pr/1", ACCEPTED),
    ("--validation-workers", "3", ACCEPTED), ("--sharded", "true", REFUSED), ("--sharded", "false", ACCEPTED),
    ("--num-shard", "1", ACCEPTED), ("--num-shard", "2", REFUSED),
    *(("--quantize", name, REFUSED) for name in (
        "awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "bitsandbytes", "bitsandbytes-nf4",
        "bitsandbytes-fp4", "fp8")),
    ("--speculate", "0", ACCEPTED), ("--speculate", "2", REFUSED),
    ("--dtype", "float16", ACCEPTED), ("--dtype", "bfloat16", ACCEPTED), ("--dtype", "float32", ACCEPTED),
    ("--kv-cache-dtype", "fp8_e4m3fn", REFUSED), ("--kv-cache-dtype", "fp8_e5m2", REFUSED),
    ("--trust-remote-code", None, NO_EFFECT), ("--max-concurrent-requests", "7", ACCEPTED),
    ("--max-best-of", "3", ACCEPTED), ("--max-stop-sequences", "5", ACCEPTED), ("--max-top-n-tokens", "6", ACCEPTED),
    ("--max-input-tokens", "10", ACCEPTED), ("--max-input-length", "10", ACCEPTED),
    ("--max-total-tokens", "20", ACCEPTED), ("--waiting-served-ratio", "1.2", NO_EFFECT),
    ("--max-batch-prefill-tokens", "64", ACCEPTED), ("--max-batch-total-tokens", "4096", ACCEPTED),
    ("--max-waiting-tokens", "5", NO_EFFECT), ("--max-batch-size", "4", ACCEPTED),
    ("--cuda-graphs", "0", ACCEPTED), ("--cuda-graphs", "1,2,4", REFUSED),
    ("--hostname", "127.0.0.1", ACCEPTED), ("--port", "8080", ACCEPTED), ("-p", "8080", ACCEPTED),
    ("--prometheus-port", "9001", ACCEPTED), ("--shard-uds-path", "/tmp/x", NO_EFFECT),
    ("--master-addr", "host", NO_EFFECT), ("--master-port", "29501", NO_EFFECT),
    ("--huggingface-hub-cache", "/data", ACCEPTED), ("--weights-cache-override", "/weights", ACCEPTED),
    ("--disable-custom-kernels", None, ACCEPTED), ("--cuda-memory-fraction", "0.5", ACCEPTED),
    ("--rope-scaling", "linear", ACCEPTED), ("--rope-scaling", "dynamic", ACCEPTED), ("--rope-factor", "2", ACCEPTED),
    ("--json-output", None, ACCEPTED), ("--otlp-endpoint", "http://collector:4317", ACCEPTED),
    ("--otlp-service-name", "mine", ACCEPTED), ("--cors-allow-origin", "https://a.example", ACCEPTED),
    ("--api-key", "secret", ACCEPTED), ("--watermark-gamma", "0.5", ACCEPTED), ("--watermark-delta", "2", ACCEPTED),
    ("--ngrok", None, REFUSED), ("--ngrok-authtoken", "x", REFUSED), ("--ngrok-edge", "x", REFUSED),
    ("--tokenizer-config-path", "t.json", ACCEPTED), ("--disable-grammar-support", None, ACCEPTED),
    ("--env", None, ACCEPTED), ("-e", None, ACCEPTED), ("--max-client-batch-size", "8", ACCEPTED),
    ("--lora-adapters", "a,b", REFUSED), ("--usage-stats", "on", ACCEPTED), ("--usage-stats", "off", ACCEPTED),
    ("--usage-stats", "no-stack", ACCEPTED), ("--payload-limit", "1000", ACCEPTED),
    ("--enable-prefill-logprobs", None, NO_EFFECT), ("--graceful-termination-timeout", "5", ACCEPTED),
    ("-g", "5", ACCEPTED), ("--max-image-fetch-size", "5", NO_EFFECT),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "given", "outcome"), LAUNCHER, ids=lambda part: str(part))
def test_every_flag_of_tgis_launcher_is_taken_or_refused_with_a_reason(
    flag: str, given: str | None, outcome: int
) -> None:
    arguments = [flag] if given is None else [flag, given]
    if outcome == REFUSED:
        with pytest.raises(ConfigError, match="not available") as refusal:
            parse(*arguments)
        assert refusal.value.hint
        return
    _, warnings = parse(*arguments)
    assert len(warnings) == (1 if outcome == NO_EFFECT else 0)


@pytest.mark.parametrize(
    ("flag", "given"), [(flag, given) for flag, given, outcome in LAUNCHER if outcome == ACCEPTED and len(flag) > 2]
)
def test_every_accepted_flag_has_its_variable(monkeypatch: pytest.MonkeyPatch, flag: str, given: str | None) -> None:
    from_flag, _ = parse(*([flag] if given is None else [flag, given]))
    monkeypatch.setenv(flag.strip("-").replace("-", "_").upper(), given or "true")
    from_environment, _ = parse()
    assert from_environment == from_flag


def test_the_defaults_are_tgis() -> None:
    config, warnings = parse()
    assert warnings == []
    assert config == Config()
    expected = {
        "validation_workers": 2, "max_concurrent_requests": 128, "max_best_of": 2, "max_stop_sequences": 4,
        "max_top_n_tokens": 5, "waiting_served_ratio": 0.3, "max_waiting_tokens": 20, "hostname": "0.0.0.0",
        "port": 3000, "cuda_memory_fraction": 1.0, "max_client_batch_size": 4, "payload_limit": 2_000_000,
        "graceful_termination_timeout": 90, "usage_stats": "on", "max_image_fetch_size": 1_073_741_824,
    }  # fmt: skip
    assert {name: value(config, name) for name in expected} == expected


def test_a_flag_wins_over_the_environment_which_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse()[0].http.port == 3000
    monkeypatch.setenv("PORT", "80")
    assert parse()[0].http.port == 80
    assert parse("--port", "81")[0].http.port == 81


@pytest.mark.parametrize("name", ["PORT", "MAX_TOTAL_TOKENS", "CUDA_GRAPHS", "TRUST_REMOTE_CODE", "CORS_ALLOW_ORIGIN"])
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for empty in ("", " "):
        monkeypatch.setenv(name, empty)
        assert parse() == (Config(), [])


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("true", True), ("1", True), ("yes", True), ("True", True), ("false", False), ("0", False), ("no", False)],
)
def test_booleans_in_the_environment_are_words_or_digits(
    monkeypatch: pytest.MonkeyPatch, text: str, meaning: bool
) -> None:
    monkeypatch.setenv("JSON_OUTPUT", text)
    monkeypatch.setenv("PREFIX_CACHING", text)
    config, _ = parse()
    assert config.telemetry.json_output is meaning
    assert config.batching.prefix_caching is meaning


def test_a_flag_can_take_back_what_the_environment_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSON_OUTPUT", "1")
    assert parse("--no-json-output")[0].telemetry.json_output is False


def test_underscores_are_accepted_in_flags() -> None:
    assert parse("--max_total_tokens", "9")[0] == parse("--max-total-tokens=9")[0]


def test_a_repeatable_flag_collects_and_its_variable_holds_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = parse("--cors-allow-origin", "https://a", "--cors-allow-origin", "https://b")
    assert config.http.cors_allow_origin == ("https://a", "https://b")
    monkeypatch.setenv("CORS_ALLOW_ORIGIN", "https://a b")
    assert parse()[0].http.cors_allow_origin == ("https://a b",)


def test_the_old_name_of_a_flag_works_alone_but_not_beside_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("--max-input-length", "9")[0].limits.max_input_tokens == 9
    with pytest.raises(ConfigError, match="same setting"):
        parse("--max-input-length", "9", "--max-input-tokens", "9")
    monkeypatch.setenv("MAX_INPUT_LENGTH", "9")
    assert parse()[0].limits.max_input_tokens == 9


@pytest.mark.parametrize("name", ["f3b0c44298fc", "my-pod-5d4"])
def test_the_machines_own_name_in_hostname_is_not_an_address_to_listen_on(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOSTNAME", name)
    assert parse()[0].http.hostname == "0.0.0.0"
    assert parse("--hostname", name)[0].http.hostname == name
    monkeypatch.setenv("HOSTNAME", "::1")
    assert parse()[0].http.hostname == "::1"


def test_another_programs_env_variable_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV", "production")
    assert parse()[0].telemetry.print_env is False
    monkeypatch.setenv("ENV", "true")
    assert parse()[0].telemetry.print_env is True


@pytest.mark.parametrize(
    "arguments",
    [
        "--max-input-tokens 8 --max-total-tokens 8", "--validation-workers 0", "--max-batch-size 0",
        "--max-total-tokens 65 --max-batch-total-tokens 64", "--num-shard 0", "--port 65536", "--prometheus-port -1",
        "--max-batch-prefill-tokens 65 --max-batch-total-tokens 64", "--cuda-memory-fraction 0", "--step-timeout nan",
        "--graceful-termination-timeout -1",
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused_with_a_next_step(arguments: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(*arguments.split())
    assert refusal.value.exit_code == 1
    assert refusal.value.hint
    assert all(word in refusal.value.message for word in arguments.split() if word.startswith("--"))


def test_a_contradiction_names_the_variable_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_TOTAL_TOKENS", "4")
    with pytest.raises(ConfigError) as refusal:
        parse("--max-input-tokens", "5")
    assert "`MAX_TOTAL_TOKENS` is set in the environment" in (refusal.value.hint or "")


def test_help_fits_80_columns_and_shows_every_default_and_variable() -> None:
    command = SettingsCommand("serve", params=list(all_options()), examples=("tgi serve",))
    text = command.get_help(click.Context(command, info_name="tgi serve", terminal_width=80))
    assert max(len(line) for line in text.splitlines()) <= 80
    words = " ".join(text.split())
    for option in all_options():
        assert isinstance(option, Setting)
        if not option.hidden:
            assert f"env: {option.envvar}]" in words
    for alias in (option for option in all_options() if isinstance(option, Alias)):
        assert alias.opts[0] in words


def test_no_two_settings_share_a_name_or_a_variable() -> None:
    names = [name for option in all_options() for name in (*option.opts, *option.secondary_opts)]
    variables = [option.envvar for option in all_options() if option.envvar]
    assert len(names) == len(set(names))
    assert len(variables) == len(set(variables))
