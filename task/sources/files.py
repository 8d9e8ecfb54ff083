"""Reading a table: a local file whatever its format, or a data set of the hub."""

import math
from pathlib import Path

import pandas as pd

from task.clients import user_client
from task.errors import SurveyError

READERS = {".csv": "CSV", ".jsonl": "JSON Lines", ".parquet": "Parquet"}


def read_frame(path: str) -> pd.DataFrame:
    """Read a CSV, JSON Lines or Parquet file.

    Text such as "None" or "NA" stays text: both occur as answer options and country codes.

    Raises:
        SurveyError: the file is missing, of another kind, or cannot be parsed.
    """
    file = Path(path)
    if file.suffix not in READERS:
        raise SurveyError(
            f"{file}: expected a file ending in {', '.join(READERS)}, got {file.suffix!r}."
        )
    if not file.is_file():
        raise SurveyError(f"{file} does not exist. Give the survey's file in data.path.")
    try:
        if file.suffix == ".csv":
            return pd.read_csv(file, keep_default_na=False, dtype=str)
        if file.suffix == ".jsonl":
            return pd.read_json(file, lines=True, convert_dates=False, dtype=False)
        return pd.read_parquet(file)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise SurveyError(f"{file} cannot be read as {READERS[file.suffix]}: {error}") from error


def read_dataset(path: str) -> pd.DataFrame:
    """Read a file as `read_frame` does, or a data set: a local folder, or an id of the hub.

    Of a data set it is the split `train`, or the only one.

    Raises:
        SurveyError: it cannot be read, or it is not clear which split is meant.
    """
    if Path(path).suffix in READERS:
        return read_frame(path)
    from datasets import load_dataset  # slow to import, and only needed here

    try:
        splits = load_dataset(path)
    except Exception as error:  # hub, network and cache failures share no base class
        raise SurveyError(
            f"data.path = {path!r} cannot be loaded as a data set ({one_line(error)}). Expected a "
            f"file ending in {', '.join(READERS)}, a folder of such files, or a data set's id on "
            "the Hugging Face hub; without network access, a local copy."
        ) from error
    if "train" not in splits and len(splits) > 1:
        raise SurveyError(
            f"data.path = {path!r} has the splits {', '.join(map(str, splits))}: expected 'train', "
            "or a single one. Save the one that is meant as a file."
        )
    chosen = "train" if "train" in splits else next(iter(splits))
    frame: pd.DataFrame = splits[chosen].to_pandas()
    return frame


def one_line(error: Exception, length: int = 200) -> str:
    """Return what an error says, in a line of limited length."""
    text = " ".join(str(error).split())
    return text if len(text) <= length else text[:length] + "..."


def texts(frame: pd.DataFrame, column: str, where: str) -> list[str]:
    """Return a column's values as stripped texts.

    Raises:
        SurveyError: one is missing or empty; its row is named.
    """
    missing = frame[column].isna().to_numpy()
    stripped: list[str] = frame[column].astype(str).str.strip().tolist()
    for row, (text, is_missing) in enumerate(zip(stripped, missing, strict=True), start=1):
        if is_missing or not text:
            raise SurveyError(
                f"{where}, data row {row}: column `{column}` is empty. Expected a text."
            )
    return stripped


def numbers(frame: pd.DataFrame, column: str, where: str, *, positive: bool) -> list[float]:
    """Return a column's values as finite numbers.

    Args:
        frame: the table.
        column: one of its columns.
        where: what errors call the table.
        positive: whether they must be above 0.

    Raises:
        SurveyError: one is not such a number; its row is named.
    """
    values: list[float] = pd.to_numeric(frame[column], errors="coerce").astype(float).tolist()
    for row, value in enumerate(values, start=1):
        if not math.isfinite(value) or (positive and value <= 0):
            above = " above 0" if positive else ""
            raise SurveyError(
                f"{where}, data row {row}: {column} = {frame[column].iloc[row - 1]!r}. Expected a "
                f"finite number{above}."
            )
    return values


def client_names(frame: pd.DataFrame, where: str, *, by_user: bool) -> list[str]:
    """Return the client of each row: its group, or its user (`task.clients`).

    Raises:
        SurveyError: a column is missing, or a value of it.
    """
    groups = texts(frame, "group", where)
    if not by_user:
        return groups
    require_columns(frame, ("group", "user"), f"data.clients = 'users': {where}")
    return list(map(user_client, groups, texts(frame, "user", where)))


def require_columns(frame: pd.DataFrame, columns: tuple[str, ...], where: str) -> None:
    """Raise a `SurveyError` unless the frame has all the columns."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise SurveyError(
            f"{where} has no column {missing[0]!r}. Expected the columns {', '.join(columns)}; "
            f"found {', '.join(map(str, frame.columns))}."
        )
