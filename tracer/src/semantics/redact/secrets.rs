//! Credentials in text, by their shape, by what they are called, and by where they stand.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::REDACTED;

/// Tokens whose issuers gave them a recognisable shape. What follows a prefix is taken as far as
/// it goes: a token that was cut off is still one.
const TOKENS: &str = r"(?x)
    -----BEGIN\ [A-Z0-9\ ]*PRIVATE\ KEY(?:\ BLOCK)?-----.*?(?:-----END\ [A-Z0-9\ ]*PRIVATE\ KEY(?:\ BLOCK)?-----|$)
  | \b(?: sk-[A-Za-z0-9_-]{6,}                              # Anthropic, OpenAI and others
    | (?:sk|pk|rk|whsec)_(?:live|test)?_?[A-Za-z0-9]{10,}   # Stripe
    | gh[pousr]_[A-Za-z0-9]{10,} | github_pat_[A-Za-z0-9_]{10,}
    | gl(?:pat|dt|rt|ptt|cbt|oas)-[A-Za-z0-9_-]{10,}
    | xox[a-z]-[A-Za-z0-9-]{6,} | xapp-[A-Za-z0-9-]{6,}     # Slack
    | (?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{12,}        # AWS
    | AIza[0-9A-Za-z_-]{20,} | ya29\.[0-9A-Za-z_-]{10,} | GOCSPX-[0-9A-Za-z_-]{10,}
    | npm_[A-Za-z0-9]{20,} | pypi-[A-Za-z0-9_-]{16,} | hf_[A-Za-z0-9]{16,}
    | SG\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,} | do[opr]_v1_[a-f0-9]{20,}
    | hv[sbr]\.[A-Za-z0-9_-]{16,} | dapi[0-9a-f]{24,} | lin_api_[A-Za-z0-9]{16,}
    | ATATT3[A-Za-z0-9_=-]{10,} | dckr_pat_[A-Za-z0-9_-]{10,} | dp\.[a-z]{2,5}\.[A-Za-z0-9]{20,}
    | gsk_[A-Za-z0-9]{16,} | xai-[A-Za-z0-9]{16,} | r8_[A-Za-z0-9]{16,} | pplx-[A-Za-z0-9]{16,}
    | (?:SK|AC)[0-9a-f]{32} | [0-9]{8,10}:AA[A-Za-z0-9_-]{30,}
    | shp(?:at|ca|pa|ss)_[a-fA-F0-9]{20,} | sq0[a-z]{3}-[A-Za-z0-9_-]{16,} | ntn_[A-Za-z0-9]{20,}
    | AGE-SECRET-KEY-1[A-Z0-9]{20,}
    | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?   # JSON web tokens
    )
  | hooks\.slack\.com/services/[A-Za-z0-9/_-]+
  | discord(?:app)?\.com/api/webhooks/[0-9]+/[A-Za-z0-9_-]+
";

/// `scheme://user:password@host`, also without the password: tokens are given as users. A mail
/// address has no scheme.
const USERINFO: &str = r"(?i)\b(?P<scheme>[a-z][a-z0-9+.-]{1,20}://)[^\s/?#@'\x22<>]+@";

/// Schemes of the `Authorization` header, wherever they are mentioned with something like a
/// credential behind them.
const SCHEMES: &str = r"(?ix)\b(?P<scheme>bearer|basic)(?P<gap>\ +)(?P<secret>[a-z0-9+/=._~-]{8,})";

/// A name and the sign behind it: JSON, headers, query strings, command lines, environments.
const PAIRS: &str = r#"(?x)
    (?P<key> \\?["']{0,2} [A-Za-z][A-Za-z0-9_.\[\]-]{0,80} \\?["']{0,2} )
    \ {0,4} (?: => | := | [:=] ) \ {0,4}
"#;

/// A long option and the gap to its value.
const FLAGS: &str = r"(?P<key>--[A-Za-z][A-Za-z0-9_-]{0,60}|\B-u)\ {1,4}";

/// Names end in one of these, and are then names of credentials.
const NAMES: &str = r"(?ix)(?:
    (?: api | access | secret | private | signing | encryption | master | account | shared | ssh | auth
      | session | storage | service | webhook | deploy ) [_.-]? key (?: [_.-]? (?: id | value ) )?
  | apikey | secrets? | password | passwd | passphrase | mnemonic | seed[_-]?phrase | passwort | passcode
  | credentials? | token | authorization | cookies? | signature | x-amz-credential | bearer
  | connection[_-]?string | webhook[_-]?url
  | (?: ^ | [^a-z] ) (?: pass | pwd | auth | jwt | sig | sessid | sid | csrf | xsrf | otp | pin | dsn | pat )
)$";

struct Patterns {
    tokens: Regex,
    userinfo: Regex,
    schemes: Regex,
    pairs: Regex,
    flags: Regex,
    names: Regex,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    // Constant patterns: a test compiles them.
    Some(Patterns {
        tokens: Regex::new(TOKENS).ok()?,
        userinfo: Regex::new(USERINFO).ok()?,
        schemes: Regex::new(SCHEMES).ok()?,
        pairs: Regex::new(PAIRS).ok()?,
        flags: Regex::new(FLAGS).ok()?,
        names: Regex::new(NAMES).ok()?,
    })
});

