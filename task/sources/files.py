"""Reading a local table, whatever its format."""

from pathlib import Path

import pandas as pd

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


def require_columns(frame: pd.DataFrame, columns: tuple[str, ...], where: str) -> None:
    """Raise a `SurveyError` unless the frame has all the columns."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise SurveyError(
            f"{where} has no column {missing[0]!r}. Expected the columns {', '.join(columns)}; "
            f"found {', '.join(map(str, frame.columns))}."
        )
