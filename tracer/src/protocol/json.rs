//! Picks a few values out of a JSON document that is never held in memory (RFC 8259).

/// Deepest nesting that is followed; as serde_json has it.
const MAX_DEPTH: usize = 128;
/// A string that is longer is not kept.
const MAX_STRING: usize = 256;
/// Keys that are longer are not looked for.
const MAX_KEY: usize = 48;
/// A number or literal that is longer is none that is looked for.
const MAX_WORD: usize = 40;

/// A value that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A string, escapes undone.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `null`.
    Null,
    /// Anything else: a fraction, a bool, a string that is too long.
    Other,
}

/// A path to a value: the keys of the objects around it.
pub type Path = &'static [&'static str];

/// Reads a document and keeps the values at some paths.
#[derive(Debug)]
pub struct Json {
    paths: &'static [Path],
    found: Vec<Found>,
    state: State,
    /// Whether each container around is an object.
    objects: Vec<bool>,
    /// The key under which each of the outermost containers, and the value in the innermost, is
    /// found; `None`: in an array, or a key that nobody looks for.
    keys: Vec<Option<String>>,
    /// Of the string, number or literal being read, as it stands there.
    word: Vec<u8>,
    /// Whether `word` is kept.
    keep: Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    One(Scalar),
    /// Which of them counts, is for the reader to choose: neither is certain.
    Several,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    No,
    Key,
    Value(usize),
    /// Too long.
    Full(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// Behind `[`: a value or the end.
    FirstItem,
    /// Behind `{`: a key or the end.
    FirstKey,
    Key,
    Colon,
    /// Behind a value in a container.
    More,
    Text {
        is_key: bool,
    },
    /// Behind a backslash.
    Escape {
        is_key: bool,
    },
    Word,
    Done,
    Bad,
}

impl Json {
    /// A reader that looks for the values at `paths`.
    pub fn new(paths: &'static [Path]) -> Self {
        Self {
            paths,
            found: vec![Found::Nothing; paths.len()],
            state: State::Value,
            objects: Vec::new(),
            keys: Vec::new(),
            word: Vec::new(),
            keep: Keep::No,
        }
    }

