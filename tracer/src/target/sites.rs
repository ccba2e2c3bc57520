//! Where probes can sit: the entry of a function and every way out of it, on instructions that
//! the kernel emulates wherever there is one.

use std::collections::{BTreeSet, HashSet};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::decode::{MAX_INSTRUCTION, RAX, RDI, RSI, RSP, direct_target, gpr, instructions};
use super::register_calls::register_calls;
use super::scan::Scan;
use super::{Cost, ExitSite, Image, Site};

/// How far to look for an emulated instruction.
const MAX_STRAIGHT_LINE: usize = 12;
/// Numbers of rcx and rdx, which carry arguments too.
const ARGUMENTS: [usize; 4] = [RDI, RSI, 1, 2];

/// Tells which general-purpose registers an instruction changes, one bit each.
pub(super) struct Writes(InstructionInfoFactory);

impl Writes {
    pub(super) fn new() -> Self {
        Self(InstructionInfoFactory::new())
    }

    pub(super) fn of(&mut self, instruction: &Instruction) -> u16 {
        let used = self.0.info(instruction).used_registers();
        used.iter().fold(0, |mask, used| match used.access() {
            OpAccess::Write
            | OpAccess::CondWrite
            | OpAccess::ReadWrite
            | OpAccess::ReadCondWrite => {
                mask | gpr(used.register()).map_or(0, |number| 1 << number)
            }
            _ => mask,
        })
    }
}

/// Bit of a register in what [`Writes`] returns.
pub(super) fn bit(number: usize) -> u16 {
    1 << number
}

/// The code of the function that begins at `start`.
pub(super) fn body(image: &Image, start: u64) -> Vec<Instruction> {
    instructions(image.code(start, image.symbols().end_of(start)), start)
}

/// The entry site of the function that begins at `start`: the first emulated instruction at
/// which stack pointer and arguments are as the caller left them; else the first instruction
/// that can be probed at all.
pub(super) fn entry(image: &Image, start: u64) -> Option<Site> {
    let first = image.site(start);
    if first.as_ref().is_some_and(|site| site.cost == Cost::Emulated) {
        return first;
    }
    let code = body(image, start);
    let targets: HashSet<_> = code.iter().filter_map(direct_target).collect();
    let mut writes = Writes::new();
    let kept = ARGUMENTS.iter().fold(bit(RSP), |mask, number| mask | bit(*number));
    let mut best = first;
    let mut before = 0u16;
    for (at, instruction) in code.iter().take(MAX_STRAIGHT_LINE).enumerate() {
        // Where a jump leads to, a hit would not always be an entry.
        if before & kept != 0 || at > 0 && targets.contains(&instruction.ip()) {
            break;
        }
        if let Some(site) = image.site(instruction.ip()) {
            if site.cost == Cost::Emulated {
                return Some(site);
            }
            best.get_or_insert(site);
        }
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
        before |= writes.of(instruction);
    }
    best
}

/// Every way out of the function that begins at `start`; empty when one of them cannot be seen.
pub(super) fn exits(image: &Image, scan: &Scan, start: u64) -> Vec<ExitSite> {
    exits_ignoring_pointers(image, scan, start, |_| false)
}

/// As [`exits`], when nobody calls through the pointers at the `unused` places.
pub(super) fn exits_ignoring_pointers(
    image: &Image,
    scan: &Scan,
    start: u64,
    unused: impl Fn(u64) -> bool,
) -> Vec<ExitSite> {
    let pointed_to = scan.pointers_to(start).any(|place| !unused(place));
    let at_callers = if pointed_to { None } else { at_callers(image, scan, start) };
    at_callers.unwrap_or_else(|| at_returns(image, start))
}

