//! One linear pass over all code: who calls, jumps to or takes the address of which function,
//! and which async bodies' resumed-after-completion panics are called where.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use iced_x86::{Code, FlowControl, Instruction, OpKind, Register};

use super::decode::{decoder, direct_target, gpr};
use super::image::Image;
use super::parallel;

/// Functions per unit of work.
const UNIT: usize = 256;

/// `core::panicking::panic_const::panic_const_async_fn_resumed`, `…_panic`, `…_drop` and those of
/// async generators: what a finished coroutine calls when it is polled again.
const RESUMED: &str = "core::panicking::panic_const::panic_const_async_";

/// A reference from one instruction to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    /// Where the function begins.
    pub(super) to: u64,
    /// The instruction.
    pub(super) at: u64,
    /// The instruction behind it.
    pub(super) next: u64,
}

/// A call of a resumed-after-completion panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resumed {
    /// The call.
    pub(super) at: u64,
    /// Address of the `Location` that it passes, where it is plain.
    pub(super) location: Option<u64>,
}

/// What the pass finds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Direct calls, ordered by callee.
    calls: Vec<Edge>,
    /// Jumps to the beginning of another function, ordered by that.
    tail_jumps: Vec<Edge>,
    /// Functions whose address code uses as a value.
    taken: HashSet<u64>,
    /// Loads of a function's address from the GOT into a register, ordered by function.
    got_loads: Vec<Edge>,
    /// (function, place) of pointers to functions in data, outside the GOT; ordered.
    pointers: Vec<(u64, u64)>,
    /// Ordered by address.
    resumed: Vec<Resumed>,
    /// Calls and jumps through a pointer at the address in a register, `call *(%rax)`, and in
    /// tokio also in a register; ordered.
    indirect: Vec<u64>,
    /// Where a GOT slot leads in this image.
    got: HashMap<u64, u64>,
    /// GOT slots that receive an imported resumed-after-completion panic.
    resumed_imports: HashSet<u64>,
    /// Functions that are such panics.
    resumed_functions: HashSet<u64>,
}

impl Scan {
    pub(super) fn new(image: &Image) -> Self {
        let symbols = image.symbols();
        let mut scan = Self::default();
        for function in symbols.functions() {
            if function.name.starts_with(RESUMED) {
                scan.resumed_functions.extend(function.copies.iter().map(|(addr, _)| *addr));
            }
        }
        for (slot, name) in image.relocations().imports() {
            if std::str::from_utf8(name)
                .is_ok_and(|name| super::names::demangle(name).starts_with(RESUMED))
            {
                scan.resumed_imports.insert(slot);
            }
        }
        let units = Units::new(image);
        let got_sections: Vec<_> =
            image.sections().iter().filter(|section| section.name.starts_with(b".got")).collect();
        let in_got = |addr| got_sections.iter().any(|section| section.contains(addr));
        for (place, target) in image.relocations().pointers() {
            if !units.is_start(*target) {
                continue;
            }
            if in_got(*place) {
                scan.got.insert(*place, *target);
            } else {
                scan.pointers.push((*target, *place));
            }
        }
        if image.is_fixed() {
            // Linked at fixed addresses: pointers need no relocations.
            for (place, word) in image.data_words() {
                if !units.is_start(word) {
                } else if in_got(place) {
                    scan.got.insert(place, word);
                } else {
                    scan.pointers.push((word, place));
                }
            }
        }
        let chunks: Vec<_> = units.ranges.chunks(UNIT).collect();
        let parts = parallel::map(&chunks, |ranges| {
            let mut part = Part::default();
            for (start, end) in *ranges {
                scan.function(image, &units, *start, *end, &mut part);
            }
            part
        });
        for part in parts {
            let Part { calls, tail_jumps, got_loads, taken, resumed, indirect } = part;
            scan.got_loads.extend(got_loads);
            scan.calls.extend(calls);
            scan.tail_jumps.extend(tail_jumps);
            scan.taken.extend(taken);
            scan.resumed.extend(resumed);
            scan.indirect.extend(indirect);
        }
        scan.pointers.sort_unstable();
        scan.calls.sort_unstable();
        scan.tail_jumps.sort_unstable();
        scan.got_loads.sort_unstable();
        scan.resumed.sort_unstable();
        scan.indirect.sort_unstable();
        scan
    }

