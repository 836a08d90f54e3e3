"""Parameters in the words of TGI's log."""

from __future__ import annotations

from tgi.server.description import described, optional
from tgi.server.schemas import GenerateParameters, Grammar

# TGI prints its struct with Rust's `Debug`.
TGIS = (
    "GenerateParameters { best_of: None, temperature: Some(0.5), repetition_penalty: None, frequency_penalty: None, "
    "top_k: None, top_p: None, typical_p: None, do_sample: true, max_new_tokens: Some(20), return_full_text: None, "
    "stop: [], truncate: None, watermark: false, details: false, decoder_input_details: false, seed: Some(7), "
    "top_n_tokens: None, grammar: None, adapter_id: None }"
)


def test_numbers_and_flags_are_written_as_tgi_writes_them() -> None:
    parameters = GenerateParameters(temperature=0.5, do_sample=True, max_new_tokens=20, seed=7)
    assert described(parameters) == TGIS


def test_a_clients_text_is_a_length_and_a_hash() -> None:
    parameters = GenerateParameters(
        stop=["secret one", "secret two"], grammar=Grammar(type="regex", value="secret"), adapter_id="secret",
        stop_sequences=["secret"], logit_bias={"5": 1.0}, return_full_text=True,
    )  # fmt: skip
    text = described(parameters)
    assert "secret" not in text
    assert "stop: <2, sha256 " in text
    assert "return_full_text: Some(true)" in text
    assert text == described(parameters)
    assert text != described(GenerateParameters(stop=["secret one", "secret three"]))


def test_what_is_not_a_number_is_no_trap() -> None:
    assert "nan" not in described(GenerateParameters(temperature=float("nan")))


def test_an_absent_value_is_none() -> None:
    assert (optional(None), optional(42)) == ("None", "Some(42)")
