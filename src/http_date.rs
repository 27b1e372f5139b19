//! Dates of HTTP headers, such as `Sun, 06 Nov 1994 08:49:37 GMT`, and the Gregorian calendar.
//!
//! [`parse`] also accepts the two obsolete forms. [`format()`] writes the current one.
//!
//! Source: RFC 9110, section 5.6.7.

#[cfg(feature = "server")]
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "server")]
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Days from 0000-03-01 to 1970-01-01.
///
/// The arithmetic takes a year to begin in March, so that the leap day is its last day.
const EPOCH: i64 = 719_468;

/// Parses a date and returns the seconds since the epoch. `None` if the text is not a date.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let parts: Vec<_> = text.split_ascii_whitespace().collect();
    let (day, month, year, clock) = match parts[..] {
        [_, day, month, year, clock, "GMT"] => (number(day, 2)?, month, number(year, 4)?, clock),
        [_, date, clock, "GMT"] => {
            let (day, rest) = date.split_once('-')?;
            let (month, year) = rest.split_once('-')?;
            // POSIX reads two digits as a year from 1969 to 2068.
            let year = number(year, 2)?;
            (number(day, 2)?, month, year + if year < 69 { 2000 } else { 1900 }, clock)
        }
        [_, month, day, clock, year] => {
            (number(day, day.len().min(2))?, month, number(year, 4)?, clock)
        }
        _ => return None,
    };
    let month = (1..).zip(MONTHS).find_map(|(number, name)| (name == month).then_some(number))?;
    let mut clock = clock.split(':').map(|part| number(part, 2));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if !(1..=31).contains(&day) {
        return None;
    }
    Some(((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| fits)
}

/// Counts the days from the epoch to a date.
pub(crate) fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1 - EPOCH
}

/// Writes a time as `Sun, 06 Nov 1994 08:49:37 GMT`. A time before the epoch is written as the
/// epoch.
#[cfg(feature = "server")]
pub(crate) fn format(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days.cast_signed());
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month],
        second / 3_600,
        second / 60 % 60,
        second % 60,
    )
}

/// Returns the year, the month from zero and the day from one of a day counted from the epoch.
pub(crate) fn date(days: i64) -> (i64, usize, u64) {
    /// All eras of 400 years have the same number of days.
    const ERA: i64 = 146_097;
    let days = days + EPOCH;
    let (era, day_of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA).unsigned_abs());
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + (year_of_era + u64::from(month < 2)).cast_signed();
    (year, month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_parsed_in_three_forms() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Sun Nov  6 08:49:37 1994"), Some(784_111_777));
        assert_eq!(parse("Wed, 01-Jan-68 00:00:00 GMT"), Some(3_092_601_600));
        assert_eq!(parse("Wed Nov 16 08:49:37 1994"), Some(784_975_777));
    }

    #[test]
    fn other_text_is_not_a_date() {
        for text in [
            "",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 anF 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov 08:49:37 GMT",
            "Sun Nov 006 08:49:37 1994",
            "Sun Nov  6 08:49:37 94",
            "Sun, 06 Nov 1994 24:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn days_count_leap_years() {
        for ((year, month, day), expected) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days_since_epoch(year, month, day), expected);
            let (year, month, day) = (year, month as usize - 1, day as u64);
            assert_eq!(date(expected), (year, month, day));
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn written_dates_are_imf_fixdates() {
        let at = |seconds| format(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(951_868_800), "Wed, 01 Mar 2000 00:00:00 GMT");
        assert_eq!(at(1_735_689_599), "Tue, 31 Dec 2024 23:59:59 GMT");
        assert_eq!(at(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    }
}
