//! Bodies that call no other: all they await is counted, so their polls are known exactly.

use std::fmt::Write;

use futures::future::BoxFuture;

use super::{bodies, choice};
use crate::plan::{Cx, fold, scramble};
use crate::record::{Guard, Out};

bodies! { "leaf", "leaves.rs",
    READ_PAGE = 16 "read_page" Leaf,
    PARSE_HEADER = 17 "parse_header" Leaf,
    HASH_BLOCK = 18 "hash_block" Leaf,
    ENCODE_ROW = 19 "encode_row" Leaf,
    DECODE_ROW = 20 "decode_row" Leaf,
    RENDER_LINE = 21 "render_line" Leaf,
    COUNT_WORDS = 22 "count_words" Leaf,
    SORT_KEYS = 23 "sort_keys" Leaf,
}

/// Any leaf, through `dyn Future`.
pub fn boxed(cx: Cx) -> BoxFuture<'static, Out> {
    match choice(&cx, 8) {
        0 => Box::pin(read_page(cx)),
        1 => Box::pin(parse_header(cx)),
        2 => Box::pin(hash_block(cx)),
        3 => Box::pin(encode_row(cx)),
        4 => Box::pin(decode_row(cx)),
        5 => Box::pin(render_line(cx)),
        6 => Box::pin(count_words(cx)),
        _ => Box::pin(sort_keys(cx)),
    }
}

/// Fills a page piece by piece and sums it up.
pub async fn read_page(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, READ_PAGE);
    guard.locate();
    let mut page = [0_u64; 24];
    let mut at = cx.seed;
    for piece in 0..=cx.yields() as usize {
        for cell in page.iter_mut().skip(piece % 8).step_by(3) {
            at = scramble(at.wrapping_add(piece as u64));
            *cell ^= at;
        }
        if piece < cx.yields() as usize {
            guard.pause().await;
        }
    }
    let sum = page.iter().fold(at, |acc, &cell| fold(acc, cell));
    guard.finish(sum).await
}

/// Builds the text of a header and reads its fields back.
pub async fn parse_header(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, PARSE_HEADER);
    guard.locate();
    let mut text = String::with_capacity(64);
    for field in 0..4 {
        let value = (scramble(cx.seed ^ field) >> 40) as u32;
        if write!(text, "field-{field}: {value}\r\n").is_err() {
            return Err(guard.fail(crate::record::Fail(field)));
        }
    }
    for _ in 0..cx.yields() {
        guard.pause().await;
    }
    let mut sum = 0;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        sum = fold(sum ^ name.len() as u64, value.parse().unwrap_or(1));
    }
    guard.finish(sum).await
}

/// A toy hash over blocks, one between two waits.
pub async fn hash_block(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, HASH_BLOCK);
    guard.locate();
    let mut state = [cx.seed, !cx.seed, cx.seed.rotate_left(32), 0x5eed];
    let mut left = cx.yields();
    loop {
        for round in 0..12_u64 {
            let [a, b, c, d] = state;
            let mixed = a.wrapping_add(b).rotate_left(13) ^ c;
            state = [d.wrapping_mul(round | 1), a ^ mixed, b.rotate_left(7), c.wrapping_add(mixed)];
        }
        if left == 0 {
            break;
        }
        left -= 1;
        guard.pause().await;
    }
    let [a, b, c, d] = state;
    guard.finish(fold(fold(a, b), fold(c, d))).await
}

/// Writes numbers as a comma-separated row.
pub async fn encode_row(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, ENCODE_ROW);
    guard.locate();
    let mut row = Vec::with_capacity(96);
    let mut waits = 0;
    for column in 0..6 {
        let mut number = scramble(cx.seed.wrapping_add(column)) % 1_000_000;
        while number > 0 {
            row.push(b'0' + (number % 10) as u8);
            number /= 10;
        }
        row.push(b',');
        if waits < cx.yields() {
            waits += 1;
            guard.pause().await;
        }
    }
    while waits < cx.yields() {
        waits += 1;
        guard.pause().await;
    }
    let sum = row.iter().fold(0, |acc, &byte| fold(acc, u64::from(byte)));
    guard.finish(sum).await
}

/// Reads length-prefixed cells from a buffer.
pub async fn decode_row(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, DECODE_ROW);
    guard.locate();
    let buffer: Vec<u8> = (0..48_u64).map(|i| (scramble(cx.seed ^ i) >> 13) as u8).collect();
    let (mut at, mut sum, mut waits) = (0_usize, cx.seed, cx.yields());
    while at < buffer.len() {
        let length = usize::from(buffer[at] & 7) + 1;
        let cell = buffer.get(at + 1..at + 1 + length).unwrap_or_default();
        sum = cell.iter().fold(sum, |acc, &byte| acc.wrapping_mul(31) ^ u64::from(byte));
        at += 1 + length;
        if waits > 0 {
            waits -= 1;
            guard.pause().await;
        }
    }
    for _ in 0..waits {
        guard.pause().await;
    }
    guard.finish(sum).await
}

/// Formats a line of output.
pub async fn render_line(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, RENDER_LINE);
    guard.locate();
    let mut line = String::new();
    for turn in 0..=cx.yields() {
        line.clear();
        let (width, number) = ((turn % 9) as usize + 3, cx.seed >> (turn % 48));
        if write!(line, "{number:>width$}|{turn:<4}|{:x}", number ^ 0xff).is_err() {
            line.push('!');
        }
        if turn < cx.yields() {
            guard.pause().await;
        }
    }
    let sum = line.bytes().fold(cx.seed, |acc, byte| acc.rotate_left(5) ^ u64::from(byte));
    guard.finish(sum).await
}

/// Counts the words of a made-up text.
pub async fn count_words(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, COUNT_WORDS);
    guard.locate();
    let mut counts = [0_u32; 16];
    let mut text = Vec::new();
    for round in 0..=u64::from(cx.yields()) {
        let mut bits = scramble(cx.seed ^ round);
        while bits > 0 {
            text.push(if bits & 7 == 0 { b' ' } else { b'a' + (bits & 15) as u8 });
            bits >>= 4;
        }
        for word in text.split(|&byte| byte == b' ') {
            counts[word.len() & 15] += 1;
        }
        text.clear();
        if round < u64::from(cx.yields()) {
            guard.pause().await;
        }
    }
    let sum = counts.iter().fold(cx.seed, |acc, &count| fold(acc, u64::from(count)));
    guard.finish(sum).await
}

/// Sorts keys and looks some of them up.
pub async fn sort_keys(cx: Cx) -> Out {
    let guard = Guard::begin(&cx, SORT_KEYS);
    guard.locate();
    let mut keys: Vec<u32> = (0..20).map(|i| (scramble(cx.seed ^ i) >> 32) as u32).collect();
    let (before, after) = (cx.yields() / 2, cx.yields().div_ceil(2));
    for _ in 0..before {
        keys.rotate_left(3);
        guard.pause().await;
    }
    keys.sort_unstable();
    let mut found = 0;
    for wait in 0..4 + after {
        let wanted = wait.wrapping_mul(0x0765_4321);
        found = fold(found, keys.partition_point(|&key| key < wanted) as u64);
        if wait < after {
            guard.pause().await;
        }
    }
    guard.finish(fold(found, u64::from(keys[7]))).await
}
