//! A moment as the log writes it: RFC 3339, UTC, milliseconds, 24 characters.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{Date, Month, OffsetDateTime};

/// Milliseconds since 1970-01-01T00:00:00.000Z; years 0001 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Reads exactly `YYYY-MM-DDTHH:MM:SS.mmmZ`, a real date; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 24 {
            return None;
        }
        for (at, wanted) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')] {
            if bytes[at] != wanted {
                return None;
            }
        }
        let number = |from: usize, to: usize| -> Option<i64> {
            bytes[from..to]
                .iter()
                .try_fold(0_i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let milli = number(20, 23)?;
        if year < 1 || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
        let days = i64::from(date.to_julian_day()) - UNIX_EPOCH_JULIAN_DAY;
        Some(Self(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + milli))
    }

    /// The moment so many milliseconds after the epoch, held within years 0001 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(FIRST_MILLIS, LAST_MILLIS))
    }

    /// Milliseconds since the epoch.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// Seconds from `earlier` to this moment; 0 when the clock stepped back.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        millis_to_seconds(self.millis_since(earlier))
    }

    /// Milliseconds from `earlier` to this moment; 0 when the clock stepped back.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

/// Whole milliseconds as seconds; exact to the nearest f64.
#[expect(clippy::cast_precision_loss, reason = "spans of up to 10,000 years are below 2^53 milliseconds")]
pub fn millis_to_seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

const UNIX_EPOCH_JULIAN_DAY: i64 = 2_440_588;
/// 0001-01-01T00:00:00.000Z.
const FIRST_MILLIS: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z.
const LAST_MILLIS: i64 = 253_402_300_799_999;

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000)).map_err(|_| fmt::Error)?;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            self.0.rem_euclid(1000)
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a ts"))
    }
}
