//! Dates of HTTP headers: `Sun, 06 Nov 1994 08:49:37 GMT`, and the two obsolete forms.
//!
//! Source: RFC 9110, section 5.6.7.

/// Reads a date as seconds since the epoch. `None` if it is none.
pub(crate) fn parse(text: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let parts: Vec<_> = text.split_ascii_whitespace().collect();
    let (day, month, year, clock) = match parts[..] {
        [_, day, month, year, clock, "GMT"] => (number(day, 2)?, month, number(year, 4)?, clock),
        [_, date, clock, "GMT"] => {
            let (day, rest) = date.split_once('-')?;
            let (month, year) = rest.split_once('-')?;
            // As POSIX has it: from 1969 to 2068.
            let year = number(year, 2)?;
            (number(day, 2)?, month, year + if year < 69 { 2000 } else { 1900 }, clock)
        }
        [_, month, day, clock, year] => {
            (number(day, day.len().min(2))?, month, number(year, 4)?, clock)
        }
        _ => return None,
    };
    let at = MONTHS.find(month).filter(|at| month.len() == 3 && at % 3 == 0)?;
    let mut clock = clock.split(':').map(|part| number(part, 2));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let month = i64::try_from(at / 3).ok()? + 1;
    if !(1..=31).contains(&day) {
        return None;
    }
    let days = crate::calendar::days(year, month, day);
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_anything_else_is_not() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Sun Nov  6 08:49:37 1994"), Some(784_111_777));
        assert_eq!(parse("Wed, 01-Jan-68 00:00:00 GMT"), Some(3_092_601_600));
        assert_eq!(parse("Wed Nov 16 08:49:37 1994"), Some(784_975_777));
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
}