    fn function(&self, image: &Image, units: &Units, start: u64, end: u64, part: &mut Part) {
        let mut decoder = decoder(image.code(start, end), start);
        let mut instruction = Instruction::default();
        // What the last `lea` put into rdi, and jumps made with that: equal ends of blocks are
        // merged, so the call may stand elsewhere in the function.
        let mut location = None;
        let mut jumps = Vec::new();
        // Only unoptimized code loads a function from a table before it calls it; telling these
        // calls from others takes time, and those that matter are tokio's.
        let is_tokio = OnceCell::new();
        let is_tokio = || {
            *is_tokio.get_or_init(|| {
                image.symbols().at(start).any(|function| function.name.contains("tokio::"))
            })
        };
        let through_pointer = |instruction: &Instruction| match instruction.op0_kind() {
            OpKind::Memory => {
                gpr(instruction.memory_base()).is_some()
                    && instruction.memory_index() == Register::None
                    && instruction.memory_displacement64() == 0
            }
            OpKind::Register => is_tokio(),
            _ => false,
        };
        let first_resumed = part.resumed.len();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let (at, next) = (instruction.ip(), instruction.next_ip());
            match instruction.flow_control() {
                FlowControl::Next => {
                    if instruction.memory_base() == Register::RIP {
                        let addr = instruction.ip_rel_memory_address();
                        if instruction.code() == Code::Lea_r64_m {
                            if units.is_start(addr) {
                                part.taken.push(addr);
                            }
                            if instruction.op0_register() == Register::RDI {
                                location = Some(addr);
                            }
                        } else if let Some(to) = self.got_load(&instruction) {
                            part.got_loads.push(Edge { to, at, next });
                        } else if let Some(target) = self.got.get(&addr) {
                            part.taken.push(*target);
                        }
                    } else if image.is_fixed()
                        && let Some(value) = immediate(&instruction)
                        && units.is_start(value)
                    {
                        part.taken.push(value);
                    }
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    if self.is_resumed_panic(&instruction) {
                        part.resumed.push(Resumed { at, location });
                    } else if let Some(to) = self.callee(&instruction) {
                        if units.is_start(to) {
                            part.calls.push(Edge { to, at, next });
                        }
                    } else if through_pointer(&instruction) {
                        part.indirect.push(at);
                    }
                    location = None;
                }
                FlowControl::UnconditionalBranch
                | FlowControl::ConditionalBranch
                | FlowControl::IndirectBranch => {
                    if self.is_resumed_panic(&instruction) {
                        part.resumed.push(Resumed { at, location });
                    } else if let Some(to) = self.callee(&instruction)
                        && to != start
                        && units.is_start(to)
                    {
                        part.tail_jumps.push(Edge { to, at, next });
                    } else if let (Some(location), Some(to)) =
                        (location, direct_target(&instruction))
                    {
                        jumps.push(Resumed { at: to, location: Some(location) });
                    } else if through_pointer(&instruction) {
                        part.indirect.push(at);
                    }
                    location = None;
                }
                _ => location = None,
            }
        }
        if !jumps.is_empty() {
            let calls: HashSet<_> =
                part.resumed[first_resumed..].iter().map(|call| call.at).collect();
            part.resumed.extend(jumps.into_iter().filter(|jump| calls.contains(&jump.at)));
        }
    }

    /// Where a direct call or jump, or one through the GOT, leads.
    pub(super) fn callee(&self, instruction: &Instruction) -> Option<u64> {
        if let Some(target) = direct_target(instruction) {
            return Some(target);
        }
        instruction
            .is_ip_rel_memory_operand()
            .then(|| self.got.get(&instruction.ip_rel_memory_address()).copied())?
    }

    /// Whether a call or jump goes to a resumed-after-completion panic.
    pub(super) fn is_resumed_panic(&self, instruction: &Instruction) -> bool {
        match self.callee(instruction) {
            Some(target) => self.resumed_functions.contains(&target),
            None => {
                instruction.is_ip_rel_memory_operand()
                    && self.resumed_imports.contains(&instruction.ip_rel_memory_address())
            }
        }
    }

    /// Direct calls of the function that begins at `start`.
    pub(super) fn calls_of(&self, start: u64) -> &[Edge] {
        of(&self.calls, start)
    }

    /// Whether the function that begins at `start` is reached by a jump from another one.
    pub(super) fn is_jumped_to(&self, start: u64) -> bool {
        !of(&self.tail_jumps, start).is_empty()
    }

    /// Loads of the address of the function that begins at `start` from the GOT.
    pub(super) fn got_loads_of(&self, start: u64) -> &[Edge] {
        of(&self.got_loads, start)
    }

    /// The function whose address an instruction loads from the GOT into a register.
    pub(super) fn got_load(&self, instruction: &Instruction) -> Option<u64> {
        (instruction.code() == Code::Mov_r64_rm64 && instruction.is_ip_rel_memory_operand())
            .then(|| self.got.get(&instruction.ip_rel_memory_address()).copied())?
    }

    /// Whether code uses the address of the function that begins at `start` as a value, other
    /// than by loads from the GOT.
    pub(super) fn is_taken(&self, start: u64) -> bool {
        self.taken.contains(&start)
    }

    /// Where in the data pointers to the function that begins at `start` are.
    pub(super) fn pointers_to(&self, start: u64) -> impl Iterator<Item = u64> {
        let from = self.pointers.partition_point(|(to, _)| *to < start);
        let same = self.pointers[from..].iter().take_while(move |(to, _)| *to == start);
        same.map(|(_, place)| *place)
    }

    /// Calls of resumed-after-completion panics, ordered by address.
    pub(super) fn resumed(&self) -> &[Resumed] {
        &self.resumed
    }

    /// Calls and jumps that may go through the first entry of a vtable, ordered by address.
    pub(super) fn indirect(&self) -> &[u64] {
        &self.indirect
    }
}

