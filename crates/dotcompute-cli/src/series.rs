//! Reads recorded series: CSV files with the columns `timestamp` and `value`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::hint::Hint;
use crate::time::{self, Timestamp};

/// Maximum step back of the clock within a series, in microseconds: the hour at the end of summer time.
const MAX_CLOCK_SETBACK: i64 = 3_600_000_000;

/// A recorded series, in the order of its timestamps.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The source file.
    pub path: PathBuf,
    /// Time of each value: ascending, except for repeats and clocks set back by up to an hour.
    pub timestamps: Vec<Timestamp>,
    /// The values, all finite, one per timestamp.
    pub values: Vec<f64>,
    latest: Option<Timestamp>,
}

/// The reason why a file is not a series.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The file cannot be opened or read.
    #[error("reading the series {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The path names a directory.
    #[error("reading the series {}: it is not a file", .path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The file has no header, or no record below the header.
    #[error("reading the series {}: it is empty", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The first line does not name the columns.
    #[error("{}:1: the header is `{found}`", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The header in the file.
        found: String,
    },
    /// A record is invalid.
    #[error("{}:{line}: {problem}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line on which the record starts; the header is on line 1.
        line: u64,
        /// What is wrong with the record.
        problem: RecordProblem,
    },
}

impl Hint for SeriesError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { .. } => "check that the file exists and is readable",
            Self::NotAFile { .. } => "name the CSV file itself",
            Self::Empty { .. } => "the file needs the header `timestamp,value` and at least one record",
            Self::Header { .. } => "the first line must be `timestamp,value`",
            Self::Record { problem, .. } => return problem.hint(),
        };
        Some(hint.to_owned())
    }
}

/// The reason why a record is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// The record does not have two fields.
    #[error("{0} fields where `timestamp,value` has 2")]
    FieldCount(u64),
    /// The record is not UTF-8.
    #[error("the record is not UTF-8")]
    NotUtf8,
    /// The timestamp has an unknown format.
    #[error("`{0}` is not a timestamp")]
    Timestamp(String),
    /// The timestamp lies more than an hour before the latest one above it.
    #[error("{found} comes before {previous} on an earlier line")]
    Unsorted {
        /// The timestamp of this record.
        found: Timestamp,
        /// The latest timestamp above it.
        previous: Timestamp,
    },
    /// The value is not a number.
    #[error("the value `{0}` is not a number")]
    NotANumber(String),
    /// The value is an infinity or NaN.
    #[error("the value `{0}` is not finite")]
    NotFinite(String),
}

impl Hint for RecordProblem {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::FieldCount(_) | Self::NotANumber(_) => {
                "write each record as `timestamp,value`, with a decimal value"
            }
            Self::NotUtf8 => "save the file as UTF-8",
            Self::Timestamp(_) => {
                "write it as 2014-07-01 00:30:00, 2014-07-01T00:30:00 or seconds since 1970"
            }
            Self::Unsorted { .. } => "sort the file by time (a clock may go back by an hour at most)",
            Self::NotFinite(_) => "omit the record if nothing was measured",
        };
        Some(hint.to_owned())
    }
}

impl Series {
    /// Reads the CSV file at `path`.
    ///
    /// The first line must be `timestamp,value`, in any case and with blanks allowed. Equal timestamps are allowed, and so is a
    /// clock set back by up to an hour, as recordings in local time have at the end of summer time. Blank lines are skipped.
    /// The file is read as a stream; a record takes 16 bytes of memory.
    ///
    /// # Errors
    ///
    /// [`SeriesError`], which names the file and, for a record, the line.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("load.csv");
    /// std::fs::write(&path, "timestamp,value\n2014-07-01 00:00:00,10\n2014-07-01 00:30:00,12.5\n").unwrap();
    /// let series = dotcompute_cli::series::Series::read(&path).unwrap();
    /// assert_eq!(series.values, [10.0, 12.5]);
    /// ```
    pub fn read(path: &Path) -> Result<Self, SeriesError> {
        Self::read_through(path, |file| file)
    }

    /// As [`read`](Self::read), through the reader that `wrap` returns for the file, for example one that shows progress.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn read_through<R: Read>(path: &Path, wrap: impl FnOnce(File) -> R) -> Result<Self, SeriesError> {
        let io_error = |source| SeriesError::Io { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(io_error)?;
        if metadata.is_dir() {
            return Err(SeriesError::NotAFile { path: path.to_owned() });
        }
        Self::from_reader(path, wrap(File::open(path).map_err(io_error)?))
    }

