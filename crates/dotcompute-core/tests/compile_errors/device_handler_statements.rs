#![allow(unused)]

use dotcompute_core::device::{DeviceContext, DeviceError, DeviceResult, device_handler};
use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Value {
    value: i64,
    cells: [i32; 4],
}

#[device_handler]
fn prints(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    println!("{}", message.value);
    Ok(())
}

#[device_handler]
fn panics(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    assert!(message.value > 0);
    Ok(())
}

#[device_handler]
fn allocates(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let numbers = vec![0; 4];
    Ok(())
}

#[device_handler]
fn calls_a_closure(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let double = |x: i64| x * 2;
    Ok(())
}

#[device_handler]
fn returns_the_error_of_another(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    Err(DeviceError::new(1))?;
    Ok(())
}

#[device_handler]
fn iterates(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    for (index, cell) in message.cells.iter().enumerate() {
        state.cells[index] = *cell;
    }
    Ok(())
}

#[device_handler]
fn sums(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = message.cells.iter().sum::<i32>() as i64;
    Ok(())
}

#[device_handler]
fn counts_without_end(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    for index in 0.. {
        state.value = index;
    }
    Ok(())
}

#[device_handler]
fn leaves_a_block(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    'block: {
        break 'block;
    }
    Ok(())
}

#[device_handler]
fn takes_a_part(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    state.value = message.cells[1..3].len() as i64;
    Ok(())
}

#[device_handler]
fn matches_a_let(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    if let 3 = message.value {
        state.value = 3;
    }
    Ok(())
}

#[device_handler]
fn is_configured(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    #[cfg(debug_assertions)]
    state.value = 1;
    Ok(())
}

#[device_handler]
fn selects_a_reference(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let selected = if message.value > 0 { message } else { state };
    Ok(())
}

#[device_handler]
fn moves_a_reference(ctx: &mut DeviceContext<Value>, state: &mut Value, message: &Value) -> DeviceResult {
    let mut cell = &mut state.cells[0];
    cell = &mut state.cells[1];
    Ok(())
}

fn main() {}
