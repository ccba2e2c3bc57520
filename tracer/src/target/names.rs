//! Demangled names in one form, whichever mangling made them.
//!
//! | symbol says | becomes |
//! | --- | --- |
//! | `foo::bar::h0123456789abcdef` | `foo::bar` |
//! | `foo[5e0d…]::bar::{closure#0}` | `foo::bar::{{closure}}` |
//! | `foo::bar::<u32>`, `Foo<T>::bar`, `<foo::Foo<u32>>::bar` | `foo::bar`, `Foo::bar`, `foo::Foo::bar` |
//! | `<foo::Foo<T> as foo::Trait<U>>::bar` | `<foo::Foo as foo::Trait>::bar` |
//! | `core::ptr::drop_in_place::<foo::bar<T>::{closure#0}>` | `core::ptr::drop_in_place<foo::bar::{{closure}}>` |
//!
//! The one generic argument that is kept is that of drop glue: it is all that tells one from
//! another.

use std::fmt::Write as _;

/// Longest mangled or demangled name that is looked at; longer ones stay as they are.
const MAX_NAME: usize = 16 << 10;

/// The demangled, normalized name of a symbol; C symbols stay as they are.
pub(super) fn demangle(symbol: &str) -> String {
    if symbol.len() > MAX_NAME {
        return symbol.to_owned();
    }
    let Ok(demangled) = rustc_demangle::try_demangle(symbol) else { return symbol.to_owned() };
    let mut text = Bounded(String::with_capacity(symbol.len()));
    if write!(text, "{demangled:#}").is_err() {
        return symbol.to_owned();
    }
    normalize(&text.0)
}

/// Whether a symbol is the drop glue of a box of `boxed`, whose generic arguments are ignored.
pub(super) fn drops_box_of(symbol: &str, boxed: &str) -> bool {
    let Ok(demangled) = rustc_demangle::try_demangle(symbol) else { return false };
    let mut text = Bounded(String::with_capacity(symbol.len()));
    // What does not fit is looked at as far as it goes: the box stands at the beginning.
    let _ = write!(text, "{demangled:#}");
    text.0.split_once('<').is_some_and(|(_, dropped)| {
        let inner = dropped.strip_prefix("alloc::boxed::Box<");
        inner.is_some_and(|inner| inner.starts_with(boxed))
    })
}

/// A string that refuses to outgrow [`MAX_NAME`]: v0 back-references let a short symbol demangle
/// to a huge name.
struct Bounded(String);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        if self.0.len() + s.len() > MAX_NAME {
            return Err(std::fmt::Error);
        }
        self.0.push_str(s);
        Ok(())
    }
}

/// One open angle bracket.
enum Bracket {
    /// `<X as Y>` or `<X>`: where it stands in the output, and whether ` as ` was seen.
    Qualified { at: usize, has_as: bool },
    /// `<impl X for Y>` and the argument of drop glue.
    Kept,
    /// Generic arguments.
    Dropped,
}

/// Removes generic arguments and writes closures in one way.
fn normalize(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut open: Vec<Bracket> = Vec::new();
    // How many of the open brackets drop what is in them.
    let mut dropping = 0usize;
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '<' => {
                let bracket = if dropping > 0 {
                    Bracket::Dropped
                } else if is_drop_glue(&out) {
                    if out.ends_with("::") {
                        out.truncate(out.len() - 2);
                    }
                    Bracket::Kept
                } else if out.ends_with("::") && !after.starts_with("impl ") {
                    out.truncate(out.len() - 2);
                    Bracket::Dropped
                } else if out.ends_with("::") {
                    Bracket::Kept
                } else if out
                    .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '}' | '>'))
                {
                    Bracket::Dropped
                } else {
                    Bracket::Qualified { at: out.len(), has_as: false }
                };
                match bracket {
                    Bracket::Dropped => dropping += 1,
                    Bracket::Kept | Bracket::Qualified { .. } => out.push('<'),
                }
                open.push(bracket);
            }
            // The arrow of a function type closes nothing.
            '>' if name[..name.len() - rest.len()].ends_with('-') => {
                if dropping == 0 {
                    out.push('>');
                }
            }
            '>' => match open.pop() {
                Some(Bracket::Dropped) => dropping -= 1,
                Some(Bracket::Qualified { at, has_as: false }) => {
                    out.remove(at);
                }
                Some(Bracket::Kept | Bracket::Qualified { .. }) | None => out.push('>'),
            },
            _ if dropping > 0 => {}
            '{' if rest.starts_with("{closure#") => {
                out.push_str("{{closure}}");
                rest = rest.find('}').map_or("", |end| &rest[end + 1..]);
                continue;
            }
            _ => {
                if rest.starts_with(" as ")
                    && let Some(Bracket::Qualified { has_as, .. }) = open.last_mut()
                {
                    *has_as = true;
                }
                out.push(c);
            }
        }
        rest = after;
    }
    out
}

