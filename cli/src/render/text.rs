//! Text that is safe to print and fits: sanitising, widths, numbers, times.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar;

/// `text` without anything that could steer a terminal or disguise what is printed: control
/// characters, bidirectional overrides, invisible characters. All text of the target goes
/// through here.
pub fn sanitise(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unsafe(c) || is_selector(c)) {
        return Cow::Borrowed(text);
    }
    let clean = text.chars().filter(|c| !is_selector(*c)).map(|c| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_unsafe(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    Cow::Owned(clean.collect())
}

/// Characters that must not reach a terminal as they are.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Variation selectors: terminals disagree on their effect on width.
fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}')
}

/// Columns that `text` takes on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// `text` in at most `columns` columns, with `…` where something is left out.
pub fn truncate(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    if columns == 0 {
        return Cow::Borrowed("");
    }
    let mut used = 0;
    let mut out = String::new();
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > columns - 1 {
            break;
        }
        used += w;
        out.push(c);
    }
    out.push('…');
    Cow::Owned(out)
}

/// A length of time in at most 7 columns, three digits: `870 ns`, `12.3 ms`, `1.24 s`, `2m 03s`.
pub fn duration(ns: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let value = ns as f64 / unit as f64;
        match value {
            v if v < 9.995 => format!("{v:.2} {name}"),
            v if v < 99.95 => format!("{v:.1} {name}"),
            v => format!("{v:.0} {name}"),
        }
    };
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..999_500 => scaled(1_000, "µs"),
        999_500..999_500_000 => scaled(1_000_000, "ms"),
        999_500_000..59_950_000_000 => scaled(1_000_000_000, "s"),
        _ => {
            let s = (ns + 500_000_000) / 1_000_000_000;
            match s {
                0..3_600 => format!("{}m {:02}s", s / 60, s % 60),
                3_600..360_000 => format!("{}h {:02}m", s / 3_600, s % 3_600 / 60),
                _ => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3_600),
            }
        }
    }
}

/// A number with thousands set apart: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 span`, `2 spans`.
pub fn counted(n: u64, thing: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(n))
}

/// The time of day in UTC: `12:03:04.123Z`.
pub fn time_of_day(unix_ns: u64) -> String {
    let ms = unix_ns / 1_000_000;
    let s = ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}Z", s / 3_600, s % 3_600 / 60, s % 60, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(sanitise("plain – text"), "plain – text");
        assert_eq!(sanitise("a\x1b[31mb\u{9b}c"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(sanitise("file\u{202e}txt.exe"), "file\u{fffd}txt.exe");
        assert_eq!(sanitise("two\nlines\tand\u{200b}more"), "two lines and\u{fffd}more");
        assert_eq!(sanitise("☂\u{fe0f}"), "☂");
    }

    #[test]
    fn truncation_counts_columns() {
        assert_eq!(truncate("abc", 3), "abc");
        assert_eq!(truncate("abcd", 3), "ab…");
        assert_eq!(truncate("日本語", 5), "日本…");
        assert_eq!(truncate("日本語", 4), "日…");
        assert_eq!(truncate("日本語", 6), "日本語");
        assert_eq!(truncate("abc", 0), "");
        assert_eq!(truncate("abc", 1), "…");
        for columns in 0..9 {
            assert!(width(&truncate("a日b本c語", columns)) <= columns);
        }
    }

    #[test]
    fn durations_have_three_digits() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_500_000, "1.00 s"),
            (1_240_000_000, "1.24 s"),
            (59_940_000_000, "59.9 s"),
            (59_960_000_000, "1m 00s"),
            (123_400_000_000, "2m 03s"),
            (3_723_000_000_000, "1h 02m"),
            (400_000_000_000_000, "4d 15h"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
            assert!(width(text) <= 7);
        }
    }

    #[test]
    fn counts() {
        assert_eq!(count(0), "0");
        assert_eq!(count(123), "123");
        assert_eq!(count(1234), "1,234");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "span"), "1 span");
        assert_eq!(time_of_day(43_384_123_000_000), "12:03:04.123Z");
    }
}
