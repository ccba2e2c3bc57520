//! Where `tokio::runtime::task::raw::poll<T, S>` returns to. It is reached only through the
//! vtable in a task's header, `call *(vtable)` with the header as argument, at very few places
//! that are all in tokio's schedulers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{Code, FlowControl, Instruction, OpKind, Register};

use super::decode::{CALLER_SAVED, RDI, direct_target, gpr};
use super::landmarks::{addresses, returns_behind_thunk};
use super::scan::Scan;
use super::sites::{Writes, behind_call, bit, body};
use super::{ExitSite, Image};

/// The poll function in a task's vtable.
pub(super) const RAW_POLL: &str = "tokio::runtime::task::raw::poll";

/// What every poll of a task goes through where it was not inlined.
const RAW_TASK_POLL: &str = "tokio::runtime::task::raw::RawTask::poll";

/// Functions that poll tasks, in one version of tokio or another: where one of them is in the
/// binary and no call is seen in it, the calls found are not all.
const POLLERS: [&str; 9] = [
    RAW_TASK_POLL,
    "tokio::runtime::task::LocalNotified::run",
    "tokio::runtime::task::UnownedTask::run",
    "tokio::runtime::blocking::pool::Task::run",
    "tokio::runtime::blocking::pool::Inner::run",
    "tokio::runtime::blocking::sharded::ShardedImpl::run_worker",
    "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
    "tokio::runtime::scheduler::current_thread::Context::run_task",
    "tokio::task::local::LocalSet::tick",
];

/// Instructions at most between a shared end of blocks and the call in it.
const MAX_SHARED: usize = 8;

/// Offset of the vtable in a task's header.
const VTABLE: i64 = 0x10;

/// Exits of every `raw::poll`: behind the calls through the vtable if these are certainly all,
/// else at its own `ret`s.
pub(super) fn exits(image: &Image, scan: &Scan) -> Vec<ExitSite> {
    let polls = addresses(image, &[RAW_POLL]);
    if polls.is_empty() {
        return Vec::new();
    }
    at_callers(image, scan).unwrap_or_else(|| {
        let mut sites = BTreeMap::new();
        for poll in polls {
            for exit in returns_behind_thunk(image, scan, poll) {
                sites.insert(exit.site.addr, exit);
            }
        }
        sites.into_values().collect()
    })
}

fn at_callers(image: &Image, scan: &Scan) -> Option<Vec<ExitSite>> {
    let symbols = image.symbols();
    let starts: BTreeSet<_> =
        scan.indirect().iter().filter_map(|at| symbols.start_of(*at)).collect();
    let mut writes = Writes::new();
    let mut callers = BTreeSet::new();
    let mut sites = BTreeMap::new();
    for start in starts {
        // C keeps tables of functions in objects too.
        if !symbols.at(start).any(|function| is_rust(&function.symbol)) {
            continue;
        }
        for call in vtable_calls(&body(image, start)) {
            if call.is_jump {
                // Returns to wherever its own caller is.
                return None;
            }
            let exit = behind_call(image, &mut writes, call.next)?;
            sites.insert(exit.site.addr, exit);
            callers.insert(start);
        }
    }
    let reaches =
        |name: &&str| addresses(image, &[*name]).iter().all(|addr| callers.contains(addr));
    let all_through_one = !addresses(image, &[RAW_TASK_POLL]).is_empty() && reaches(&RAW_TASK_POLL);
    let complete = all_through_one || POLLERS.iter().all(reaches);
    (complete && !sites.is_empty()).then(|| sites.into_values().collect())
}

fn is_rust(symbol: &str) -> bool {
    symbol.starts_with("_ZN") || symbol.starts_with("_R") || symbol == "main"
}

/// A call through the first entry of a task's vtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VtableCall {
    next: u64,
    is_jump: bool,
}

impl VtableCall {
    fn of(instruction: &Instruction) -> Self {
        let is_jump = instruction.flow_control() == FlowControl::IndirectBranch;
        Self { next: instruction.next_ip(), is_jump }
    }
}

/// Finds calls (and tail jumps) of `header.vtable[0](header)`: the pointer at header + 0x10 is
/// loaded, the function is at its offset 0, and rdi holds the header.
fn vtable_calls(code: &[Instruction]) -> Vec<VtableCall> {
    let candidates: Vec<_> = (0..code.len()).filter(|at| is_indirect(&code[*at])).collect();
    // Ends of blocks that are equal are merged: the call may be reached by a jump that has the
    // vtable of its own path in a register. Such jumps lead to just before the call.
    let shared = |target: u64| {
        let at = code.binary_search_by_key(&target, Instruction::ip).ok()?;
        let call = *candidates.get(candidates.partition_point(|call| *call < at))?;
        (call - at < MAX_SHARED).then_some((at, call))
    };
    let mut calls = Vec::new();
    let mut values = Values::new();
    for instruction in code {
        if values.is_vtable_call(instruction) {
            calls.push(VtableCall::of(instruction));
        }
        if let Some((at, call)) = direct_target(instruction).and_then(shared) {
            let mut values = values.clone();
            for instruction in &code[at..call] {
                values.step(instruction);
            }
            if values.is_vtable_call(&code[call]) {
                calls.push(VtableCall::of(&code[call]));
            }
        }
        values.step(instruction);
    }
    calls
}

fn is_indirect(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch)
}

/// Equal numbers are equal values.
type ValueId = u32;

/// What registers and stack slots hold along a straight line of code.
#[derive(Clone)]
struct Values {
    registers: [ValueId; 16],
    stack: HashMap<i64, ValueId>,
    /// Where a value was loaded from: the value of the pointer, and the offset from it.
    loaded: HashMap<ValueId, (ValueId, i64)>,
    fresh: ValueId,
}