    /// Takes in the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Bad => return,
                State::Text { is_key } => {
                    let rest = &bytes[at..];
                    let end = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20));
                    let len = end.unwrap_or(rest.len());
                    self.remember(&rest[..len], if is_key { MAX_KEY } else { MAX_STRING });
                    at += len;
                    let Some(end) = end else { return };
                    match rest[end] {
                        b'"' => self.text_ends(is_key),
                        b'\\' => {
                            self.remember(b"\\", MAX_STRING);
                            self.state = State::Escape { is_key };
                        }
                        _ => self.state = State::Bad,
                    }
                    at += 1;
                }
                State::Escape { is_key } => {
                    self.remember(&[byte], MAX_STRING);
                    self.state = match byte {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u' => {
                            State::Text { is_key }
                        }
                        _ => State::Bad,
                    };
                    at += 1;
                }
                State::Word => {
                    let delimiter = matches!(byte, b',' | b'}' | b']') || is_space(byte);
                    if delimiter {
                        self.word_ends();
                    } else {
                        self.word.push(byte);
                        if self.word.len() > MAX_WORD {
                            self.state = State::Bad;
                        }
                        at += 1;
                    }
                }
                _ => {
                    if !is_space(byte) {
                        self.structure(byte);
                    }
                    at += 1;
                }
            }
        }
    }

    /// The whole document was read, and it is one.
    pub const fn is_complete(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// This is no JSON: what was found is worth nothing.
    pub const fn is_bad(&self) -> bool {
        matches!(self.state, State::Bad)
    }

    /// The value at the path of this number, if it was read, and once.
    pub fn get(&self, path: usize) -> Option<&Scalar> {
        match self.found.get(path) {
            Some(Found::One(scalar)) if !self.is_bad() => Some(scalar),
            _ => None,
        }
    }

    /// The text at a path.
    pub fn text(&self, path: usize) -> Option<&str> {
        match self.get(path)? {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number at a path.
    pub fn number(&self, path: usize) -> Option<i64> {
        match self.get(path)? {
            Scalar::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn remember(&mut self, bytes: &[u8], most: usize) {
        if self.keep == Keep::No {
            return;
        }
        if self.word.len() + bytes.len() <= most {
            self.word.extend_from_slice(bytes);
        } else {
            self.keep = match self.keep {
                Keep::Value(path) | Keep::Full(path) => Keep::Full(path),
                Keep::Key | Keep::No => Keep::No,
            };
        }
    }

    /// One byte outside of strings and words.
    fn structure(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Value | State::FirstItem, b'{') => self.open(true),
            (State::Value | State::FirstItem, b'[') => self.open(false),
            (State::FirstItem, b']') | (State::FirstKey, b'}') => self.close(),
            (State::Value | State::FirstItem, b'"') => {
                self.word.clear();
                self.keep = self.wanted().map_or(Keep::No, Keep::Value);
                State::Text { is_key: false }
            }
            (State::Value | State::FirstItem, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.word.clear();
                self.word.push(byte);
                State::Word
            }
            (State::FirstKey | State::Key, b'"') => {
                self.word.clear();
                self.keep = Keep::Key;
                State::Text { is_key: true }
            }
            (State::Colon, b':') => State::Value,
            (State::More, b',') if self.in_object() => State::Key,
            (State::More, b',') => State::Value,
            (State::More, b'}') if self.in_object() => self.close(),
            (State::More, b']') if !self.in_object() => self.close(),
            _ => State::Bad,
        };
    }

    fn in_object(&self) -> bool {
        self.objects.last() == Some(&true)
    }

    fn open(&mut self, object: bool) -> State {
        if self.objects.len() >= MAX_DEPTH {
            return State::Bad;
        }
        self.objects.push(object);
        self.keys.push(None);
        if object { State::FirstKey } else { State::FirstItem }
    }

    fn close(&mut self) -> State {
        self.objects.pop();
        self.keys.pop();
        self.behind_value()
    }

    fn behind_value(&self) -> State {
        if self.objects.is_empty() { State::Done } else { State::More }
    }

    /// The path of the value that begins here, if it is looked for.
    fn wanted(&self) -> Option<usize> {
        let fits = |path: &Path| {
            path.len() == self.keys.len()
                && path.iter().zip(&self.keys).all(|(want, key)| key.as_deref() == Some(*want))
        };
        self.paths.iter().position(fits)
    }

    fn text_ends(&mut self, is_key: bool) {
        if is_key {
            let key = (self.keep == Keep::Key).then(|| unescape(&self.word)).flatten();
            if let Some(slot) = self.keys.last_mut() {
                *slot = key;
            }
            self.state = State::Colon;
        } else {
            match self.keep {
                Keep::Value(path) => {
                    let text = unescape(&self.word).map_or(Scalar::Other, Scalar::Text);
                    self.find(path, text);
                }
                Keep::Full(path) => self.find(path, Scalar::Other),
                Keep::No | Keep::Key => {}
            }
            self.state = self.behind_value();
        }
        self.keep = Keep::No;
        self.word.clear();
    }

    fn word_ends(&mut self) {
        let scalar = match self.word.as_slice() {
            b"null" => Some(Scalar::Null),
            b"true" | b"false" => Some(Scalar::Other),
            word => serde_json::from_slice::<serde_json::Number>(word)
                .ok()
                .map(|number| number.as_i64().map_or(Scalar::Other, Scalar::Number)),
        };
        self.word.clear();
        match scalar {
            Some(scalar) => {
                if let Some(path) = self.wanted() {
                    self.find(path, scalar);
                }
                self.state = self.behind_value();
            }
            None => self.state = State::Bad,
        }
    }

    fn find(&mut self, path: usize, scalar: Scalar) {
        let found = &mut self.found[path];
        *found = match found {
            Found::Nothing => Found::One(scalar),
            Found::One(_) | Found::Several => Found::Several,
        };
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The text that stands between quotes.
fn unescape(raw: &[u8]) -> Option<String> {
    if !raw.contains(&b'\\') {
        return std::str::from_utf8(raw).ok().map(str::to_owned);
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice(&quoted).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATHS: &[Path] = &[&["model"], &["usage", "input_tokens"], &["a", "b", "c"]];

    fn read(text: &str) -> Json {
        let mut json = Json::new(PATHS);
        json.feed(text.as_bytes());
        json
    }

    #[test]
    fn values_are_found_where_they_are_and_nowhere_else() {
        let json = read(
            r#" {"messages":[{"model":"x","usage":{"input_tokens":1}},[]], "model" : "claude",
                "usage":{"cache":{"input_tokens":3},"input_tokens":42},"a":{"b":{"c":null}}} "#,
        );
        assert!(json.is_complete());
        assert_eq!((json.text(0), json.number(1)), (Some("claude"), Some(42)));
        assert_eq!(json.get(2), Some(&Scalar::Null));
        let json = read(r#"{"text":"\"model\":\"no\"","mod\u0065l":"a\"\u00e9\ud83d\ude00"}"#);
        assert_eq!(json.text(0), Some("a\"é😀"));
        assert_eq!(read(r#"[{"model":"x"}]"#).get(0), None);
    }

    #[test]
    fn what_stands_there_twice_is_not_certain() {
        let json = read(r#"{"model":"a","model":"b","usage":{"input_tokens":1},"usage":{}}"#);
        assert!(json.is_complete());
        assert_eq!((json.get(0), json.number(1)), (None, Some(1)));
    }

    #[test]
    fn a_cut_document_gives_what_it_had() {
        let json = read(r#"{"model":"a","usage":{"input_tokens":12"#);
        assert_eq!((json.text(0), json.number(1)), (Some("a"), None));
        assert!(!json.is_complete() && !json.is_bad());
    }

    #[test]
    fn what_is_no_json_gives_nothing() {
        for bad in [
            r#"{"model":"a",}"#,
            r#"{"model":"a"]"#,
            r#"{"model":"a"}{"#,
            r#"{"model":"a" "b":1}"#,
            r#"{"model":"a","x":tru}"#,
            r#"{"model":"a","x":01}"#,
            "{\"model\":\"a\",\"x\":\"\n\"}",
            r#"{"model":"a","x":"\q"}"#,
            r#"{"model":"a",1:2}"#,
        ] {
            let json = read(bad);
            assert!(json.is_bad() && json.get(0).is_none(), "{bad}");
        }
        assert!(read(&"[".repeat(1000)).is_bad());
        assert!(read(&"9".repeat(1000)).is_bad());
    }

    #[test]
    fn what_is_long_is_passed_over() {
        let long = "x".repeat(10_000);
        let json =
            read(&format!(r#"{{"{long}":1,"model":"{long}","usage":{{"input_tokens":1.5}}}}"#));
        assert!(json.is_complete());
        assert_eq!((json.get(0), json.get(1)), (Some(&Scalar::Other), Some(&Scalar::Other)));
    }

    /// Any document whose keys are often those looked for.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let key =
            prop::sample::select(vec!["model", "usage", "input_tokens", "a", "b", "c", "é\""]);
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "\\PC{0,8}|[\"\\\\\n\u{1}]{1,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::vec((key.clone(), inner), 0..5)
                    .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn however_a_document_is_cut_it_says_what_a_parser_says(
            document in value(),
            pretty in any::<bool>(),
            step in 1usize..9,
        ) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&document),
                false => serde_json::to_string(&document),
            };
            // A lone word has no end of its own.
            let text = text.unwrap() + " ";
            let mut json = Json::new(PATHS);
            for piece in text.as_bytes().chunks(step) {
                json.feed(piece);
            }
            prop_assert!(json.is_complete(), "{text}");
            for (at, path) in PATHS.iter().enumerate() {
                // Only objects are gone through: an array is no object with numbers for keys.
                let value = path.iter().try_fold(&document, |value, key| value.as_object()?.get(*key));
                let expected = value.and_then(|value| match value {
                    serde_json::Value::String(text) => Some(Scalar::Text(text.clone())),
                    serde_json::Value::Null => Some(Scalar::Null),
                    serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
                    other => Some(other.as_i64().map_or(Scalar::Other, Scalar::Number)),
                });
                prop_assert_eq!(json.get(at), expected.as_ref(), "{:?} in {}", path, text);
            }
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut json = Json::new(PATHS);
            json.feed(br#"{"model":"#);
            json.feed(&noise);
        }
    }
}
