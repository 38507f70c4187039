//! Timestamps of recorded series: microseconds since 1970 on the recorder's clock, without a time zone.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

const MICROSECONDS: f64 = 1e6;

/// A time, in microseconds since 1970-01-01 00:00:00 on the recorder's clock.
///
/// `Display` writes `2014-07-01 00:30:00`, with a fraction only if it is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates the time `microseconds` after 1970-01-01 00:00:00.
    #[must_use]
    pub const fn from_microseconds(microseconds: i64) -> Self {
        Self(microseconds)
    }

    /// Returns the microseconds since 1970-01-01 00:00:00.
    #[must_use]
    pub const fn as_microseconds(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => {
                let text = TimeZone::UTC.to_datetime(moment).to_string();
                formatter.write_str(&text.replacen('T', " ", 1))
            }
            Err(_) => write!(formatter, "{} µs", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parses `2014-07-01 00:30:00[.ffffff]`, the same with a `T`, with or without an offset from UTC, or seconds since
/// 1970 with an optional fraction. Returns `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let is_date = text.get(1..).is_some_and(|rest| rest.contains('-')) && text.contains(':');
    if is_date {
        return parse_date(text).map(Timestamp);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return representable(seconds.checked_mul(1_000_000)?);
    }
    let seconds: f64 = text.parse().ok()?;
    // The cast below saturates; a saturated value is outside the calendar's range and thus rejected.
    let microseconds = (seconds * MICROSECONDS).round();
    if microseconds.is_nan() { None } else { representable(microseconds as i64) }
}

fn parse_date(text: &str) -> Option<i64> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(moment.as_microsecond());
    }
    let moment: DateTime = text.parse().ok()?;
    Some(TimeZone::UTC.to_timestamp(moment).ok()?.as_microsecond())
}

fn representable(microseconds: i64) -> Option<Timestamp> {
    jiff::Timestamp::from_microsecond(microseconds).ok().map(|_| Timestamp(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_what_it_parsed() {
        for text in ["2014-07-01 00:30:00", "2014-07-01 00:30:00.25", "1969-12-31 23:59:59"] {
            assert_eq!(parse(text).expect("a timestamp").to_string(), text);
        }
    }

    #[test]
    fn reads_seconds_and_offsets() {
        assert_eq!(parse("1.5").map(Timestamp::as_microseconds), Some(1_500_000));
        assert_eq!(parse("-2").map(Timestamp::as_microseconds), Some(-2_000_000));
        assert_eq!(parse("1970-01-01T01:00:00+01:00").map(Timestamp::as_microseconds), Some(0));
    }

    #[test]
    fn rejects_invalid_text() {
        for text in ["", "-", "NaN", "inf", "1e300", "2014-13-01 00:00:00", "2014-07-01", "12:30:00", "é-:"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
