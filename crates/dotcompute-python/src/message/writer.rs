//! Writes the parts of MessagePack that every value is made of.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rmp::encode as mp;

/// Maximum nesting depth, as in the package `msgpack`. It also stops a list that contains itself.
const MAX_DEPTH: usize = 511;

/// Key of the kind of a tagged value, `{"__py__": kind, "v": payload}`. A dictionary that contains it is itself written as a tagged value.
pub(super) const KIND: &str = "__py__";

/// The key in front of the kind, as it is written.
pub(super) const KIND_KEY: &[u8] = b"\xa6__py__";
/// The key in front of the payload.
pub(super) const PAYLOAD_KEY: &[u8] = b"\xa1v";

/// Converts a length. MessagePack lengths have at most 32 bits.
pub(super) fn length(len: usize) -> PyResult<u32> {
    u32::try_from(len).map_err(|_| {
        PyValueError::new_err(format!("{len} items or bytes exceed the MessagePack limit of 32 bits"))
    })
}

/// Converts the result of an `rmp` function. Writing to a `Vec` does not fail.
pub(super) fn written<T, E>(result: Result<T, E>) -> PyResult<()> {
    result.map(drop).map_err(|_| PyValueError::new_err("out of memory"))
}

/// Appends a string.
pub(super) fn string(out: &mut Vec<u8>, string: &str) -> PyResult<()> {
    length(string.len())?;
    written(mp::write_str(out, string))
}

/// Appends bytes.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) -> PyResult<()> {
    length(bytes.len())?;
    written(mp::write_bin(out, bytes))
}

/// Appends an id in the form of version 0.2.
pub(super) fn uuid(out: &mut Vec<u8>, id: &[u8; 16]) -> PyResult<()> {
    written(mp::write_map_len(out, 1))?;
    string(out, "__uuid_bin__")?;
    bytes(out, id)
}

/// Checks that a list or map may be written at a depth.
pub(super) fn check_depth(depth: usize) -> PyResult<()> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "values are nested more than {MAX_DEPTH} deep, or contain themselves; send flatter values"
    )))
}

/// Appends everything in front of the payload.
pub(super) fn start_tagged(out: &mut Vec<u8>, kind: &str) -> PyResult<()> {
    written(mp::write_map_len(out, 2))?;
    out.extend_from_slice(KIND_KEY);
    string(out, kind)?;
    out.extend_from_slice(PAYLOAD_KEY);
    Ok(())
}

/// Replaces the header of a map that was written at `at`, so that it becomes a tagged list of keys and values in turn.
pub(super) fn map_to_pairs(out: &mut Vec<u8>, at: std::ops::Range<usize>, len: usize) -> PyResult<()> {
    let mut header = Vec::with_capacity(24);
    start_tagged(&mut header, "dict")?;
    written(mp::write_array_len(&mut header, length(2 * len)?))?;
    out.splice(at, header);
    Ok(())
}
