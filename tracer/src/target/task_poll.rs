//! Where `tokio::runtime::task::raw::poll<T, S>` returns to. It is reached only through the
//! vtable in a task's header, `call *(vtable)` with the header as argument, at very few places
//! that are all in tokio's schedulers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{Code, FlowControl, Instruction, OpKind, Register};

use super::decode::{CALLER_SAVED, RDI, gpr};
use super::landmarks::{addresses, returns_behind_thunk};
use super::scan::Scan;
use super::sites::{Writes, behind_call_at_any_cost, bit, body};
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
            let exit = behind_call_at_any_cost(image, call.next)?;
            sites.insert(exit.site.addr, exit);
            callers.insert(start);
        }
    }
    let reaches = |name: &&str| addresses(image, &[name]).iter().all(|addr| callers.contains(addr));
    let all_through_one = !addresses(image, &[RAW_TASK_POLL]).is_empty() && reaches(&RAW_TASK_POLL);
    let complete = all_through_one || POLLERS.iter().all(|name| reaches(name));
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

/// Something that a register holds; equal numbers are equal values.
type ValueId = u32;

/// Finds calls (and tail jumps) of `header.vtable[0](header)`: the pointer at header + 0x10 is
/// loaded, the function is at its offset 0, and rdi holds the header.
fn vtable_calls(code: &[Instruction]) -> Vec<VtableCall> {
    let mut calls = Vec::new();
    let mut writes = Writes::new();
    let mut registers: [ValueId; 16] = std::array::from_fn(|number| number as ValueId);
    let mut stack: HashMap<i64, ValueId> = HashMap::new();
    // Where a value was loaded from.
    let mut loaded: HashMap<ValueId, (ValueId, i64)> = HashMap::new();
    let mut fresh = 16;
    for instruction in code {
        let place = || {
            let base = gpr(instruction.memory_base())?;
            (instruction.memory_index() == Register::None)
                .then(|| (registers[base], instruction.memory_displacement64() as i64))
        };
        let is_vtable_of_rdi =
            |value| loaded.get(&value).is_some_and(|from| *from == (registers[RDI], VTABLE));
        let is_call = matches!(
            instruction.flow_control(),
            FlowControl::IndirectCall | FlowControl::IndirectBranch
        );
        if is_call {
            let through = match instruction.op0_kind() {
                OpKind::Memory => place(),
                _ => gpr(instruction.op0_register())
                    .and_then(|number| loaded.get(&registers[number]).copied()),
            };
            if through.is_some_and(|(value, at)| at == 0 && is_vtable_of_rdi(value)) {
                let is_jump = instruction.flow_control() == FlowControl::IndirectBranch;
                calls.push(VtableCall { next: instruction.next_ip(), is_jump });
            }
        }
        fresh += 1;
        let on_stack = instruction.memory_base() == Register::RSP;
        let slot = instruction.memory_displacement64() as i64;
        let value = match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register =>
            {
                gpr(instruction.op1_register()).map(|number| registers[number])
            }
            Code::Mov_r64_rm64 if on_stack && instruction.memory_index() == Register::None => {
                Some(*stack.entry(slot).or_insert(fresh))
            }
            Code::Mov_r64_rm64 => place().map(|from| {
                loaded.insert(fresh, from);
                fresh
            }),
            _ => None,
        };
        if on_stack && instruction.code() == Code::Mov_rm64_r64 {
            let number = gpr(instruction.op1_register());
            stack.insert(slot, number.map_or(fresh, |number| registers[number]));
        }
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            for number in CALLER_SAVED {
                fresh += 1;
                registers[number] = fresh;
            }
        }
        let written = writes.of(instruction);
        for (number, register) in registers.iter_mut().enumerate() {
            if written & bit(number) != 0 {
                fresh += 1;
                *register = value.unwrap_or(fresh);
            }
        }
    }
    calls
}