    /// Reads CSV text. `path` only appears in errors.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn from_reader(path: &Path, text: impl Read) -> Result<Self, SeriesError> {
        // Check the header and the number of fields here instead of in `csv`, so that errors say what is expected.
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text);
        let mut series =
            Self { path: path.to_owned(), timestamps: Vec::new(), values: Vec::new(), latest: None };
        let mut record = csv::ByteRecord::new();
        if !series.next(&mut reader, &mut record)? {
            return Err(SeriesError::Empty { path: series.path });
        }
        series.check_header(&record)?;
        while series.next(&mut reader, &mut record)? {
            let line = record.position().map_or(0, csv::Position::line);
            series.push(&record).map_err(|problem| SeriesError::Record {
                path: path.to_owned(),
                line,
                problem,
            })?;
        }
        if series.values.is_empty() {
            return Err(SeriesError::Empty { path: series.path });
        }
        Ok(series)
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the series has no records. A series read from a file has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn next<R: Read>(
        &self,
        reader: &mut csv::Reader<R>,
        record: &mut csv::ByteRecord,
    ) -> Result<bool, SeriesError> {
        reader
            .read_byte_record(record)
            .map_err(|error| SeriesError::Io { path: self.path.clone(), source: error.into() })
    }

    fn check_header(&self, record: &csv::ByteRecord) -> Result<(), SeriesError> {
        const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
        let first = record.get(0).unwrap_or_default();
        let first = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(first);
        let named = |field: &[u8], name: &str| field.eq_ignore_ascii_case(name.as_bytes());
        if record.len() == 2 && named(first, "timestamp") && named(&record[1], "value") {
            return Ok(());
        }
        let found: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
        Err(SeriesError::Header { path: self.path.clone(), found: abridge(&found.join(",")) })
    }

    fn push(&mut self, record: &csv::ByteRecord) -> Result<(), RecordProblem> {
        if record.len() != 2 {
            return Err(RecordProblem::FieldCount(record.len() as u64));
        }
        let timestamp = std::str::from_utf8(&record[0]).map_err(|_| RecordProblem::NotUtf8)?;
        let value = std::str::from_utf8(&record[1]).map_err(|_| RecordProblem::NotUtf8)?;
        let found = time::parse(timestamp).ok_or_else(|| RecordProblem::Timestamp(abridge(timestamp)))?;
        let previous = self.latest.unwrap_or(found);
        if previous.as_microseconds() - found.as_microseconds() > MAX_CLOCK_SETBACK {
            return Err(RecordProblem::Unsorted { found, previous });
        }
        let number: f64 = value.parse().map_err(|_| RecordProblem::NotANumber(abridge(value)))?;
        if !number.is_finite() {
            return Err(RecordProblem::NotFinite(abridge(value)));
        }
        self.latest = Some(previous.max(found));
        self.timestamps.push(found);
        self.values.push(number);
        Ok(())
    }
}

/// Shortens a field for an error, which must stay readable if the file is one line of a gigabyte.
fn abridge(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Series, SeriesError> {
        Series::from_reader(Path::new("load.csv"), text.as_ref())
    }

    fn message(text: impl AsRef<[u8]>) -> String {
        read(text).expect_err("the text is bad").to_string()
    }

    #[test]
    fn reads_every_form_of_timestamp() {
        for stamp in
            ["2014-07-01 00:30:00", "2014-07-01T00:30:00.000000", "1404174600", "2014-07-01T00:30:00Z"]
        {
            let series = read(format!("timestamp,value\n{stamp},1\n")).expect("a good series");
            assert_eq!(series.timestamps[0].to_string(), "2014-07-01 00:30:00", "{stamp}");
        }
    }

    #[test]
    fn accepts_equal_timestamps_a_byte_order_mark_and_blank_lines() {
        let series = read("\u{feff}Timestamp, value\r\n1,1\r\n\r\n1,2\r\n").expect("a good series");
        assert_eq!(series.values, [1.0, 2.0]);
    }

    #[test]
    fn accepts_a_clock_set_back_by_an_hour_but_no_accumulated_steps_back() {
        assert!(read("timestamp,value\n3700,1\n100,1\n3700,1\n").is_ok());
        let creeping = message("timestamp,value\n7200,1\n3700,1\n3500,1\n");
        assert!(creeping.starts_with("load.csv:4: "), "{creeping}");
    }

    #[test]
    fn reports_an_empty_file() {
        assert!(matches!(read(""), Err(SeriesError::Empty { .. })));
        assert!(matches!(read("timestamp,value\n"), Err(SeriesError::Empty { .. })));
    }

    #[test]
    fn errors_name_file_line_and_problem() {
        let cases = [
            ("time,value\n1,1\n", "load.csv:1: the header is `time,value`"),
            ("timestamp\n1\n", "load.csv:1: the header is `timestamp`"),
            ("timestamp,value\n1,1\n2\n", "load.csv:3: 1 fields"),
            ("timestamp,value\n1,1,1\n", "load.csv:2: 3 fields"),
            ("timestamp,value\n1,1\n2,x\n", "load.csv:3: the value `x` is not a number"),
            ("timestamp,value\n1,\n", "load.csv:2: the value `` is not a number"),
            ("timestamp,value\n1,NaN\n", "load.csv:2: the value `NaN` is not finite"),
            ("timestamp,value\n1,-inf\n", "load.csv:2: the value `-inf` is not finite"),
            ("timestamp,value\n1,1e999\n", "load.csv:2: the value `1e999` is not finite"),
            ("timestamp,value\nyesterday,1\n", "load.csv:2: `yesterday` is not a timestamp"),
            (
                "timestamp,value\n2014-02-30 00:00:00,1\n",
                "load.csv:2: `2014-02-30 00:00:00` is not a timestamp",
            ),
            (
                "timestamp,value\n3700,1\n99,1\n",
                "load.csv:3: 1970-01-01 00:01:39 comes before 1970-01-01 01:01:40",
            ),
        ];
        for (text, expected) in cases {
            let found = message(text);
            assert!(found.starts_with(expected), "{text:?}: {found}");
        }
    }

    #[test]
    fn rejects_records_that_are_not_utf8() {
        let found = message(b"timestamp,value\n1,1\n2,\xff\n");
        assert!(found.starts_with("load.csv:3: the record is not UTF-8"), "{found}");
    }

    #[test]
    fn abridges_a_very_long_field() {
        let found = message(format!("timestamp,value\n1,{}\n", "x".repeat(100_000)));
        assert!(found.len() < 300, "{} bytes", found.len());
    }

    #[test]
    fn rejects_directories_and_missing_files() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(Series::read(dir.path()), Err(SeriesError::NotAFile { .. })));
        let missing = Series::read(&dir.path().join("missing.csv"));
        assert!(matches!(missing, Err(SeriesError::Io { .. })));
    }
}
