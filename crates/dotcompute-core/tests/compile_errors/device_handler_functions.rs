#![allow(unused)]

use dotcompute_core::device::{DeviceContext, DeviceResult, device_fn, device_handler};
use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Value {
    value: i64,
    cells: [i32; 4],
}

#[device_handler]
fn has_no_result(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) {}

#[device_handler]
fn takes_the_message(ctx: &mut DeviceContext<Value>, state: &mut Value, message: Value) -> DeviceResult {
    Ok(())
}

#[device_handler]
async fn waits(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    Ok(())
}

#[device_handler(fast)]
fn has_an_unknown_option(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    Ok(())
}

#[device_fn]
fn is_generic<T>(value: T) -> T {
    value
}

#[device_fn]
fn factorial(n: u64) -> u64 {
    if n < 2 { 1 } else { n * factorial(n - 1) }
}

#[device_fn]
fn returns_a_reference(value: &Value) -> &i64 {
    &value.value
}

struct Counter;

impl Counter {
    #[device_fn]
    fn next(&mut self) -> u64 {
        0
    }
}

#[device_handler]
fn passes_the_context(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    answer(ctx);
    Ok(())
}

#[device_handler]
fn calls_a_method(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.add(message.value);
    Ok(())
}

#[device_handler]
fn creates(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    *state = Value::default();
    Ok(())
}

#[device_handler]
fn asks_for_its_block(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    ctx.stop();
    Ok(())
}

#[device_handler]
fn computes_its_result(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let result = message.value;
    result
}

fn main() {}
