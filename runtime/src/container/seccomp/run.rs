//! What the kernel would answer: classic BPF as seccomp runs it. For tests.

use super::Instruction;

/// The answer of a program to a call.
pub(super) fn run(program: &[Instruction], arch: u32, number: u32, args: &[u64]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        offset => {
            let arg = args.get((offset as usize - 16) / 8).copied().unwrap_or(0);
            if offset.is_multiple_of(8) {
                (arg & 0xffff_ffff) as u32
            } else {
                (arg >> 32) as u32
            }
        }
    };
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let i = program[at];
        let jump = |yes: bool| if yes { i.jt } else { i.jf } as usize;
        at += 1;
        match i.code {
            0x20 => a = word(i.k),
            0x54 => a &= i.k,
            0x05 => at += i.k as usize,
            0x15 => at += jump(a == i.k),
            0x25 => at += jump(a > i.k),
            0x35 => at += jump(a >= i.k),
            0x06 => return i.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}