fn of(edges: &[Edge], start: u64) -> &[Edge] {
    let from = edges.partition_point(|edge| edge.to < start);
    let len = edges[from..].partition_point(|edge| edge.to == start);
    &edges[from..from + len]
}

/// An immediate that may be an address.
fn immediate(instruction: &Instruction) -> Option<u64> {
    (0..instruction.op_count()).find_map(|operand| match instruction.op_kind(operand) {
        OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64 => {
            Some(instruction.immediate(operand))
        }
        _ => None,
    })
}

#[derive(Default)]
struct Part {
    calls: Vec<Edge>,
    tail_jumps: Vec<Edge>,
    got_loads: Vec<Edge>,
    taken: Vec<u64>,
    resumed: Vec<Resumed>,
    indirect: Vec<u64>,
}

/// All code, cut where functions begin.
struct Units {
    ranges: Vec<(u64, u64)>,
    /// (begin, end, bit per address where a function begins) of each stretch of code.
    starts: Vec<(u64, u64, Vec<u64>)>,
}

impl Units {
    fn new(image: &Image) -> Self {
        let mut units = Self { ranges: Vec::new(), starts: Vec::new() };
        let mut sections: Vec<_> =
            image.sections().iter().filter(|section| section.executable).collect();
        sections.sort_by_key(|section| section.addr);
        // Sections of a hostile file may overlap or map the same bytes many times over.
        let mut budget = image.data().len() as u64;
        let mut done = 0;
        for section in sections {
            let begin = section.addr.max(done);
            let len = section.addr.saturating_add(section.size).saturating_sub(begin);
            let len =
                len.min(budget).min(image.code(begin, begin.saturating_add(len)).len() as u64);
            let Some(end) = begin.checked_add(len) else { continue };
            budget -= len;
            done = end;
            let mut bits = vec![0u64; (len as usize).div_ceil(64)];
            let all = image.symbols().starts();
            let from = all.partition_point(|start| *start < begin);
            let mut cut = begin;
            for start in all[from..].iter().take_while(|start| **start < end) {
                let at = (start - begin) as usize;
                bits[at / 64] |= 1 << (at % 64);
                if *start > cut {
                    units.ranges.push((cut, *start));
                    cut = *start;
                }
            }
            if cut < end {
                units.ranges.push((cut, end));
            }
            units.starts.push((begin, end, bits));
        }
        units
    }

    fn is_start(&self, addr: u64) -> bool {
        let after = self.starts.partition_point(|(begin, _, _)| *begin <= addr);
        let Some((begin, end, bits)) = after.checked_sub(1).map(|at| &self.starts[at]) else {
            return false;
        };
        let at = (addr - begin) as usize;
        addr < *end && bits[at / 64] & 1 << (at % 64) != 0
    }
}