impl Values {
    fn new() -> Self {
        let registers = std::array::from_fn(|number| number as ValueId);
        Self { registers, stack: HashMap::new(), loaded: HashMap::new(), fresh: 16 }
    }

    fn fresh(&mut self) -> ValueId {
        self.fresh += 1;
        self.fresh
    }

    /// The pointer and the offset of a memory operand.
    fn place(&self, instruction: &Instruction) -> Option<(ValueId, i64)> {
        let base = gpr(instruction.memory_base())?;
        (instruction.memory_index() == Register::None)
            .then(|| (self.registers[base], instruction.memory_displacement64() as i64))
    }

    /// Whether the instruction calls or jumps to `vtable[0]` of the header in rdi.
    fn is_vtable_call(&self, instruction: &Instruction) -> bool {
        if !is_indirect(instruction) {
            return false;
        }
        let function = match instruction.op0_kind() {
            OpKind::Memory => self.place(instruction),
            _ => gpr(instruction.op0_register())
                .and_then(|number| self.loaded.get(&self.registers[number]).copied()),
        };
        function.is_some_and(|(vtable, at)| {
            at == 0 && self.loaded.get(&vtable) == Some(&(self.registers[RDI], VTABLE))
        })
    }

    fn step(&mut self, instruction: &Instruction) {
        let on_stack = instruction.memory_base() == Register::RSP
            && instruction.memory_index() == Register::None;
        let slot = instruction.memory_displacement64() as i64;
        let is_load = instruction.code() == Code::Mov_r64_rm64;
        let is_store = instruction.code() == Code::Mov_rm64_r64;
        let value = match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Register, OpKind::Register) if is_load || is_store => {
                gpr(instruction.op1_register()).map(|number| self.registers[number])
            }
            (_, OpKind::Memory) if is_load && on_stack => {
                let fresh = self.fresh();
                Some(*self.stack.entry(slot).or_insert(fresh))
            }
            (_, OpKind::Memory) if is_load => {
                let fresh = self.fresh();
                let from = self.place(instruction);
                from.map(|from| {
                    self.loaded.insert(fresh, from);
                    fresh
                })
            }
            (OpKind::Memory, _) if is_store && on_stack => {
                if let Some(number) = gpr(instruction.op1_register()) {
                    self.stack.insert(slot, self.registers[number]);
                }
                None
            }
            _ => None,
        };
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            for number in CALLER_SAVED {
                self.registers[number] = self.fresh();
            }
        }
        let written = Writes::new().of(instruction);
        for number in 0..16 {
            if written & bit(number) != 0 {
                self.registers[number] = value.unwrap_or_else(|| self.fresh());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::decode::instructions;

    fn calls(code: &[u8]) -> Vec<VtableCall> {
        vtable_calls(&instructions(code, 0x1000))
    }

    #[test]
    fn a_call_through_the_vtable_is_found() {
        // mov 0x10(%r12),%rax; mov %r12,%rdi; call *(%rax)
        let code = [0x49, 0x8b, 0x44, 0x24, 0x10, 0x4c, 0x89, 0xe7, 0xff, 0x10];
        assert_eq!(calls(&code), [VtableCall { next: 0x100a, is_jump: false }]);
        // …; jmp *(%rax)
        let code = [0x49, 0x8b, 0x44, 0x24, 0x10, 0x4c, 0x89, 0xe7, 0xff, 0x20];
        assert_eq!(calls(&code), [VtableCall { next: 0x100a, is_jump: true }]);
        // mov 0x10(%rdi),%rax; mov (%rax),%rax; call *%rax
        let code = [0x48, 0x8b, 0x47, 0x10, 0x48, 0x8b, 0x00, 0xff, 0xd0];
        assert_eq!(calls(&code).len(), 1);
    }

    #[test]
    fn calls_of_other_entries_are_not() {
        // mov 0x10(%r13),%rax; add $0x10,%rax; mov %r13,%rdi; call *(%rax)
        let code = [0x49, 0x8b, 0x45, 0x10, 0x48, 0x83, 0xc0, 0x10, 0x4c, 0x89, 0xef, 0xff, 0x10];
        assert_eq!(calls(&code), []);
        // mov 0x10(%r12),%rax; mov %r12,%rdi; call *0x10(%rax)
        let code = [0x49, 0x8b, 0x44, 0x24, 0x10, 0x4c, 0x89, 0xe7, 0xff, 0x50, 0x10];
        assert_eq!(calls(&code), []);
        // mov 0x10(%r12),%rax; mov %r13,%rdi; call *(%rax): the header of something else
        let code = [0x49, 0x8b, 0x44, 0x24, 0x10, 0x4c, 0x89, 0xef, 0xff, 0x10];
        assert_eq!(calls(&code), []);
    }

    #[test]
    fn a_shared_call_is_found() {
        let code = [
            0x49, 0x8b, 0x45, 0x10, // 1000 mov 0x10(%r13),%rax
            0xeb, 0x08, // 1004 jmp 100e
            0x49, 0x8b, 0x45, 0x10, // 1006 mov 0x10(%r13),%rax
            0x48, 0x83, 0xc0, 0x10, // 100a add $0x10,%rax
            0x4c, 0x89, 0xef, // 100e mov %r13,%rdi
            0xff, 0x10, // 1011 call *(%rax)
        ];
        assert_eq!(calls(&code), [VtableCall { next: 0x1013, is_jump: false }]);
    }
}
