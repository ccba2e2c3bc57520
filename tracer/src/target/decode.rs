//! Machine code: decoding, and what a probe on an instruction costs.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::Cost;

/// The longest instruction of x86.
pub(super) const MAX_INSTRUCTION: usize = 15;

/// What a uprobe on the instruction at the start of `code` costs; `None` if the kernel refuses
/// to put one there (or might, depending on its version).
///
/// Follows `arch_uprobe_analyze_insn` in the kernel's `arch/x86/kernel/uprobes.c`: which opcodes
/// it emulates (`branch_setup_xol_ops`, `push_setup_xol_ops`) and which it would single-step
/// (`good_insns_64`, `good_2byte_insns`). `code` must hold the whole instruction.
pub fn probe_cost(code: &[u8]) -> Option<Cost> {
    let mut at = 0;
    let mut operand_size = false;
    let opcode = loop {
        match *code.get(at)? {
            0x66 => operand_size = true,
            0x67 | 0x64 | 0x65 | 0xf2 | 0xf3 => {}
            // `is_prefix_bad`: segment overrides (also as branch hints) and lock.
            0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => return None,
            byte => break byte,
        }
        at += 1;
        if at >= MAX_INSTRUCTION {
            return None;
        }
    };
    let prefixes = at;
    let (rex, opcode) = match opcode {
        rex @ 0x40..=0x4f => {
            at += 1;
            (Some(rex), *code.get(at)?)
        }
        opcode => (None, opcode),
    };
    // Branches with 0x66 are refused: processors differ on what they do.
    let branch = if operand_size { None } else { Some(Cost::Emulated) };
    match opcode {
        0xeb | 0xe9 | 0xe8 | 0x70..=0x7f => branch,
        0x90 => Some(Cost::Emulated),
        // Emulated in its two plain forms alone: one byte, or with 0x41 for r8 to r15.
        0x50..=0x57 if prefixes == 0 && matches!(rex, None | Some(0x41)) => Some(Cost::Emulated),
        0x0f => match *code.get(at + 1)? {
            0x80..=0x8f => branch,
            second => two_byte_steppable(second).then_some(Cost::SingleStepped),
        },
        _ => one_byte_steppable(opcode).then_some(Cost::SingleStepped),
    }
}

/// `good_insns_64`: the rest faults, does I/O, or is VEX and EVEX coded.
fn one_byte_steppable(opcode: u8) -> bool {
    !matches!(
        opcode,
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x27 | 0x2f | 0x37 | 0x3f
            | 0x40..=0x4f
            | 0x60..=0x62
            | 0x6c..=0x6f
            | 0x82
            | 0x9a
            | 0xc4 | 0xc5
            | 0xcc..=0xcf
            | 0xd4..=0xd6
            | 0xe4..=0xe7
            | 0xea
            | 0xec..=0xef
            | 0xf1 | 0xf4 | 0xfa | 0xfb
    )
}

/// `good_2byte_insns`; where kernel versions differ, the stricter one. Three-byte opcodes
/// (0f 38, 0f 3a) are refused.
fn two_byte_steppable(opcode: u8) -> bool {
    !matches!(
        opcode,
        0x00..=0x0e | 0x18 | 0x24..=0x27 | 0x30 | 0x34..=0x3f | 0x78..=0x7d
            | 0xa6 | 0xa7 | 0xae | 0xb8 | 0xd0 | 0xf0 | 0xff
    )
}

/// A decoder of 64-bit code at `addr`.
pub(super) fn decoder(code: &[u8], addr: u64) -> Decoder<'_> {
    Decoder::with_ip(64, code, addr, DecoderOptions::NONE)
}

/// All instructions of `code`; stops at bytes that are none.
pub(super) fn instructions(code: &[u8], addr: u64) -> Vec<Instruction> {
    let mut decoder = decoder(code, addr);
    // About four bytes an instruction; a bound against surprises, not an estimate to rely on.
    let mut all = Vec::with_capacity(code.len() / 4 + 1);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        all.push(instruction);
    }
    all
}

/// Number of a general-purpose register, 0 (rax) to 15 (r15), whatever part of it is named.
pub(super) fn gpr(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

/// `rax`, `rcx`, `rdx`, `rsi`, `rdi`, `r8`–`r11`: what a callee may change (System V ABI).
pub(super) const CALLER_SAVED: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

/// Number of `rax`.
pub(super) const RAX: usize = 0;
/// Number of `rdx`.
pub(super) const RDX: usize = 2;
/// Number of `rsp`.
pub(super) const RSP: usize = 4;
/// Number of `rsi`.
pub(super) const RSI: usize = 6;
/// Number of `rdi`.
pub(super) const RDI: usize = 7;

/// The target of a direct near `jmp`, `jcc` or `call`.
pub(super) fn direct_target(instruction: &Instruction) -> Option<u64> {
    (instruction.op_count() == 1 && instruction.op0_kind() == OpKind::NearBranch64)
        .then(|| instruction.near_branch64())
}

/// The offset from the stack pointer that a memory operand names.
pub(super) fn stack_slot(instruction: &Instruction) -> Option<i64> {
    (instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None)
        .then(|| instruction.memory_displacement64() as i64)
}

/// The part of the stack frame that an instruction's first operand writes: offset from the stack
/// pointer and length.
pub(super) fn stack_store(instruction: &Instruction) -> Option<(i64, i64)> {
    if instruction.op_count() == 0
        || instruction.op0_kind() != OpKind::Memory
        || matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push)
    {
        return None;
    }
    // Displacements are 32 bits wide: sums of them do not overflow.
    Some((stack_slot(instruction)?, instruction.memory_size().size() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn costs_follow_the_kernel() {
        let emulated: &[&[u8]] = &[
            &[0x55],
            &[0x41, 0x57],
            &[0x90],
            &[0x66, 0x90],
            &[0xf3, 0x90],
            &[0xeb, 0x00],
            &[0xe9, 0, 0, 0, 0],
            &[0xe8, 0, 0, 0, 0],
            &[0x74, 0x05],
            &[0x0f, 0x84, 0, 0, 0, 0],
            &[0xf2, 0xe9, 0, 0, 0, 0],
        ];
        for code in emulated {
            assert_eq!(probe_cost(code), Some(Cost::Emulated), "{code:02x?}");
        }
        let stepped: &[&[u8]] = &[
            &[0xc3],
            &[0x5d],
            &[0x48, 0x55],
            &[0x66, 0x55],
            &[0x49, 0x57],
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0x48, 0x83, 0xec, 0x18],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0xff, 0x10],
        ];
        for code in stepped {
            assert_eq!(probe_cost(code), Some(Cost::SingleStepped), "{code:02x?}");
        }
        let refused: &[&[u8]] = &[
            &[0x66, 0xe8, 0, 0],
            &[0x66, 0x74, 0],
            &[0x66, 0x0f, 0x84, 0, 0],
            &[0x3e, 0x74, 0],
            &[0xf0, 0x48, 0x0f, 0xc1, 0x07],
            &[0xcc],
            &[0x0f, 0x05],
            &[0x0f, 0x0b],
            &[0xc5, 0xf8, 0x77],
            &[0x66],
            &[],
        ];
        for code in refused {
            assert_eq!(probe_cost(code), None, "{code:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_end(code in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = probe_cost(&code);
            let all = instructions(&code, 0xffff_ffff_ffff_fff0);
            prop_assert!(all.len() <= code.len());
        }
    }
}
