//! Python messages: serialization, and ids created on first read.
//!
//! | module | subject |
//! | --- | --- |
//! | [`encode`] | Python values to MessagePack |
//! | [`decode`] | MessagePack to Python values |
//! | [`tagged`] | both for values of other types than MessagePack's |
//! | [`plain`] | the plain types that a field declares |
//! | [`codec`] | both for the fields of one message class |
//! | [`errors`] | the class, the field and the cause |
//! | [`id`] | the id of a message, created on first read |
//! | [`python`] | operations on Python objects that PyO3 lacks |

mod codec;
mod decode;
mod encode;
mod errors;
mod id;
mod plain;
mod python;
mod tagged;

use pyo3::prelude::*;

pub(crate) use codec::class_mark;

/// Adds the names of this module to the extension module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<codec::MessageCodec>()?;
    module.add_class::<id::MessageIdField>()?;
    module.add_function(wrap_pyfunction!(codec::encode_message, module)?)?;
    module.add_function(wrap_pyfunction!(codec::decode_message, module)?)?;
    module.add_function(wrap_pyfunction!(codec::message_type_name, module)?)?;
    module.add_function(wrap_pyfunction!(decode::unpack, module)?)?;
    module.add_function(wrap_pyfunction!(id::lazy_message_id, module)?)?;
    module.add_function(wrap_pyfunction!(id::discard_spare_ids, module)?)?;
    Ok(())
}
