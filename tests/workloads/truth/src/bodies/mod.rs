//! The async fns that plans are made of.
//!
//! Each begins with a [`Guard`](crate::record::Guard) and ends with
//! [`Guard::finish`](crate::record::Guard::finish). All but [`tiny`] are written so that the
//! compiler keeps their poll functions: they are of the size of real code, called from several
//! places, or used through `dyn`.

pub mod agent;
pub mod boxed;
pub mod calls;
pub mod cancel;
pub mod concurrent;
pub mod kept;
pub mod leaves;
pub mod local;
pub mod panics;
pub mod tasks;
pub mod tiny;

use futures::future::BoxFuture;

use crate::args::config;
use crate::plan::{Cx, scramble};
use crate::record::Out;

/// Which bodies take part in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Calls and loops, one child at a time.
    Calls,
    /// Children polled side by side in one task.
    Concurrent,
    /// Tasks, blocking tasks, abort.
    Tasks,
    /// Futures dropped before they finish.
    Cancel,
    /// Panics, caught in many places.
    Panic,
    /// `dyn Future`, async-trait, recursion, generics.
    Boxed,
    /// Threads with runtimes of their own.
    Local,
    /// Bodies of a few lines, which the compiler inlines.
    Tiny,
    /// Everything but `Tiny`.
    All,
}

const MIXES: [(&str, Mix); 9] = [
    ("calls", Mix::Calls),
    ("concurrent", Mix::Concurrent),
    ("tasks", Mix::Tasks),
    ("cancel", Mix::Cancel),
    ("panic", Mix::Panic),
    ("boxed", Mix::Boxed),
    ("local", Mix::Local),
    ("tiny", Mix::Tiny),
    ("all", Mix::All),
];

impl Mix {
    /// The mix of that name.
    pub fn named(name: &str) -> Option<Self> {
        MIXES.iter().find(|(known, _)| *known == name).map(|&(_, mix)| mix)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        MIXES.iter().find(|&&(_, mix)| mix == self).map_or("", |&(name, _)| name)
    }
}

/// Names a body in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyId(pub u16);

/// What is known about the polls of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Awaits only futures of its guard.
    Leaf,
    /// Awaits children in place, one after the other, and futures of its guard.
    Chain,
    /// Anything else.
    Other,
}

/// One async fn.
#[derive(Debug)]
pub struct Body {
    /// Its name in the record.
    pub id: BodyId,
    /// What is known about its polls.
    pub kind: Kind,
    /// Its mix; `leaf` and `agent` take part in several.
    pub mix: &'static str,
    /// The file it is in, as the compiler was told.
    pub file: &'static str,
    module: &'static str,
    name: &'static str,
    source: &'static str,
}

impl Body {
    /// The path a demangler prints for it.
    pub fn function(&self) -> String {
        // Methods of traits are `<module::Type as module::Trait>::name`.
        if self.name.starts_with('<') {
            return self.name.replace("self::", &format!("{}::", self.module));
        }
        format!("{}::{}", self.module, self.name)
    }

    /// The line of its `async fn`, taken from the source itself: a constant beside each body
    /// would be wrong after the next edit.
    pub fn line(&self) -> usize {
        let (of, name) = self.name.rsplit_once("::").unwrap_or(("", self.name));
        let of = of.trim_matches(['<', '>']).split(" as ").next().unwrap_or(of);
        let of = of.trim_start_matches("self::");
        let inside = |line: &str| line.starts_with("impl") && line.ends_with(&format!(" {of} {{"));
        let from = self.source.lines().position(inside).filter(|_| !of.is_empty()).unwrap_or(0);
        let is_it = |line: &str| {
            let rest = line.trim_start().trim_start_matches("pub ");
            let rest = rest.strip_prefix("async fn ").and_then(|rest| rest.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with(['(', '<']))
        };
        self.source.lines().skip(from).position(is_it).map_or(0, |line| from + line + 1)
    }
}