/// Shorter texts hold nothing worth hiding.
const SHORTEST: usize = 4;

/// `text` with every credential replaced.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    if text.len() < SHORTEST {
        return Cow::Borrowed(text);
    }
    let Some(patterns) = PATTERNS.as_ref() else { return Cow::Borrowed(REDACTED) };
    let mut out = Cow::Borrowed(text);
    if text.contains("://") {
        replace(&mut out, &patterns.userinfo, |found| format!("{}{REDACTED}@", &found["scheme"]));
    }
    replace(&mut out, &patterns.tokens, |_| REDACTED.to_owned());
    headers(&mut out);
    if text.contains([':', '=', ' ']) {
        replace(&mut out, &patterns.schemes, scheme);
    }
    if text.contains([':', '=']) {
        values(&mut out, &patterns.pairs, |before, key, value| {
            // `key` alone is what maps have; in a query string it is how one pays.
            let name = unquoted(key);
            let in_query = name.eq_ignore_ascii_case("key") && before.ends_with(['?', '&']);
            in_query || is_name(patterns, name) || is_random(value)
        });
    }
    if text.contains(" -") || text.starts_with('-') {
        values(&mut out, &patterns.flags, |_, key, value| match key {
            "-u" | "--user" => value.contains(':'),
            _ => is_name(patterns, key.trim_start_matches('-')) && !value.starts_with('-'),
        });
    }
    out
}

fn replace(text: &mut Cow<'_, str>, pattern: &Regex, with: impl Fn(&Captures<'_>) -> String) {
    if let Cow::Owned(changed) = pattern.replace_all(text, |found: &Captures<'_>| with(found))
        && changed != **text
    {
        *text = Cow::Owned(changed);
    }
}

/// `Authorization: anything`, `Cookie: a=b; c=d`: the whole rest of the header. In a structured
/// text the value is quoted and ends there; that is left to the pairs.
fn headers(text: &mut Cow<'_, str>) {
    const HEADERS: [&str; 5] =
        ["authorization", "cookie", "x-api-key", "set-cookie", "x-auth-token"];
    let lower = text.to_ascii_lowercase();
    let found = HEADERS.iter().filter_map(|header| {
        let mut from = 0;
        while let Some(at) = lower[from..].find(header).map(|at| from + at + header.len()) {
            from = at;
            let after = lower[at..].trim_start_matches(' ');
            if let Some(value) = after.strip_prefix([':', '=']).map(|v| v.trim_start_matches(' '))
                && !value.is_empty()
                && !["\"", "'", "\\\""].iter().any(|quote| value.starts_with(quote))
                && !is_placeholder(
                    text[lower.len() - value.len()..].split(' ').next().unwrap_or_default(),
                )
            {
                return Some(lower.len() - value.len());
            }
        }
        None
    });
    if let Some(at) = found.min() {
        let hidden = format!("{}{REDACTED}", &text[..at]);
        if hidden != **text {
            *text = Cow::Owned(hidden);
        }
    }
}

/// `basic authentication` is not a credential, `basic dXNlcjpwYXNz` is.
fn scheme(found: &Captures<'_>) -> String {
    let secret = &found["secret"];
    let prose = secret.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'.');
    if prose {
        return found[0].to_owned();
    }
    format!("{}{}{REDACTED}", &found["scheme"], &found["gap"])
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(['"', '\'', '\\'])
}

/// Replaces the values that follow where `pattern` matches, if `hide` says so of what stands
/// before, the key, and the value. The text of a value that stays is looked at again: it may
/// hold pairs itself.
fn values(text: &mut Cow<'_, str>, pattern: &Regex, hide: impl Fn(&str, &str, &str) -> bool) {
    let mut out: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = pattern.captures_at(text, at) {
        let (Some(whole), Some(key)) = (found.get(0), found.name("key")) else { break };
        at = whole.end();
        let Value { quote, value, end } = Value::at(text, at, key.as_str());
        let stays = value.is_empty()
            || value.starts_with(REDACTED)
            || is_placeholder(value)
            || !hide(&text[..whole.start()], key.as_str(), value);
        if stays {
            continue;
        }
        let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
        out.push_str(&text[copied..at]);
        // The quotes stay, so that a structured text stays one.
        out.push_str(quote);
        out.push_str(REDACTED);
        copied = end;
        at = end;
    }
    if let Some(mut out) = out {
        out.push_str(&text[copied..]);
        *text = Cow::Owned(out);
    }
}