/// Whether `path` names drop glue, whose argument is to be kept.
fn is_drop_glue(path: &str) -> bool {
    let path = path.strip_suffix("::").unwrap_or(path);
    DROP_GLUE.contains(&path)
}

/// What drop glue is called: `drop_glue` from Rust 1.97 on.
const DROP_GLUE: [&str; 2] = ["core::ptr::drop_in_place", "core::ptr::drop_glue"];

/// The type that a function is drop glue of.
pub(super) fn dropped_type(name: &str) -> Option<&str> {
    DROP_GLUE.iter().find_map(|glue| name.strip_prefix(glue)?.strip_prefix('<')?.strip_suffix('>'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_manglings_give_one_form() {
        let cases = [
            ("foo::bar::{{closure}}", "foo::bar::{{closure}}"),
            ("foo::bar::{closure#0}", "foo::bar::{{closure}}"),
            ("foo::bar::<u32>::{closure#0}::{closure#1}", "foo::bar::{{closure}}::{{closure}}"),
            ("foo::Foo<T>::bar", "foo::Foo::bar"),
            ("<foo::Foo<u32>>::bar", "foo::Foo::bar"),
            ("<foo::Foo>::bar::{closure#0}", "foo::Foo::bar::{{closure}}"),
            (
                "<alloc::boxed::Box<dyn core::ops::FnOnce(u8) -> u8> as foo::Trait<U>>::call",
                "<alloc::boxed::Box as foo::Trait>::call",
            ),
            ("tokio::runtime::task::raw::poll::<T, S>", "tokio::runtime::task::raw::poll"),
            ("<tokio::task::OwnedTasks<alloc::Arc<H>>>::bind", "tokio::task::OwnedTasks::bind"),
            (
                "foo::<impl foo::Trait<u8> for foo::Bar>::run",
                "foo::<impl foo::Trait for foo::Bar>::run",
            ),
            ("<<A as B>::C as D>::e", "<<A as B>::C as D>::e"),
            (
                "core::ptr::drop_in_place::<foo::bar<T>::{closure#0}>",
                "core::ptr::drop_in_place<foo::bar::{{closure}}>",
            ),
            (
                "core::ptr::drop_in_place<foo::bar::{{closure}}>",
                "core::ptr::drop_in_place<foo::bar::{{closure}}>",
            ),
            ("sqlite3_step", "sqlite3_step"),
        ];
        for (name, normal) in cases {
            assert_eq!(normalize(name), normal, "{name}");
        }
    }

    #[test]
    fn symbols_lose_hash_and_disambiguator() {
        assert_eq!(demangle("_ZN3foo3bar17h0123456789abcdefE"), "foo::bar");
        assert_eq!(
            demangle("_ZN3foo3bar28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE.llvm.42"),
            "foo::bar::{{closure}}"
        );
        assert_eq!(
            demangle(
                "_RNvNtNtCsgEmfK2I1SDS_4core9panicking11panic_const28panic_const_async_fn_resumed"
            ),
            "core::panicking::panic_const::panic_const_async_fn_resumed"
        );
        assert_eq!(demangle("_RNCNvCs1234_7mycrate3foo0B3_"), "mycrate::foo::{{closure}}");
        assert_eq!(demangle("SSL_read_ex"), "SSL_read_ex");
    }

    #[test]
    fn drop_glue_names_its_type() {
        assert_eq!(
            dropped_type("core::ptr::drop_in_place<a::b::{{closure}}>"),
            Some("a::b::{{closure}}")
        );
        assert_eq!(dropped_type("core::ptr::drop_glue<a::b>"), Some("a::b"));
        assert_eq!(dropped_type("core::ptr::drop_in_place"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_normalized(name in "[<>:{}# a-c\\-é]{0,60}") {
            let normal = normalize(&name);
            prop_assert!(normal.len() <= name.len() * 2);
        }

        #[test]
        fn any_symbol_is_demangled(symbol in "_(ZN|R)[A-Z0-9a-z_$.]{0,60}") {
            let _ = demangle(&symbol);
        }
    }
}
