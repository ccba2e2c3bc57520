//! Calls of a function whose address was loaded from the GOT into a register first: in loops,
//! and in unoptimized code everywhere.

use iced_x86::{FlowControl, Instruction, OpAccess, OpKind};

use super::decode::{CALLER_SAVED, direct_target, gpr};
use super::scan::Scan;
use super::sites::{Writes, bit};

/// More rounds than any real function needs: loops in loops.
const MAX_ROUNDS: usize = 16;

/// The instructions behind every call through a register that may hold the address of the
/// function that begins at `function`, in `code` that loads it from the GOT; `None` if the
/// address may get anywhere else than into such calls.
pub(super) fn register_calls(scan: &Scan, code: &[Instruction], function: u64) -> Option<Vec<u64>> {
    let mut writes = Writes::new();
    let written: Vec<_> = code.iter().map(|instruction| writes.of(instruction)).collect();
    let callee_saved = CALLER_SAVED.iter().fold(u16::MAX, |mask, number| mask & !bit(*number));
    let index = |addr: u64| code.binary_search_by_key(&addr, Instruction::ip).ok();
    let mut targeted = vec![false; code.len()];
    for target in code.iter().filter_map(direct_target).filter_map(index) {
        targeted[target] = true;
    }
    // Registers that may hold the address before each instruction, one bit each.
    let mut before = vec![0u16; code.len() + 1];
    // At landing pads, which nothing in the code leads to: what may be there at any call.
    let mut at_pads = 0;
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        let mut falls_through = true;
        for (at, instruction) in code.iter().enumerate() {
            if !falls_through && !targeted[at] && before[at] | at_pads != before[at] {
                before[at] |= at_pads;
                changed = true;
            }
            let mut after = before[at] & !written[at];
            if scan.got_load(instruction) == Some(function) {
                after |= bit(gpr(instruction.op0_register())?);
            }
            let flow = instruction.flow_control();
            if matches!(flow, FlowControl::Call | FlowControl::IndirectCall) {
                after &= callee_saved;
                changed |= at_pads | after != at_pads;
                at_pads |= after;
            }
            falls_through = !matches!(
                flow,
                FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Return
                    | FlowControl::Exception
            );
            let target = direct_target(instruction).filter(|_| flow != FlowControl::Call);
            let next = falls_through.then_some(at + 1);
            for to in target.and_then(index).into_iter().chain(next) {
                changed |= before[to] | after != before[to];
                before[to] |= after;
            }
        }
        if !changed {
            return calls(code, &before);
        }
    }
    None
}

/// The calls, if the address is used for nothing else.
fn calls(code: &[Instruction], before: &[u16]) -> Option<Vec<u64>> {
    let mut reads = iced_x86::InstructionInfoFactory::new();
    let mut calls = Vec::new();
    for (instruction, held) in code.iter().zip(before) {
        if *held == 0 {
            continue;
        }
        let is_call = instruction.flow_control() == FlowControl::IndirectCall
            && instruction.op0_kind() == OpKind::Register
            && gpr(instruction.op0_register()).is_some_and(|number| held & bit(number) != 0);
        if is_call {
            calls.push(instruction.next_ip());
            continue;
        }
        // Through a jump table the address may get to where no jump is seen to lead.
        if instruction.flow_control() == FlowControl::IndirectBranch {
            return None;
        }
        let used = reads.info(instruction).used_registers();
        let is_read = used.iter().any(|used| {
            !matches!(used.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::None)
                && gpr(used.register()).is_some_and(|number| held & bit(number) != 0)
        });
        if is_read {
            return None;
        }
    }
    Some(calls)
}

#[cfg(test)]
mod tests {
    use crate::target::fixture::{Fixture, call, got_load_rax};
    use crate::target::{Analysis, ExitSite};

    /// Exits of `callee`, which `caller`'s code calls through rax.
    fn exits(code: &[u8]) -> (u64, Vec<ExitSite>) {
        let mut fixture = Fixture::default();
        let callee = fixture.function("callee", &[0xc3]);
        let slot = fixture.got(callee);
        let caller = fixture.next_function();
        let mut all = got_load_rax(caller, slot).to_vec();
        all.extend(code);
        fixture.function("caller", &all);
        let direct = fixture.next_function();
        let mut all = call(direct, callee).to_vec();
        all.extend([0x74, 0x00, 0xc3]);
        fixture.function("direct", &all);
        let image = fixture.image();
        let function = image.functions().iter().find(|function| &*function.name == "callee");
        let plain = Analysis::new(&image).plain_functions(&[function.expect("it is there")]);
        (caller, plain.into_iter().flatten().next().expect("it can be probed").exits)
    }

    #[test]
    fn calls_through_a_register_are_calls() {
        // call *%rax; je +0; ret
        let (caller, found) = exits(&[0xff, 0xd0, 0x74, 0x00, 0xc3]);
        let sites: Vec<_> = found.iter().map(|exit| (exit.site.addr, exit.at_ret)).collect();
        assert_eq!(sites, [(caller + 9, false), (caller + 0x15, false)]);
        // mov %rax,%rbx; call *%rbx; je +0; call *%rbx; je +0; ret: kept over a call.
        let code = [0x48, 0x89, 0xc3, 0xff, 0xd3, 0x74, 0x00, 0xff, 0xd3, 0x74, 0x00, 0xc3];
        let (_, found) = exits(&code);
        assert!(found.iter().all(|exit| exit.at_ret), "copied: nobody knows where to");
    }

    #[test]
    fn an_address_that_escapes_is_a_value() {
        // mov %rax,(%rdi); call *%rax; je +0; ret
        let (_, found) = exits(&[0x48, 0x89, 0x07, 0xff, 0xd0, 0x74, 0x00, 0xc3]);
        assert!(found.iter().all(|exit| exit.at_ret));
        // jmp *%rax
        let (_, found) = exits(&[0xff, 0xe0]);
        assert!(found.iter().all(|exit| exit.at_ret));
    }
}
