//! Handlers that use the operations of numbers.

use dotcompute_core::device::{DeviceContext, DeviceResult, device_handler};

use super::{Input, Output, Table};

const TABLE: [[f64; 2]; 3] = [[0.1, -1e300], [f64::NEG_INFINITY, f64::MIN_POSITIVE], [f64::NAN, 3.0]];

#[device_handler]
pub(super) fn integers(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    let a = input.a;
    let b = input.b;
    let result: i64 = match input.operation % 16 {
        0 => a + b,
        1 => a - b,
        2 => a * b,
        3 => a / b,
        4 => a % b,
        5 => -a,
        6 => a << input.small,
        7 => a >> (input.small as u64),
        8 => a.abs(),
        9 | 10 => (a & b) ^ (a | !b),
        11 => a.wrapping_mul(b).rotate_left(13),
        12 => a.saturating_add(b).max(b),
        13 => a.saturating_sub(b).min(a),
        14 => a.abs_diff(b) as i64,
        _ => a.signum() + (a.count_ones() + a.leading_zeros() + a.trailing_zeros()) as i64,
    };
    table.sum = table.sum.wrapping_add(result as u64);
    ctx.reply(Output { words: [result as u64, table.sum, 0, 0, 0, 0, 0, 0] });
    Ok(())
}

/// Small numbers are promoted to `int` in C++.
#[device_handler]
pub(super) fn small_integers(
    ctx: &mut DeviceContext<Output>,
    table: &mut Table,
    input: &Input,
) -> DeviceResult {
    let a = input.a as i8;
    let b = input.b as i8;
    let c = input.a as u16;
    let d = input.b as u16;
    let result = match input.operation % 12 {
        0 => (a + b) as i64,
        1 => (a * b) as i64,
        2 => (a / b) as i64,
        3 => (c * d) as i64,
        4 => (c - d) as i64,
        5 => (c << input.small) as i64,
        6 => (a >> input.small) as i64,
        7 => a.wrapping_add(b).wrapping_mul(3).rotate_right(3) as i64,
        8 => (c.rotate_left(5) ^ d.wrapping_shl(input.small as u32)) as i64,
        9 => (a.leading_zeros() + c.trailing_zeros() + a.count_zeros()) as i64,
        10 => (!a) as i64 + (!c) as i64,
        _ => a.saturating_sub(b) as i64 + c.saturating_add(d) as i64 + a.wrapping_neg() as i64,
    };
    table.cells[(input.operation % 8) as usize] = result as i32;
    table.sum = table.sum.rotate_left(7) ^ result as u64;
    ctx.reply(Output {
        words: [result as u64, table.sum, a as u64, c as u64, a as u8 as u64, d as i16 as u64, 0, 0],
    });
    Ok(())
}

#[device_handler(unchecked)]
pub(super) fn wrapping(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    let mut hash = input.a as u32 + 0x9E37_79B9;
    for round in 0..4 {
        hash *= 31 + round;
        hash ^= hash << (input.small + 29);
        hash -= input.b as u32;
    }
    table.sum += hash as u64 * table.sum;
    let negative = -(input.a as i32);
    ctx.reply(Output { words: [hash as u64, table.sum, negative as u64, negative.abs() as u64, 0, 0, 0, 0] });
    Ok(())
}

#[device_handler]
pub(super) fn floats(ctx: &mut DeviceContext<Output>, table: &mut Table, input: &Input) -> DeviceResult {
    let x = input.x;
    let y = input.y;
    let narrow = input.z;
    let a = 0.1 * x + y / 3.0 - x.mul_add(y, 1e-7);
    let b = (x % y).floor() + x.ceil().min(y) - (-y).trunc().max(x) + x.round().copysign(y);
    let c =
        narrow * 0.1 + (narrow - 16777217.0).abs().sqrt() * narrow.powi(3) + narrow.recip() * narrow.powi(-2);
    let a = a + TABLE[input.operation as usize % 3][table.cells.len() - 15];
    let is_special = x.is_nan() || y.is_infinite() || !narrow.is_finite();
    let cast = (x as i32 as u64) ^ (y as u8 as u64) << 8 ^ (narrow as i64 as u64) ^ (x as u64);
    table.mean = if is_special { table.mean } else { table.mean * 0.5 + 0.25 * f64::from(narrow) };
    let mut words = [0; 8];
    words[0] = if a.is_nan() { 1 } else { a.to_bits() };
    words[1] = if b.is_nan() { 1 } else { b.to_bits() };
    words[2] = if c.is_nan() { 1 } else { c.to_bits() as u64 };
    words[3] = cast;
    words[4] = table.mean.to_bits();
    words[5] = (input.a as f32).to_bits() as u64;
    words[6] = (input.b as u64 as f64 as f32 + x.signum() as f32 * f32::MAX * 0.25).to_bits() as u64;
    words[7] = (x < y) as u64 | ((x == y) as u64) << 1 | (x.is_sign_negative() as u64) << 2;
    if words[6] as u32 & 0x7FFF_FFFF > 0x7F80_0000 {
        words[6] = 1;
    }
    ctx.reply(Output { words });
    Ok(())
}
