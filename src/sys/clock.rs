// SPDX-License-Identifier: Apache-2.0
//! Owns the text form of a point in time.
//!
//! Must not know time zones other than UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i128 = 86_400;

/// Days in 400 years of the Gregorian calendar.
const DAYS_OF_ERA: i128 = 146_097;

/// Writes a time as RFC 3339 in UTC with nanoseconds, e.g. `2026-11-23T17:20:30.123456789Z`.
pub fn rfc3339_utc(time: SystemTime) -> String {
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
    };
    let seconds = nanos.div_euclid(1_000_000_000);
    let fraction = nanos.rem_euclid(1_000_000_000);
    let (year, month, day) = date_of(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// The civil date of a day counted from 1970-01-01.
///
/// Years are counted from 1 March, so that the leap day is the last day of a year.
fn date_of(days_since_1970: i128) -> (i128, i128, i128) {
    let days = days_since_1970 + 719_468; // days since 0000-03-01
    let era = days.div_euclid(DAYS_OF_ERA);
    let day_of_era = days.rem_euclid(DAYS_OF_ERA);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i128::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000000Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000000000Z"),
            (1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z"),
            (1_795_454_430, 123_456_789, "2026-11-23T17:20:30.123456789Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339_utc(UNIX_EPOCH + Duration::new(seconds, nanos)), expected);
        }
        assert_eq!(rfc3339_utc(UNIX_EPOCH - Duration::new(0, 1)), "1969-12-31T23:59:59.999999999Z");
    }
}