/// What is assigned to a name.
struct Value<'a> {
    quote: &'a str,
    value: &'a str,
    /// Where it ends, before the closing quote.
    end: usize,
}

impl<'a> Value<'a> {
    fn at(text: &'a str, from: usize, key: &str) -> Self {
        let rest = &text[from..];
        // SQL doubles the quotes in a string.
        let opens = |quote: &&str| {
            let word =
                |rest: &str| rest.starts_with(|c: char| !",;:)}]\"'".contains(c) && c != ' ');
            rest.strip_prefix(*quote).is_some_and(|rest| quote.len() == 1 || word(rest))
        };
        let quote = ["\\\"", "\"\"", "''", "\"", "'", "`"].iter().find(|quote| opens(quote));
        let quote = quote.map_or("", |quote| &rest[..quote.len()]);
        let body = &rest[quote.len()..];
        let phrase = ["phrase", "mnemonic"].iter().any(|word| {
            let name = unquoted(key);
            name.len() >= word.len()
                && name.is_char_boundary(name.len() - word.len())
                && name[name.len() - word.len()..].eq_ignore_ascii_case(word)
        });
        let len = match quote {
            // Words follow.
            "" if phrase => body.len(),
            // A value may hold any other sign.
            "" => body.find(|c: char| c.is_whitespace() || c == '&').unwrap_or(body.len()),
            _ if quote.len() == 2 => body.find(quote).unwrap_or(body.len()),
            _ => closing(body, quote),
        };
        Self { quote, value: &body[..len], end: from + quote.len() + len }
    }
}

/// Where an unescaped `quote` stands; the end of the text without one.
fn closing(body: &str, quote: &str) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if quote.starts_with(c) => return at,
            _ => {}
        }
    }
    body.len()
}

/// What stands for a bound value, or for none.
fn is_placeholder(value: &str) -> bool {
    let rest = value.trim_end_matches([')', ',', ';', '}', ']']);
    let bound = rest.strip_prefix(['?', '$', ':', '@']);
    let is_word = |text: &str| {
        text.len() <= 32
            && text.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    bound.is_some_and(|name| {
        name.is_empty()
            || rest.starts_with('?') && name.bytes().all(|b| b.is_ascii_digit())
            || rest.starts_with([':', '@']) && is_word(name)
    }) || rest == "…"
        || rest.bytes().all(|b| b == b'*')
        || ["null", "none", "nil", "true", "false", "some"]
            .iter()
            .any(|word| rest.eq_ignore_ascii_case(word))
}

fn is_name(patterns: &Patterns, name: &str) -> bool {
    name.len() >= 3 && patterns.names.is_match(name)
}

/// Whether the value that belongs to this key is a credential, whatever it looks like.
pub(super) fn is_secret_key(key: &str) -> bool {
    PATTERNS.as_ref().is_none_or(|patterns| is_name(patterns, key))
}

/// Whether a value was made by a random generator and is long enough to be a key: all kinds of
/// characters, and hardly any of them twice. Ids that are hexadecimal are not meant.
fn is_random(value: &str) -> bool {
    const SHORTEST: usize = 24;
    const BITS: f64 = 3.7;
    const LONGEST: usize = 512;
    let end = value.find(|c: char| !c.is_ascii_graphic() || "\"',;&<>(){}".contains(c));
    let value = value[..end.unwrap_or(value.len())].trim_end_matches('=');
    if !(SHORTEST..=LONGEST).contains(&value.len()) {
        return false;
    }
    let kind = |test: fn(&u8) -> bool| value.bytes().filter(test).count();
    let (upper, lower) = (kind(u8::is_ascii_uppercase), kind(u8::is_ascii_lowercase));
    let digits = kind(u8::is_ascii_digit);
    let others = value.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"+/_-".contains(&b));
    if others || upper < 3 || lower < 3 || digits < 3 {
        return false;
    }
    let mut counts = [0_u32; 128];
    for byte in value.bytes() {
        counts[usize::from(byte & 127)] += 1;
    }
    let len = value.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|&&n| n != 0)
        .map(|&n| f64::from(n) / len)
        .map(|p| -p * p.log2())
        .sum();
    entropy >= BITS
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_patterns_are_valid() {
        for pattern in [super::TOKENS, super::USERINFO, super::SCHEMES, super::PAIRS, super::NAMES]
        {
            regex::Regex::new(pattern).unwrap();
        }
    }
}
