#![allow(unused)]

use dotcompute_core::device::{DeviceContext, DeviceResult, device_handler};
use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Value {
    value: i64,
    cells: [i32; 4],
}

#[device_handler]
fn has_tuples(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let pair = (message.value, 1);
    Ok(())
}

#[device_handler]
fn has_a_char(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = 'x' as i64;
    Ok(())
}

#[device_handler]
fn has_text(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let name = "device";
    Ok(())
}

#[device_handler]
fn has_wide_numbers(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let product: u128 = 1;
    Ok(())
}

#[device_handler]
fn has_generic_types(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let best: Option<i64> = None;
    Ok(())
}

#[device_handler]
fn casts_to_an_alias(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = message.cells[0] as Price;
    Ok(())
}

type Price = i64;

#[device_handler]
fn leaves_the_type_open(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let mut count = 0;
    count += 1;
    state.value = count as i64;
    Ok(())
}

#[device_handler]
fn updates_a_struct(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    ctx.reply(Value { value: 1, ..*state });
    Ok(())
}

#[device_handler]
fn takes_a_struct_apart(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let Value { value, .. } = *message;
    Ok(())
}

#[device_handler]
fn is_inexact(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = (message.value as f64).exp() as i64;
    Ok(())
}

fn main() {}