/// Lists the bodies of a module: a constant for each, and `BODIES`.
macro_rules! bodies {
    ($mix:literal, $source:literal, $($id:ident = $number:literal $name:literal $kind:ident,)*) => {
        $(const $id: $crate::bodies::BodyId = $crate::bodies::BodyId($number);)*
        /// The async fns of this module.
        pub static BODIES: &[$crate::bodies::Body] = &[$($crate::bodies::Body {
            id: $id,
            kind: $crate::bodies::Kind::$kind,
            mix: $mix,
            file: file!(),
            module: module_path!(),
            name: $name,
            source: include_str!($source),
        }),*];
    };
}
use bodies;

/// Every body of the program.
pub fn all() -> impl Iterator<Item = &'static Body> {
    MODULES.into_iter().flatten()
}

const MODULES: [&[Body]; 10] = [
    agent::BODIES,
    leaves::BODIES,
    calls::BODIES,
    concurrent::BODIES,
    tasks::BODIES,
    cancel::BODIES,
    panics::BODIES,
    boxed::BODIES,
    local::BODIES,
    tiny::BODIES,
];

/// The path of a body.
pub fn function(id: BodyId) -> String {
    all().find(|body| body.id == id).map_or_else(String::new, Body::function)
}

/// What is known about the polls of a body.
pub fn kind(id: u16) -> Kind {
    // Asked for every span: by place, not by search. Each module has 16 ids of its own.
    let (module, place) = (usize::from(id >> 4), usize::from(id & 15));
    MODULES[module][place].kind
}

/// Calls a body of the mix in use that fits the budget, through `dyn Future`.
pub fn any(cx: Cx) -> BoxFuture<'static, Out> {
    const EACH: [Mix; 7] =
        [Mix::Calls, Mix::Concurrent, Mix::Tasks, Mix::Cancel, Mix::Panic, Mix::Boxed, Mix::Local];
    let dice = (scramble(cx.seed ^ 0xa11) >> 16) as usize;
    let mix = match config().mix {
        Mix::All => EACH[dice % EACH.len()],
        mix => mix,
    };
    if mix == Mix::Tiny {
        return Box::pin(tiny::enter(cx));
    }
    if cx.budget < 3 {
        return leaves::boxed(cx);
    }
    match mix {
        Mix::Concurrent => concurrent::boxed(cx),
        Mix::Tasks => tasks::boxed(cx),
        Mix::Cancel => cancel::boxed(cx),
        Mix::Panic => panics::boxed(cx),
        Mix::Boxed => boxed::boxed(cx),
        Mix::Local => local::boxed(cx),
        Mix::Calls | Mix::Tiny | Mix::All => calls::boxed(cx),
    }
}

/// A number below `n` to choose a body by, independent of what the body will draw.
fn choice(cx: &Cx, n: u64) -> u64 {
    (scramble(cx.seed ^ 0xb0d1e5) >> 20) % n
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_body_is_found_in_its_source() {
        let mut places = HashSet::new();
        for body in all() {
            assert!(body.line() > 0, "{}", body.function());
            assert!(places.insert((body.file, body.line())), "{} shares a line", body.function());
        }
    }

    #[test]
    fn ids_lead_to_bodies() {
        for body in all() {
            assert_eq!(kind(body.id.0), body.kind, "{}", body.function());
        }
    }

    #[test]
    fn names_are_those_of_the_compiler() {
        // Without generic arguments, which symbols do not have.
        fn name<T>(_: T) -> String {
            let name = std::any::type_name::<T>();
            let end = name.rfind("::").and_then(|at| Some(at + name[at..].find('<')?));
            name[..end.unwrap_or(name.len())].trim_end_matches("::").to_owned()
        }
        let names: HashSet<String> = all().map(Body::function).collect();
        for known in [
            name(calls::load_rows),
            name(leaves::read_page),
            name(tiny::enter),
            name(boxed::Engine::turn),
            name(<boxed::Cache as boxed::Service>::handle),
        ] {
            assert!(names.contains(&known), "{known}");
        }
    }
}
