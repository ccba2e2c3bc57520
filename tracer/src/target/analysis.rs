//! What could be probed in an image, and where: coroutines, plain functions, inlined bodies.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use thiserror::Error;

use super::coroutine::{NotPoll, Poll, first_byte_read, poll};
use super::location::location_at;
use super::names::dropped_type;
use super::scan::Scan;
use super::sites::{entry, exits};
use super::{
    Coroutine, Function, Image, InlinedBody, Landmarks, PlainFunction, Site, SocketLandmarks,
    StateByte, TlsLandmarks, Undescribed, landmarks, parallel,
};

/// Why a function is not traced as a coroutine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WhyNot {
    /// It has no resumed-after-completion panic in it: a plain function or closure.
    #[error("not async: nothing in it says that it was resumed after completion")]
    NotAsync,
    /// No state is read at its beginning.
    #[error("where its state is cannot be told: its code begins with no dispatch on one")]
    NoState,
    /// The state is not certain.
    #[error(
        "where its state is cannot be told: a byte at offset {offset} is read first, but no state \
         is stored there"
    )]
    Unconfirmed {
        /// Offset of the byte.
        offset: u32,
    },
    /// Its copies keep their state at different places.
    #[error("its {copies} copies keep their state at different places")]
    CopiesDisagree {
        /// How many there are.
        copies: usize,
    },
    /// Equal code of several functions was folded into one.
    #[error("its code is shared with {}: a hit does not say which was meant", with.join(", "))]
    Merged {
        /// The other functions.
        with: Vec<Arc<str>>,
    },
    /// No instruction at its beginning can be probed.
    #[error("no instruction at its beginning can be probed")]
    NoEntry,
}

/// The analysis of one image: a pass over its code, made once, and what is asked of it.
#[derive(Debug)]
pub struct Analysis<'image> {
    image: &'image Image,
    scan: Scan,
    /// By where they begin: closures that call a resumed-after-completion panic.
    polls: OnceLock<HashMap<u64, Result<Poll, NotPoll>>>,
    /// Drop glue by the name of the type it drops.
    drop_glue: OnceLock<HashMap<&'image str, Vec<&'image Function>>>,
}

impl<'image> Analysis<'image> {
    /// Goes over all code of the image once.
    pub fn new(image: &'image Image) -> Self {
        let scan = Scan::new(image);
        Self { image, scan, polls: OnceLock::new(), drop_glue: OnceLock::new() }
    }

