//! Handlers that use control flow, arrays, functions and errors.

use dotcompute_core::device::{DeviceContext, DeviceError, DeviceResult, device_fn, device_handler};

use super::{Input, Output, Pair, Table};

const LIMIT: usize = 16;
const SECOND: u32 = 1;

#[device_fn]
fn mixed(value: u64, rounds: u32) -> u64 {
    let mut hash = value ^ 0xCBF2_9CE4_8422_2325;
    for _ in 0..rounds {
        hash = hash.wrapping_mul(0x100_0000_01B3).rotate_left(5);
        if hash % 7 == 3 {
            return hash;
        }
    }
    hash
}

#[device_fn]
fn total(values: &[i32]) -> i64 {
    let mut sum = 0;
    for value in values {
        sum += *value as i64;
    }
    sum
}

#[device_fn]
fn bump(cells: &mut [i32; 16], at: usize, by: i32) {
    cells[at] += by;
}

#[device_fn]
fn swapped(pair: Pair) -> Pair {
    Pair { left: pair.right, right: pair.left }
}

#[device_handler]
pub(super) fn loops(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    let mut count = 0u64;
    let start = input.small.min(40).max(-40);
    for i in start..start + 9 {
        if i == 3 {
            continue;
        }
        count = count.wrapping_mul(31) + i as u64 % 1000;
    }
    for i in (start..=start + 4).rev() {
        count ^= (i as u64) << 3;
    }
    for i in (0..LIMIT).step_by(3) {
        table.cells[i] ^= count as i32;
    }
    let mut depth = 0_i32;
    let found = 'outer: loop {
        let mut i = 0;
        if depth > 2 {
            break 'outer -2;
        }
        while i < 16 {
            if (table.cells[i] as u32 ^ count as u32) % 11 == 5 {
                break 'outer i as i32;
            }
            i += 1;
            if i as i32 == input.small {
                depth += 1;
                continue 'outer;
            }
        }
        break -1;
    };
    for cell in &mut table.cells {
        *cell = cell.wrapping_add(found);
    }
    for cell in table.cells.iter() {
        count = count.rotate_left(1) ^ *cell as u64;
    }
    ctx.reply(Output { words: [count, found as u64, depth as u64, 0, 0, 0, 0, 0] });
    Ok(())
}

#[device_handler]
pub(super) fn errors(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    if input.small < 0 {
        return Err(DeviceError::new(input.small));
    }
    table.sum = table.sum.wrapping_add(1);
    match input.operation {
        0..=3 => {
            let at = input.small as usize;
            table.cells[at] -= 5;
        }
        4 | 5 if input.a < 0 => return Err(DeviceError::new(70 + table.sum as i32 % 3)),
        operation @ 4..8 => table.cells[operation as usize] += 1,
        SECOND.. => {
            if input.b % 3 == 0 {
                return Err(DeviceError::new(input.b as i32));
            }
            ctx.send(Output { words: [1; 8] });
        }
    }
    ctx.reply(Output { words: [table.sum, table.cells[3] as u64, 0, 0, 0, 0, 0, 0] });
    Ok(())
}

/// Operands are evaluated from left to right, and each once.
#[device_handler]
pub(super) fn order(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    let mut n = input.small as i64;
    let first = n + {
        n = n.wrapping_mul(3);
        n
    } * {
        n -= 1;
        n
    };
    let at = (input.operation % 20) as usize;
    let second = table.cells[at].wrapping_add(if input.a > 0 { table.cells[at % 16] } else { 7 });
    bump(&mut table.cells, at, input.small);
    let n = total(&table.cells) + n;
    let shadow = {
        let n = n / 2;
        n - first
    };
    let pair = swapped(Pair { left: shadow, right: n });
    let mut copy = table.cells;
    copy[0] = 9;
    let row = &mut table.rows[(input.operation % 3) as usize];
    row[1] = pair.left as f32;
    row[0] += row[1];
    let ok = n != 0 && 100 / n > 1 || copy[0] == table.cells[0];
    let ones = [1u8; 5];
    let mut sum = 0;
    for one in ones {
        sum += one;
    }
    ctx.reply(Output {
        words: [
            first as u64,
            second as u64,
            mixed(pair.right as u64, input.operation),
            ok as u64,
            row[0].to_bits() as u64,
            total(&copy) as u64,
            sum as u64,
            copy.len() as u64,
        ],
    });
    Ok(())
}

/// A handler without state.
#[device_handler]
pub(super) fn stateless(ctx: &mut DeviceContext<Output>, input: &Input) -> DeviceResult {
    let kind = if input.operation < 4 { SECOND } else { u32::MAX };
    if kind == SECOND && ctx.priority() > 0 {
        ctx.reply(Output { words: [mixed(input.a as u64, kind); 8] });
        Ok(())
    } else {
        Err(DeviceError::new(12))
    }
}

#[device_fn]
fn is_even(n: u32) -> bool {
    if n == 0 { true } else { is_odd(n - 1) }
}

#[device_fn]
fn is_odd(n: u32) -> bool {
    if n == 0 { false } else { is_even(n - 1) }
}

/// Its functions call each other, which the CPU can do.
#[device_handler]
pub(super) fn recursive(ctx: &mut DeviceContext<Output>, input: &Input) -> DeviceResult {
    ctx.reply(Output { words: [is_even(input.operation) as u64; 8] });
    Ok(())
}

/// Names that are C++'s or the translation's, and statements without an effect.
#[device_handler]
pub(super) fn names(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    let _ = input.a;
    let _ = input.b;
    let int = input.small;
    let r#struct = int;
    let t1 = r#struct;
    let dc_fault = t1 as u64;
    let größe = dc_fault;
    {
        let int = 4_u8;
        table.cells[int as usize] = 2;
    }
    let mut sum = input.bytes[(input.operation % 5) as usize] as u32;
    for byte in &input.bytes {
        sum += *byte as u32 * byte.count_ones();
    }
    let copy = input.bytes;
    sum -= copy[2].min(input.bytes[1]) as u32;
    let largest = {
        let mut largest = i32::MIN;
        for cell in table.cells {
            largest = largest.max(cell);
        }
        largest
    };
    ctx.reply(Output { words: [größe, int as u64, largest as u64, sum as u64, 0, 0, 0, 0] });
    Ok(())
}
