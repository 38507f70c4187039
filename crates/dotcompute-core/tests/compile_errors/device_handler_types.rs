#![allow(unused)]

use dotcompute_core::device::{DeviceContext, DeviceResult, device_handler};
use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy, PartialEq)]
#[message(record)]
#[repr(C)]
struct Value {
    value: i64,
    cells: [i32; 4],
}

const LOCAL: Local = Local { value: 1 };

struct Local {
    value: i64,
}

fn plain(value: i64) -> i64 {
    value
}

#[device_handler]
fn compares_structs(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    if *state == *message {
        state.value = 0;
    }
    Ok(())
}

#[device_handler]
fn adds_references(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    for cell in message.cells.iter() {
        state.cells[0] = cell + cell;
    }
    Ok(())
}

#[device_handler]
fn has_a_constant(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = LOCAL.value;
    Ok(())
}

#[device_handler]
fn has_a_struct_of_its_own(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let local = Local { value: message.value };
    state.value = local.value;
    Ok(())
}

#[device_handler]
fn calls_a_function_of_the_host(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = plain(message.value);
    Ok(())
}

fn main() {}