/// Exits behind the direct calls, if these are all the ways in.
fn at_callers(image: &Image, scan: &Scan, start: u64) -> Option<Vec<ExitSite>> {
    if scan.is_taken(start) || scan.is_jumped_to(start) || image.symbols().is_exported(start) {
        return None;
    }
    let mut returns: Vec<_> = scan.calls_of(start).iter().map(|call| call.next).collect();
    let loads = scan.got_loads_of(start).iter();
    let users: BTreeSet<_> =
        loads.map(|load| image.symbols().start_of(load.at)).collect::<Option<_>>()?;
    for user in users {
        returns.extend(register_calls(scan, &body(image, user), start)?);
    }
    if returns.is_empty() {
        return None;
    }
    let mut writes = Writes::new();
    let sites = returns.into_iter().map(|next| behind_call(image, &mut writes, next));
    let mut sites: Vec<_> = sites.collect::<Option<_>>()?;
    // Two calls may run into the same site.
    sites.sort_by_key(|exit| exit.site.addr);
    sites.dedup_by(|later, kept| {
        let same = later.site.addr == kept.site.addr;
        kept.has_result &= later.has_result || !same;
        same
    });
    Some(sites)
}

/// Where a call that returns to `next` is seen to have returned: the first emulated instruction
/// that control runs into before the stack pointer moves, else the first one, which costs what a
/// `ret` costs. `None` if the call ends its function or nothing there can be probed.
pub(super) fn behind_call(image: &Image, writes: &mut Writes, next: u64) -> Option<ExitSite> {
    let symbols = image.symbols();
    let code = image.code(next, symbols.end_of(symbols.start_of(next.wrapping_sub(1))?));
    let code = &code[..code.len().min(MAX_STRAIGHT_LINE * MAX_INSTRUCTION)];
    let exit = |site, has_result| ExitSite { site, at_ret: false, has_result };
    let mut first = None;
    let mut before = 0_u16;
    for (at, instruction) in instructions(code, next).iter().enumerate().take(MAX_STRAIGHT_LINE) {
        let site = image.site(instruction.ip());
        if let Some(site) = &site
            && site.cost == Cost::Emulated
        {
            return Some(exit(site.clone(), before & bit(RAX) == 0));
        }
        if at == 0 {
            first = site;
        }
        let written = writes.of(instruction);
        if instruction.flow_control() != FlowControl::Next || written & bit(RSP) != 0 {
            break;
        }
        before |= written;
    }
    first.map(|site| exit(site, true))
}

/// The `ret`s and tail jumps of the function that begins at `start`.
pub(super) fn at_returns(image: &Image, start: u64) -> Vec<ExitSite> {
    let code = body(image, start);
    let end = code.last().map_or(start, Instruction::next_ip);
    if end.wrapping_sub(start) < image.code(start, image.symbols().end_of(start)).len() as u64 {
        // Something in it is no instruction: what comes behind is not known.
        return Vec::new();
    }
    let mut exits = Vec::new();
    for (at, instruction) in code.iter().enumerate() {
        let leaves = match instruction.flow_control() {
            FlowControl::Return => true,
            FlowControl::UnconditionalBranch => {
                direct_target(instruction).is_some_and(|target| !(start..end).contains(&target))
            }
            FlowControl::IndirectBranch => is_tail_jump(&code[..at], instruction),
            _ => false,
        };
        if leaves {
            let Some(site) = image.site(instruction.ip()) else { return Vec::new() };
            let has_result = instruction.flow_control() == FlowControl::Return;
            exits.push(ExitSite { site, at_ret: true, has_result });
        }
    }
    exits
}

/// Whether an indirect jump leaves the function, or goes through a jump table.
fn is_tail_jump(before: &[Instruction], jump: &Instruction) -> bool {
    if jump.op0_kind() == OpKind::Memory {
        // Tables in position-dependent code are indexed; a pointer to a function is not.
        return jump.memory_index() == Register::None;
    }
    let register = jump.op0_register().full_register();
    let mut writes = Writes::new();
    let Some(number) = gpr(register) else { return false };
    // Relative tables: `movslq (table,index,4), reg; add table, reg; jmp *reg`.
    for instruction in before.iter().rev().take(MAX_STRAIGHT_LINE) {
        if writes.of(instruction) & bit(number) == 0 {
            continue;
        }
        return match instruction.mnemonic() {
            Mnemonic::Add | Mnemonic::Movsxd => false,
            Mnemonic::Mov => {
                instruction.op1_kind() == OpKind::Memory
                    && instruction.memory_index() == Register::None
            }
            _ => false,
        };
    }
    false
}