    /// The image that is analysed.
    pub fn image(&self) -> &'image Image {
        self.image
    }

    /// What is known of each function as a coroutine.
    pub fn coroutines(&self, functions: &[&Function]) -> Vec<Result<Coroutine, WhyNot>> {
        // Made here and not by the first of many threads, which the others would wait for.
        self.polls();
        self.drop_glue();
        parallel::map(functions, |function| self.coroutine(function))
    }

    /// What is known of a function as a coroutine.
    pub fn coroutine(&self, function: &Function) -> Result<Coroutine, WhyNot> {
        let mut with = BTreeSet::new();
        for (addr, _) in &function.copies {
            with.extend(self.image.names_at(*addr));
        }
        with.remove(&function.name);
        let polls = function.copies.iter().map(|(addr, _)| self.poll(*addr));
        let polls: Vec<&Poll> = polls.collect::<Result<_, _>>()?;
        if !with.is_empty() {
            return Err(WhyNot::Merged { with: with.into_iter().collect() });
        }
        let (first, others) = polls.split_first().ok_or(WhyNot::NoEntry)?;
        if others.iter().any(|other| other.state != first.state) {
            return Err(WhyNot::CopiesDisagree { copies: polls.len() });
        }
        let size_at_least = polls.iter().map(|poll| poll.size_at_least).max().unwrap_or(0);
        let PlainFunction { function, entries, exits } =
            self.plain_function(function).ok_or(WhyNot::NoEntry)?;
        Ok(Coroutine {
            state: first.state,
            size_at_least,
            size_exact: false,
            entries,
            exits,
            drops: self.drops(&function, first.state.offset),
            location: polls.iter().find_map(|poll| poll.location.clone()),
            function,
        })
    }

    /// Entries and exits of functions; `None` for those that cannot be probed at their beginning.
    pub fn plain_functions(&self, functions: &[&Function]) -> Vec<Option<PlainFunction>> {
        parallel::map(functions, |function| self.plain_function(function))
    }

    fn plain_function(&self, function: &Function) -> Option<PlainFunction> {
        let entries = function.copies.iter().map(|(addr, _)| entry(self.image, *addr));
        let entries = entries.collect::<Option<Vec<_>>>()?;
        let mut all = Vec::new();
        for (addr, _) in &function.copies {
            let some = exits(self.image, &self.scan, *addr);
            // Exits of some copies alone would look as if others never ended.
            if some.is_empty() {
                all.clear();
                break;
            }
            all.extend(some);
        }
        all.sort_by_key(|exit| (exit.site.addr, exit.at_ret));
        all.dedup();
        Some(PlainFunction { function: function.clone(), entries, exits: all })
    }

    /// Async bodies that the compiler inlined, each once per function that holds it, ordered by
    /// place.
    pub fn inlined(&self) -> Vec<InlinedBody> {
        let symbols = self.image.symbols();
        let mut bodies = BTreeSet::new();
        for call in self.scan.resumed() {
            let Some(start) = symbols.start_of(call.at) else { continue };
            let Some(function) = symbols.at(start).next() else { continue };
            let Some(location) = call.location.and_then(|addr| location_at(self.image, addr))
            else {
                continue;
            };
            let own = self.polls().get(&start).and_then(|poll| poll.as_ref().ok());
            if own.is_none_or(|poll| poll.location.as_ref() != Some(&location)) {
                bodies.insert((location, function.name.clone()));
            }
        }
        let bodies = bodies.into_iter();
        bodies.map(|(location, inside)| InlinedBody { location, inside }).collect()
    }

    /// The functions of tokio and other libraries that tracing needs.
    pub fn landmarks(&self) -> Landmarks {
        landmarks::landmarks(self.image, &self.scan)
    }

    /// OpenSSL's functions in this image.
    pub fn tls_landmarks(&self) -> TlsLandmarks {
        landmarks::tls(self.image, &self.scan)
    }

    /// libc's functions on sockets in this image.
    pub fn socket_landmarks(&self) -> SocketLandmarks {
        self.image.socket_landmarks()
    }

    /// Every poll function that keeps its name: that, and where its state is.
    pub(super) fn states(&self) -> Vec<(Arc<str>, StateByte)> {
        let symbols = self.image.symbols();
        let polls = self.polls().iter();
        let known = polls.filter_map(|(start, poll)| Some((*start, poll.as_ref().ok()?.state)));
        known
            .flat_map(|(start, state)| {
                symbols.names_at(start).into_iter().map(move |name| (name, state))
            })
            .collect()
    }

    /// Where the poll functions of this name begin that have their state at the same place.
    pub fn polls_like(&self, name: &str, state: StateByte) -> Vec<u64> {
        let functions = self.image.symbols().named(name).iter();
        let starts = functions.flat_map(|function| function.copies.iter().map(|(addr, _)| *addr));
        let fits =
            |start: &u64| matches!(self.polls().get(start), Some(Ok(poll)) if poll.state == state);
        starts.filter(fits).collect()
    }

    /// What the code of a coroutine says of its captured arguments.
    pub fn undescribed(&self, coroutine: &Coroutine) -> Undescribed<'_> {
        Undescribed::new(self.image, &self.scan, coroutine)
    }

    fn poll(&self, start: u64) -> Result<&Poll, WhyNot> {
        match self.polls().get(&start) {
            None => Err(WhyNot::NotAsync),
            Some(Ok(poll)) => Ok(poll),
            Some(Err(NotPoll::NoState)) => Err(WhyNot::NoState),
            Some(Err(NotPoll::Unconfirmed(offset))) => Err(WhyNot::Unconfirmed { offset: *offset }),
        }
    }

    fn polls(&self) -> &HashMap<u64, Result<Poll, NotPoll>> {
        self.polls.get_or_init(|| {
            let symbols = self.image.symbols();
            let calls = self.scan.resumed().iter();
            let mut starts: Vec<_> = calls.filter_map(|call| symbols.start_of(call.at)).collect();
            starts.dedup();
            // Other functions have inlined bodies in them: their own beginning is no dispatch.
            starts.retain(|start| symbols.at(*start).any(|function| is_closure(&function.name)));
            let polls = parallel::map(&starts, |start| poll(self.image, &self.scan, *start));
            starts.into_iter().zip(polls).collect()
        })
    }

    fn drop_glue(&self) -> &HashMap<&'image str, Vec<&'image Function>> {
        self.drop_glue.get_or_init(|| {
            let mut glue: HashMap<_, Vec<_>> = HashMap::new();
            for function in self.image.functions() {
                if let Some(dropped) = dropped_type(&function.name).filter(|name| is_closure(name))
                {
                    glue.entry(dropped).or_default().push(function);
                }
            }
            glue
        })
    }

    /// Entries of the coroutine's drop glue; empty unless it is certain that it drops nothing
    /// else. Closures and coroutines of one function have one name, and so have all instances of
    /// a generic one: the glue must look at the state's place first, share its code with nothing,
    /// and be the only such one for the only such coroutine.
    fn drops(&self, function: &Function, state_offset: u32) -> Vec<Site> {
        let symbols = self.image.symbols();
        let is_same = |other: &&Function| {
            other.copies.iter().any(|(addr, _)| {
                self.polls().get(addr).is_some_and(
                    |poll| matches!(poll, Ok(poll) if poll.state.offset == state_offset),
                )
            })
        };
        if symbols.named(&function.name).iter().filter(|other| is_same(other)).count() != 1 {
            return Vec::new();
        }
        let candidates = self.drop_glue().get(&*function.name).map_or(&[][..], |glue| glue);
        let mut fitting = candidates.iter().filter(|glue| {
            glue.copies.iter().all(|(addr, _)| {
                symbols.at(*addr).count() == 1
                    && first_byte_read(self.image, *addr) == Some(state_offset)
            })
        });
        match (fitting.next(), fitting.next()) {
            (Some(glue), None) => {
                let sites = glue.copies.iter().map(|(addr, _)| entry(self.image, *addr));
                sites.collect::<Option<_>>().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether a name is that of a closure: poll functions are named like them.
fn is_closure(name: &str) -> bool {
    name.ends_with("::{{closure}}")
}
