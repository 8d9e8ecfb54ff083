from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.settings import parse_settings
from task.config import RunConfig, read_toml
from task.errors import ConfigError
from task.options import fold_options, format_options, parse_options

names = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"))
values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
options = st.dictionaries(names, values, max_size=4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("q=0.2", {"q": 0.2}),
        ("  q=0.2   proximal-mu=1 ", {"q": 0.2, "proximal-mu": 1}),
        ("proximal_mu=1e-3", {"proximal-mu": 1e-3}),
        ("fast=true", {"fast": True}),
        ("fast=True", {"fast": "True"}),
        ("name=plain", {"name": "plain"}),
        ("name='two words'", {"name": "two words"}),
        ("""name='"0.5"'""", {"name": "0.5"}),
        ("expression=a=b", {"expression": "a=b"}),
        ("name=", {"name": ""}),
        ("list=[1,2]", {"list": "[1,2]"}),
    ],
)
def test_options_are_toml_values_or_else_texts(text: str, expected: dict[str, object]) -> None:
    parsed = parse_options(text)
    assert parsed == expected
    assert list(map(type, parsed.values())) == list(map(type, expected.values()))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q", "expected name=value pairs separated by spaces, got 'q'"),
        ("q = 0.2", "got 'q'"),
        ("=0.2", "got '=0.2'"),
        ("q=1 q=2", "q is given twice"),
        ("server-momentum=1 server_momentum=2", "server-momentum is given twice"),
        ("name='open", "No closing quotation"),
    ],
)
def test_what_is_no_list_of_options_is_an_error(text: str, problem: str) -> None:
    for refuse in (parse_options, lambda text: RunConfig.from_flat({"strategy.options": text})):
        with pytest.raises(ConfigError) as error:
            refuse(text)
        assert str(error.value).startswith(f"strategy.options = {text!r}: ")
        assert problem in str(error.value)


@given(options)
def test_options_written_as_text_are_read_back_with_their_types(given: dict[str, object]) -> None:
    read = parse_options(format_options(given))
    assert read == given
    assert {n: type(v) for n, v in read.items()} == {n: type(v) for n, v in given.items()}


@given(options)
def test_options_have_one_text_whatever_their_order(given: dict[str, object]) -> None:
    assert format_options(dict(reversed(given.items()))) == format_options(given)


@pytest.mark.parametrize("value", ["1e3", "true", "7 # seven", "1\nother = 2", '"quoted"', "é😀"])
def test_texts_that_look_like_something_else_stay_texts(value: str) -> None:
    assert parse_options(format_options({"name": value})) == {"name": value}


@given(options)
def test_a_config_with_options_is_read_back_from_its_flat_form(given: dict[str, object]) -> None:
    config = RunConfig.from_flat({f"strategy.options.{n}": v for n, v in given.items()})
    assert RunConfig.from_flat(config.to_flat()) == config
    assert parse_options(config.strategy.options) == given


def test_a_table_dotted_keys_and_one_text_give_the_same_config(tmp_path: Path) -> None:
    table, dotted, text = (tmp_path / f"{name}.toml" for name in ("table", "dotted", "text"))
    table.write_text(
        "[strategy]\nname = 'afl'\n[strategy.options]\nweight_learning_rate = 0.5\nnote = 'a b'\n"
    )
    dotted.write_text(
        "strategy.name = 'afl'\nstrategy.options.weight-learning-rate = 0.5\n"
        "strategy.options.note = 'a b'\n"
    )
    text.write_text(
        "strategy.name = 'afl'\n"
        """strategy.options = "weight-learning-rate=0.5 note='a b'"\n"""
    )
    configs = [RunConfig.from_flat(read_toml(file)) for file in (table, dotted, text)]
    configs += [
        parse_settings(words)
        for words in (
            [
                "strategy.name=afl",
                "strategy.options.weight-learning-rate=0.5",
                "strategy.options.note=a b",
            ],
            ["strategy.name=afl", "strategy.options=note='a b' weight_learning_rate=0.5"],
        )
    ]
    assert all(config.strategy == configs[0].strategy for config in configs)
    assert parse_options(configs[0].strategy.options) == {
        "weight-learning-rate": 0.5,
        "note": "a b",
    }


def test_the_command_line_changes_one_option_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "fair.toml"
    file.write_text("[strategy.options]\nepsilon = 0.1\nserver-learning-rate = 2.0\n")
    config = parse_settings([str(file), "strategy.options.epsilon=1.0"])
    assert parse_options(config.strategy.options) == {"epsilon": 1.0, "server-learning-rate": 2.0}


def test_other_keys_are_left_alone_and_no_options_are_an_empty_text() -> None:
    assert fold_options({"strategy.name": "afl", "run.seed": 3}) == {
        "strategy.name": "afl",
        "run.seed": 3,
    }
    assert RunConfig().strategy.options == ""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_an_option_that_is_not_finite_is_an_error(value: str) -> None:
    for flat in (
        {"strategy.options.q": float(value)},
        {"strategy.options": f"q={value}"},
    ):
        with pytest.raises(ConfigError, match=r"strategy\.options\.q = .*finite"):
            RunConfig.from_flat(flat)


@pytest.mark.parametrize("value", ["2024-01-01", "12:30:00", "[1, 2]"])
def test_a_table_with_a_value_of_another_type_is_no_crash(tmp_path: Path, value: str) -> None:
    file = tmp_path / "dates.toml"
    file.write_text(f"[strategy.options]\nsince = {value}\n")
    try:
        config = RunConfig.from_flat(read_toml(file))
    except ConfigError as error:
        assert "since" in str(error)
    else:
        assert parse_options(config.strategy.options) == {"since": value}
