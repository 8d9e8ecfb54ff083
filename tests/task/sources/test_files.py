import pandas as pd
import pytest

from task.errors import SurveyError
from task.sources.files import read_frame, require_columns


def write(frame, file):
    if file.suffix == ".csv":
        frame.to_csv(file, index=False)
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    return str(file)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_texts_that_look_like_something_else_stay_texts(tmp_path, suffix):
    texts = ["None", "NA", "nan", "null", "01", "1.0", "true", "2024-01-01", "a, b", 'say "x"']
    path = write(pd.DataFrame({"option": texts}), tmp_path / f"x{suffix}")
    assert read_frame(path)["option"].tolist() == texts


@pytest.mark.parametrize("texts", [["01", "02"], ["1.0", "2"], ["True", "False"], ["1e3", "7"]])
def test_a_csv_column_of_nothing_but_numbers_stays_as_it_is_written(tmp_path, texts):
    path = write(pd.DataFrame({"option": texts}), tmp_path / "x.csv")
    assert read_frame(path)["option"].astype(str).tolist() == texts


@pytest.mark.parametrize("name", ["survey.xlsx", "survey", "survey.csv.gz"])
def test_another_kind_of_file_is_an_error_that_lists_the_kinds_there_are(tmp_path, name):
    (tmp_path / name).write_text("group\n")
    with pytest.raises(SurveyError, match=r"expected a file ending in \.csv, \.jsonl, \.parquet"):
        read_frame(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_file_or_a_folder_is_an_error(tmp_path, suffix):
    with pytest.raises(SurveyError, match="does not exist"):
        read_frame(str(tmp_path / f"none{suffix}"))
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(SurveyError, match="does not exist"):
        read_frame(str(tmp_path / f"folder{suffix}"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b""),
        ("x.csv", b'a,b\n1,2\n"3,4\n'),
        ("x.csv", b"a\n\xff\xfe\n"),
        ("x.jsonl", b'{"a": 1}\n{"a": \n'),
        ("x.parquet", b"not parquet"),
        ("x.parquet", b""),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SurveyError, match=rf"{name} cannot be read as (CSV|JSON|Parquet)"):
        read_frame(str(tmp_path / name))


def test_a_missing_column_is_an_error_that_lists_what_is_there():
    with pytest.raises(SurveyError, match=r"x\.csv has no column 'b'.*a, b; found a, c"):
        require_columns(pd.DataFrame(columns=["a", "c"]), ("a", "b"), "x.csv")
